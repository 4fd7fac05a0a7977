"""How often we answer whom: token buckets, in a table of bounded size."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_UNLIMITED: Final = float("inf")


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


class Allowance:
    """So many packets and bytes a second, at most a second's worth of them at once.

    Nobody asks what time it is while something is left: so at most twice as much passes at once
    as in a second. A rate of 0 is no limit.

    Attributes:
        packets: that may still pass before ``refill``; ``bytes`` likewise.
        bytes: see ``packets``.
    """

    __slots__ = ("_bandwidth", "_rate", "_since", "bytes", "packets")

    def __init__(self, packets: float, bandwidth: float, now: float) -> None:
        self._rate = packets or _UNLIMITED
        self._bandwidth = bandwidth or _UNLIMITED
        self._since = now
        self.packets, self.bytes = self._rate, self._bandwidth

    def take(self, size: int, now: Callable[[], float]) -> bool:
        """Take one packet of ``size`` bytes; False when it has to be dropped."""
        if (self.packets < 1 or self.bytes < size) and not self.refill(size, now()):
            return False
        self.packets -= 1
        self.bytes -= size
        return True

    def refill(self, size: int, now: float) -> bool:
        """Add what has been earned since the last time; whether a packet may pass now."""
        passed, self._since = max(0.0, now - self._since), now
        self.packets = min(self._rate, self.packets + passed * self._rate)
        self.bytes = min(self._bandwidth, self.bytes + passed * self._bandwidth)
        return self.packets >= 1 and self.bytes >= size


def network(address: str) -> str:
    """The unit that a limit is about: an IPv4 address, or an IPv6 /64."""
    if ":" not in address:
        return address
    try:
        return ipaddress.IPv6Address(address.partition("%")[0]).packed[:8].hex()
    except ValueError:
        return address
