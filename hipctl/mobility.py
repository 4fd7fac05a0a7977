"""Between which addresses an association speaks: moves of either side, failover on silence.

RFC 8046 and RFC 8047. This decides; ``upkeep`` makes and reads the UPDATEs. Only one path is used
at a time, for both sides' addresses share one pair of SAs.
"""

from collections.abc import Sequence
from typing import Final

from hipctl import crypto, params
from hipctl.actions import Address, Pair, Path
from hipctl.constants import LocatorType
from hipctl.crypto import Keys
from hipctl.errors import Rejected
from hipctl.locators import Credit, PeerLocators, Status
from hipctl.packet import Packet
from hipctl.params_mobility import UNBOUNDED
from hipctl.sas import SaPair
from hipctl.state import Shared
from hipctl.wire import frame

_IV_LENGTH: Final = 16
_PATHS_MAX: Final = 8  # that are probed at once
_PROBES_MAX: Final = 4  # of addresses that one LOCATOR_SET names
_CALL_RATE: Final = 5.0  # packets a second, each way, that make a flow call-like
_CALL_PAUSE: Final = 2.0  # seconds without sending that end it
_LOOKS: Final = 5  # looks while ``silence`` passes
_SLOW_LOOK: Final = 2.0  # seconds between looks at one in use that has several paths
_PATIENCE_MAX: Final = 16.0  # seconds: a stream that nobody answers is not probed all the time


