"""How often we answer whom: token buckets, in a table of bounded size."""

import ipaddress
from collections import OrderedDict


class Limiter:
    """One token bucket a key; the key least recently seen makes room for a new one."""

    def __init__(self, rate: float, burst: int, keys: int) -> None:
        """Allow ``burst`` at once and ``rate`` a second, for at most ``keys`` keys."""
        self._rate = rate
        self._burst = float(burst)
        self._keys = keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, key: str, now: float) -> bool:
        """Take one token; False when there is none."""
        tokens, since = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[key] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        return allowed

    def exhausted(self, key: str, now: float) -> bool:
        """Whether ``allow`` would say False; takes nothing and remembers nobody."""
        bucket = self._buckets.get(key)
        return bucket is not None and bucket[0] + (now - bucket[1]) * self._rate < 1.0


def network(address: str) -> str:
    """The unit that a limit is about: an IPv4 address, or an IPv6 /64."""
    if ":" not in address:
        return address
    try:
        return ipaddress.IPv6Address(address.partition("%")[0]).packed[:8].hex()
    except ValueError:
        return address
