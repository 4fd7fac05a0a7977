"""One host that is registered with us: how it is reached, and how much may pass for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hipctl.actions import Address, Pair, Path
from hipctl.crypto import Keys
from hipctl.identity import Hit
from hipctl.limits import Allowance

_GRANT_PACKETS: Final = 64  # that an account draws from its limits at once,
_GRANT_BYTES: Final = 65_536  # and bytes: so much of all clients' limit one may hold unused


class Account:
    """What passes for one client under one registration, and how much more may.

    A grant of packets and bytes is drawn from the limits now and then, so that the fast path only
    subtracts from it: ``packets_left`` 1, ``bytes_left`` the size, or else asks ``pays``.

    Attributes:
        packets_left: of the grant.
        bytes_left: of the grant.
        dropped: packets beyond the limits, or not allowed.
    """

    __slots__ = (
        "_bytes",
        "_kept",
        "_own",
        "_packets",
        "_total",
        "bytes_left",
        "dropped",
        "packets_left",
    )

    def __init__(self, own: Allowance, total: Allowance, kept: float = 0.0) -> None:
        """Set up.

        Args:
            own: what may pass for this client.
            total: for all.
            kept: which share of ``total`` it leaves to other accounts.
        """
        self.packets_left = self.bytes_left = self.dropped = 0
        self._packets = self._bytes = 0  # granted so far
        self._own, self._total, self._kept = own, total, kept

    @property
    def packets(self) -> int:
        """Forwarded so far."""
        return self._packets - self.packets_left

    @property
    def bytes(self) -> int:
        """Their UDP payloads."""
        return self._bytes - self.bytes_left

    def limit(self, own: Allowance, total: Allowance, kept: float = 0.0) -> None:
        """Other limits hold from now on."""
        self._own, self._total, self._kept = own, total, kept
        self._packets -= self.packets_left
        self._bytes -= self.bytes_left
        self.packets_left = self.bytes_left = 0

    def pays(self, size: int, now: Callable[[], float]) -> bool:
        """Whether a packet of ``size`` bytes may pass; it counts as passed, or as dropped."""
        if (self.packets_left < 1 or self.bytes_left < size) and not self._draw(size, now()):
            self.dropped += 1
            return False
        self.packets_left -= 1
        self.bytes_left -= size
        return True

    def spares(self, share: float, now: float) -> bool:
        """Whether so much is left of what the client may have at once."""
        return self._own.spares(share, now, self.packets_left, self.bytes_left)

    def _draw(self, size: int, now: float) -> bool:
        """Get another grant; False if not even this packet may pass."""
        own, own_bytes = self._own.left(now)
        total, total_bytes = self._total.left(now, self._kept)
        # what is left of either is not added to, or it would be saved up without end
        packets = max(0, int(min(own, total, _GRANT_PACKETS - self.packets_left)))
        several = max(0, int(min(own_bytes, total_bytes, _GRANT_BYTES - self.bytes_left)))
        if self.packets_left + packets < 1 or self.bytes_left + several < size:
            return False
        for limit in (self._own, self._total):
            limit.take(packets, several)
        self.packets_left += packets
        self.bytes_left += several
        self._packets += packets
        self._bytes += several
        return True


@dataclass(slots=True, eq=False)
class Client:
    """Somebody who is registered with us.

    Attributes:
        pair: (our HIT, its HIT).
        keys: of the association: hop MACs are made and checked with them.
        path: how it is reached; None while nobody has answered where it says that it is.
        expires: by type, monotonic seconds.
        accounts: by type.
        relayed: the address that is open for it.
        listed: where it has said that it is.
        networks: by type, whence it has asked last, see ``limits.network``.
        alarm: for the registrar: when it looks at this client next.
    """

    pair: Pair
    keys: Keys
    path: Path | None
    expires: dict[int, float] = field(default_factory=dict)
    accounts: dict[int, Account] = field(default_factory=dict)
    relayed: Address | None = None
    listed: set[Address] = field(default_factory=set)
    networks: dict[int, str] = field(default_factory=dict)
    alarm: float | None = None

    @property
    def hit(self) -> Hit:
        """Its HIT."""
        return self.pair[1]