class Mobility:
    """The paths of one association.

    Attributes:
        peer: the peer's addresses.
        ours: our own, the preferred one first; empty while nobody has told us.
        told: the peer knows them.
    """

    __slots__ = (
        "_active",
        "_busy_at",
        "_call",
        "_credit",
        "_granted",
        "_looked",
        "_pair",
        "_patience",
        "_sas",
        "_searched_at",
        "_searching",
        "_shared",
        "ours",
        "peer",
        "told",
    )

    def __init__(self, pair: Pair, sas: SaPair, shared: Shared, now: float) -> None:
        self._pair = pair
        self._sas = sas
        self._shared = shared
        self.peer = PeerLocators(sas.outbound.address)
        self.ours = shared.locators
        self.told = len(self.ours) < 2  # the one that the exchange has shown needs no telling
        self._credit = Credit(now)
        self._granted = 0
        self._looked = (now, 0, 0)  # when, packets sent, packets received
        self._active = False  # something was sent or received between the last two looks
        self._call = False
        self._busy_at = now
        self._patience = shared.config.silence
        self._searching = False
        self._searched_at = now

    # -- paths ---------------------------------------------------------------------------------

    def path(self) -> Path:
        """The one in use."""
        outbound = self._sas.outbound
        return Path(outbound.source, outbound.address)

    def paths(self) -> list[Path]:
        """All that could work, the best first; at most 8."""
        found = [
            Path(source, known.address)
            for known in self.peer.ranked(self._sas.outbound.address)
            for source in self._sources(known.address)
        ]
        return found[:_PATHS_MAX]

    def to(self, to: Address) -> Path:
        """How to reach ``to``."""
        return Path(self._source(to), to)

    def _source(self, to: Address) -> Address | None:
        """From where: as before, else where the packet in hand came, else our preferred one."""
        ours, outbound = self._sources(to), self._sas.outbound
        if not ours:
            return None
        if outbound.source in ours or (outbound.source is None and to == outbound.address):
            return outbound.source
        here = self._shared.here
        return here if here in ours else ours[0]

    def _sources(self, to: Address) -> Sequence[Address | None]:
        if not self.ours:
            return (None,)
        six = ":" in to[0]
        return [address for address in self.ours if (":" in address[0]) is six]

    def _better(self) -> Path | None:
        """The path to use, as far as we know; None if there is none."""
        for known in self.peer.ranked(self._sas.outbound.address):
            if self._sources(known.address):
                return self.to(known.address)
        return None

    def choose(self, now: float) -> None:
        """Use the best path, which the one in use may still be."""
        self.use(self._better() or self.path(), now)

    def use(self, path: Path, now: float) -> None:
        """Send data there; no more than the peer's credit if the address is not verified."""
        outbound, shared = self._sas.outbound, self._shared
        if path.to != outbound.address:
            shared.counters["path changed"] += 1
        outbound.aim(path.to, path.source)
        known = self.peer.get(path.to)
        if known is not None and known.verified:
            self._settle()
            outbound.sa.unmeter()
            shared.remember(self._pair[1], path.to)
        else:
            self._meter(now)

    def _meter(self, now: float) -> None:
        """Grant what the peer has earned since, less what was spent."""
        self._settle()
        self._granted = self._credit.look(self._sas.inbound.sa.received(), now)
        self._sas.outbound.sa.meter(self._granted)

    def _settle(self) -> None:
        """Subtract from the credit what was spent of it."""
        sa = self._sas.outbound.sa
        if sa.metered:
            self._credit.spend(self._granted - sa.credit)

    def rekeyed(self, now: float) -> None:
        """The SAs are other ones now; the path stays."""
        self._looked = (now, 0, 0)
        self.use(self.path(), now)

    # -- we move -------------------------------------------------------------------------------

    def move(self, ours: tuple[Address, ...], now: float) -> None:
        """Our addresses are others now.

        Where the address in use is gone, data leaves from another one at once; where it is
        still there, the new path is used after the peer has answered on it.
        """
        outbound, before = self._sas.outbound, self.ours
        current = outbound.source or _first(before, outbound.address)
        self.ours, self.told = ours, False
        if not ours:
            return
        self._consider_contacts()
        if current in ours:
            outbound.aim(outbound.address, current)
        elif current is not None or not before:
            paths = self.paths()
            self.use(paths[0] if paths else Path(None, outbound.address), now)

    def telling(self) -> list[Path]:
        """The paths on which to tell the peer of our addresses: from the preferred one first."""
        ranked = self.peer.ranked(self._sas.outbound.address)
        return [
            Path(source, known.address)
            for source in self.ours
            for known in ranked
            if (":" in known.address[0]) is (":" in source[0])
        ][:_PATHS_MAX]

    def _consider_contacts(self) -> None:
        """What others told us about where the peer is, is better than nothing."""
        for address in self._shared.addresses(self._pair[1]):
            if self.peer.get(address) is None:
                self.peer.candidate(address)

    def said(self, spi: int, keys: Keys) -> params.Parameter:
        """LOCATOR_SET with all our addresses (RFC 8046 §5.2).

        Over UDP it names the ports and is encrypted, as RFC 9028 §5.7 demands.
        """
        udp, rng = self._shared.config.udp, self._shared.rng
        kind = LocatorType.TRANSPORT_ADDRESS if udp else LocatorType.SPI_ADDRESS
        listed = params.LocatorSet(
            tuple(
                params.Locator(kind, ip, port if udp else 0, spi, UNBOUNDED, preferred=not i)
                for i, (ip, port) in enumerate(self.ours)
            )
        )
        if not udp:
            return listed
        plain = frame(listed.TYPE, listed.content())
        return params.Encrypted(crypto.encrypt(keys.encrypt_out, rng(_IV_LENGTH), plain))

    # -- the peer moves ------------------------------------------------------------------------

    def take(
        self, listed: Sequence[params.Locator] | None, source: Address, now: float
    ) -> list[Path]:
        """Take a LOCATOR_SET, or where another UPDATE came from; return what to verify."""
        if listed is None:
            self.peer.candidate(source)
        else:
            self.peer.replace(listed, source[1], source, now)
        unsure = [known for known in self.peer if known.status is Status.UNVERIFIED]
        if listed is None:
            unsure = [known for known in unsure if known.address == source]
        unsure.sort(key=lambda known: (known.address != self.peer.preferred, not known.listed))
        wanted = [self._asking(known.address, source) for known in unsure]
        possible = [path for path in wanted if self._sources(path.to)]
        if listed is not None:
            self.choose(now)
        else:
            self.use(self.path(), now)  # which may need to be verified again
        return possible[:_PROBES_MAX]

    def _asking(self, address: Address, source: Address) -> Path:
        """How to ask who is at ``address``: from where we were spoken to, if it was from there."""
        here = self._shared.here
        if address == source and here in self._sources(address):
            return Path(here, address)
        return self.to(address)

    def answered(self, path: Path, now: float) -> bool:
        """The peer has echoed what we sent along ``path``; True: tell it where we prefer to be.

        Who looks for a path takes the first that works. Else it is the preferred one.
        """
        self.peer.verify(path.to)
        current = self.path()
        if path.to == current.to:
            self.use(current, now)  # without the limit of an unverified address
        if self.ours and path.source is not None and path.source not in self.ours:
            return False  # that was before we moved
        if self._searching:
            self._searching = False
            if path == current or (path.to == current.to and not self.ours):
                return False
            if path.to != current.to:
                self.peer.doubt(current.to)
            self.use(path, now)
            if path.source is None or path.source == current.source:
                return False
            self.ours = (path.source, *(ours for ours in self.ours if ours != path.source))
            return True
        known = self.peer.get(current.to)
        if known is None or known.status is not Status.ACTIVE or self._prefers(path, current):
            self.use(path, now)
        self.choose(now)
        return False

    def _prefers(self, path: Path, current: Path) -> bool:
        """Whether ``path`` leaves from an address of ours that comes first."""
        if path.source is None or path.source == current.source:
            return False
        if current.source is None or current.source not in self.ours:
            return True
        return self.ours.index(path.source) < self.ours.index(current.source)

    # -- silence -------------------------------------------------------------------------------

    def look(self, heard_at: float, now: float) -> list[Path]:
        """See whether a call still hears its peer; return the paths to try if not."""
        sas, (since, sent_before, received_before) = self._sas, self._looked
        sa = sas.outbound.sa
        sent, received = sa.packets, sas.inbound.sa.packets
        self._looked = (now, sent, received)
        self._active = (sent, received) != (sent_before, received_before)
        if sa.metered:
            self._meter(now)
        else:
            self._credit.look(sas.inbound.sa.received(), now)
        least = _CALL_RATE * (now - since)
        busy = sent - sent_before >= least > 0
        if busy:
            self._busy_at = now
            self._call |= received - received_before >= least
        elif now - self._busy_at > _CALL_PAUSE:
            self._call = False
        if heard_at > since:
            self._patience, self._searched_at = self._shared.config.silence, heard_at
            self._searching = False
        quiet = now - max(heard_at, self._searched_at)
        if not (self._call and busy) or quiet < self._patience:
            return []
        return self._search(now)

    def questioned(self, heard_at: float, now: float) -> list[Path]:
        """The peer asks who is there; return the paths to try if we don't hear it either.

        It has noticed first. Once it speaks along another path we hear it again, and would not
        notice that it doesn't hear us.
        """
        quiet = now - max(heard_at, self._searched_at)
        if not self._call or quiet < self._shared.config.silence / 2:
            return []
        return self._search(now)

    def _search(self, now: float) -> list[Path]:
        self._patience = min(self._patience * 2, _PATIENCE_MAX)
        self._searching, self._searched_at = True, now
        self._shared.counters["silence"] += 1
        self._consider_contacts()
        return self.paths()

    def next_look(self) -> float | None:
        """Seconds until the next look; None: the association's own pace will do."""
        if self._call or self._sas.outbound.sa.metered:
            return self._shared.config.silence / _LOOKS
        if self._active and (len(self.ours) > 1 or sum(known.listed for known in self.peer) > 1):
            return _SLOW_LOOK
        return None

    @property
    def in_use(self) -> bool:
        """Whether enough was sent that the peer may learn of our other addresses."""
        return self._sas.outbound.sa.packets >= _CALL_RATE


def read_locator_set(packet: Packet, keys: Keys) -> tuple[params.Locator, ...] | None:
    """The LOCATOR_SET of an authentic packet, in clear or out of ENCRYPTED.

    Raises:
        MalformedPacket: it is not well formed.
        Rejected: ENCRYPTED cannot be read, or holds what must not be ignored.
    """
    clear = packet.get(params.LocatorSet)
    if clear is not None:
        return clear.locators
    encrypted = packet.get(params.Encrypted)
    if encrypted is None:
        return None
    inner = params.decode(crypto.decrypt(keys.encrypt_in, encrypted.ciphertext))
    if any(isinstance(found, params.Unknown) and found.critical for found in inner):
        raise Rejected("unknown critical parameter")
    sets = [found for found in inner if isinstance(found, params.LocatorSet)]
    return sets[0].locators if sets else None


def _first(ours: Sequence[Address], to: Address) -> Address | None:
    six = ":" in to[0]
    return next((address for address in ours if (":" in address[0]) is six), None)
