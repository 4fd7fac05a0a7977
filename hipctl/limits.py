"""How often we answer whom: token buckets, in a table of bounded size."""

import ipaddress
from collections import OrderedDict
from typing import Final

_UNLIMITED: Final = float("inf")
_PACKET: Final = 2_048.0  # bytes of one


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


class Damper:
    """Lets something happen at once, but ever more seldom while it goes on.

    Args:
        first: seconds until the second time; they double with each time …
        most: … up to so many. What has been quiet for so long after that begins anew.

    Attributes:
        until: when it may happen again, monotonic seconds.
    """

    __slots__ = ("_first", "_gap", "_most", "until")

    def __init__(self, first: float, most: float) -> None:
        self._first, self._most = first, most
        self._gap, self.until = first, float("-inf")

    def allow(self, now: float) -> bool:
        """Whether it may happen now; then it counts as having happened."""
        if now < self.until:
            return False
        quiet = now - self.until >= self._most
        self._gap = self._first if quiet else min(2 * self._gap, self._most)
        self.until = now + self._gap
        return True

    def calm(self) -> None:
        """Begin anew."""
        self._gap, self.until = self._first, float("-inf")


class Allowance:
    """So many packets and bytes a second, at most those of ``burst`` seconds at once.

    One packet passes at once however low the rate is; a rate of 0 is no limit.
    """

    __slots__ = ("_bandwidth", "_bytes", "_most", "_most_bytes", "_packets", "_rate", "_since")

    def __init__(self, packets: float, bandwidth: float, now: float, burst: float = 1.0) -> None:
        self._rate = packets or _UNLIMITED
        self._bandwidth = bandwidth or _UNLIMITED
        self._since = now
        self._most = max(self._rate * burst, 1.0)
        self._most_bytes = max(self._bandwidth * burst, _PACKET)
        self._packets, self._bytes = self._most, self._most_bytes

    def left(self, now: float, kept: float = 0.0) -> tuple[float, float]:
        """Packets and bytes that may pass now.

        Args:
            now: monotonic seconds.
            kept: which share of what passes at once is for others; but for one packet.
        """
        passed, self._since = max(0.0, now - self._since), now
        if passed:
            self._packets = min(self._most, self._packets + passed * self._rate)
            self._bytes = min(self._most_bytes, self._bytes + passed * self._bandwidth)
        if not kept:
            return self._packets, self._bytes
        return (
            _beyond(self._packets, kept, self._most, 1.0),
            _beyond(self._bytes, kept, self._most_bytes, _PACKET),
        )

    def spares(self, share: float, now: float, packets: int, size: int) -> bool:
        """Whether that share of what passes at once is left, with what was taken and not used."""
        left, left_bytes = self.left(now)
        enough = left + packets >= share * self._most
        return enough and left_bytes + size >= share * self._most_bytes

    def take(self, packets: float, size: float) -> None:
        """So much passes; no more than was left."""
        self._packets -= packets
        self._bytes -= size


def _beyond(left: float, kept: float, most: float, least: float) -> float:
    return left if most == _UNLIMITED else max(0.0, left - min(kept * most, most - least))


def network(address: str) -> str:
    """The unit that a limit is about: an IPv4 address, or an IPv6 /64."""
    if ":" not in address:
        return address
    try:
        return ipaddress.IPv6Address(address.partition("%")[0]).packed[:8].hex()
    except ValueError:
        return address
