"""Between which addresses an association speaks: moves of either side, failover on silence.

RFC 8046 and RFC 8047. This decides; ``upkeep`` makes and reads the UPDATEs. Only one path is used
at a time, for both sides' addresses share one pair of SAs.
"""

from collections.abc import Sequence
from typing import Final

from hipctl import crypto, params
from hipctl.actions import Address, Pair, Path, plain
from hipctl.candidates import from_locators, to_locators
from hipctl.checks import Ask
from hipctl.constants import LOCATORS_MAX, LocatorType
from hipctl.crypto import Keys
from hipctl.flow import CALL_RATE, Flow
from hipctl.locators import Credit, PeerLocators, Status
from hipctl.params_mobility import UNBOUNDED
from hipctl.sas import SaPair
from hipctl.state import Shared
from hipctl.wire import frame

_IV_LENGTH: Final = 16
_SIGNALING: Final = 1  # Traffic Type
_PATHS_MAX: Final = 8  # that are probed at once
_PROBES_MAX: Final = 4  # of addresses that one LOCATOR_SET names
_LOOKS: Final = 5  # looks while ``silence`` passes
_SLOW_LOOK: Final = 2.0  # seconds between looks at one in use that has several paths


class Mobility:
    """The paths of one association.

    Attributes:
        peer: the peer's addresses.
        ours: our own, the preferred one first; empty while nobody has told us.
        told: the peer knows them.
    """

    __slots__ = (
        "_credit",
        "_flow",
        "_granted",
        "_pair",
        "_relays",
        "_sas",
        "_searching",
        "_shared",
        "direct_at",
        "first_at",
        "ours",
        "peer",
        "told",
    )

    def __init__(self, pair: Pair, sas: SaPair, shared: Shared, now: float) -> None:
        self._pair = pair
        self._sas = sas
        self._shared = shared
        self.first_at = self.direct_at = now  # the exchange has shown that the path works
        self.peer = PeerLocators(sas.outbound.address)
        self._relays: Sequence[Address] = ()  # the peer's, for control packets only
        self.ours = shared.locators
        self.told = len(self.ours) < 2  # the one that the exchange has shown needs no telling
        self._credit = Credit(now)
        self._granted = 0
        self._flow = Flow(shared.config.silence, now)
        self._searching = False

    # -- what ``traversal`` does otherwise -----------------------------------------------------

    reachable: Final = True
    failed: Final = False
    lost: Final = False
    relayed: Final = False
    disclosed: Final = True

    def describe(self) -> list[dict[str, object]]:
        """The peer's addresses and what we know about each, JSON-ready."""
        return [
            {
                "address": list(known.address),
                "status": known.status.name,
                "preferred": known.address == self.peer.preferred,
            }
            for known in self.peer
        ]

    @property
    def heeds_order(self) -> bool:
        """Whether a LOCATOR_SET may have been overtaken by a later one."""
        return self.peer.told

    def learn(self, listed: Sequence[params.Locator], now: float) -> None:
        """Take the LOCATOR_SET of a base exchange; its addresses are verified before use."""
        self._replace([one for one in listed if one.ip], self.path().to, now)

    def _replace(self, listed: Sequence[params.Locator], source: Address, now: float) -> None:
        """Take what the peer lists; its control relays alone say nothing of where it is."""
        _, self._relays = from_locators(listed, source)
        data = [one for one in listed if one.traffic != _SIGNALING]
        if data or not self._relays:
            self.peer.replace(data, source[1], source, now)

    def disclose(self, now: float) -> None:
        """The peer knows where we are: it speaks with us directly."""

    def own(self, path: Path) -> bool:
        """Whether the peer itself is there: that was verified, see ``answered``."""
        return True

    def heard(self, path: Path, now: float, *, relayed: bool, check: bool) -> None:
        """A control packet of the peer's came along a path."""

    def expire(self, now: float) -> bool:
        """Deprecate addresses whose lifetime has ended; True if there are any."""
        return self.peer.expire(now)

    def next_expiry(self) -> float | None:
        """When the next lifetime ends."""
        return self.peer.next_expiry()

    def rekeying(self, spi_out: int, spi_in: int) -> None:
        """Nobody on the way looks at SPIs."""

    def on_request(self, path: Path, shown: int, nominated: bool, now: float) -> Ask | None:
        """A connectivity check, which nobody has agreed on: it is acknowledged."""
        return None

    def on_response(self, ask: Ask, came: Path, mapped: Address, now: float) -> bool:
        """We send none."""
        return False

    def on_given_up(self, ask: Ask, now: float) -> None:
        """We send none."""

    def asks(self, now: float) -> list[Ask]:
        """We send none."""
        return []

    def wanted(self, ask: Ask) -> bool:
        """We send none."""
        return False

    def deadline(self) -> float | None:
        """Nothing here has a time of its own."""
        return None

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
            shared.serving.moved(self._pair, path)
        else:
            self._meter(now)
            shared.serving.moved(self._pair, None)

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
        self._flow.restart(now)
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
        """The paths on which to tell the peer of our addresses: from the preferred one first.

        Then its control relay, for where a NAT stands before it, it may not hear us directly.
        """
        ranked = self.peer.ranked(self._sas.outbound.address)
        direct = self._from_each([known.address for known in ranked])
        return [*direct[:1], *self._from_each(self._servers()), *direct[1:]][:_PATHS_MAX]

    def detours(self) -> list[Path]:
        """Paths through relays of the peer's (RFC 9028 §4.8)."""
        return self._from_each(self._servers())

    def _servers(self) -> Sequence[Address]:
        """Servers that pass UPDATEs on to the peer: what it has said, else what others have."""
        return self._relays or self._shared.through.get(self._pair[1], ())

    def _from_each(self, to: Sequence[Address]) -> list[Path]:
        return [
            Path(source, address)
            for source in self.ours
            for address in to
            if (":" in address[0]) is (":" in source[0])
        ]

    @property
    def spread(self) -> int:
        """On how many of these to tell it at once."""
        return 2 if self._servers() else 1

    def _consider_contacts(self) -> None:
        """What others told us about where the peer is, is better than nothing."""
        for address in self._shared.direct(self._pair[1]):
            if self.peer.get(address) is None:
                self.peer.candidate(address)

    def said(self, spi: int, keys: Keys) -> params.Parameter:
        """LOCATOR_SET with all our addresses (RFC 8046 §5.2).

        Over UDP it names the ports and is encrypted, as RFC 9028 §5.7 demands.
        """
        udp, rng = self._shared.config.udp, self._shared.rng
        kind = LocatorType.TRANSPORT_ADDRESS if udp else LocatorType.SPI_ADDRESS
        listed = params.LocatorSet(
            (
                *(
                    params.Locator(kind, ip, port if udp else 0, spi, UNBOUNDED, preferred=not i)
                    for i, (ip, port) in enumerate(self.ours)
                ),
                *to_locators((), spi, LOCATORS_MAX, self._shared.relays(self._pair[0])),
            )
        )
        if not udp:
            return listed
        plain = frame(listed.TYPE, listed.content())
        return params.Encrypted(crypto.encrypt(keys.encrypt_out, rng(_IV_LENGTH), plain))

    # -- the peer moves ------------------------------------------------------------------------

    def hears(self, address: Address) -> bool:
        """Whether the peer has answered from there, or spoken last."""
        known = self.peer.get(address)
        return address == self.peer.spoke_from or (known is not None and known.verified)

    def take(
        self, listed: Sequence[params.Locator] | None, source: Address, now: float
    ) -> list[Path]:
        """Take a LOCATOR_SET, or where another UPDATE came from; return what to verify.

        Through a relay of ours comes no data: what it tells of is the peer's own address.
        """
        source = self.peer.spoke_from = plain(source)
        if listed is None:
            self.peer.candidate(source)
        else:
            self._replace(listed, source, now)
        unsure = [known for known in self.peer if known.status is Status.UNVERIFIED]
        if listed is None:
            unsure = [known for known in unsure if known.address == source]
        unsure.sort(key=lambda known: (known.address != self.peer.preferred, not known.listed))
        wanted = [self._asking(known.address, source) for known in unsure]
        possible = [path for path in wanted if self._sources(path.to)]
        better, asked = self._better(), {path.to for path in possible}
        if better is not None and better.to == source not in {self.path().to, *asked}:
            possible.insert(0, self._asking(source, source))
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

    def answered(self, path: Path, now: float, *, straight: bool) -> bool:
        """The peer has echoed what we sent along ``path``; True: tell it where we prefer to be.

        Who looks for a path takes the first that works. Else it is the preferred one.

        An echo that a server has passed on, or that comes from elsewhere, does not show that the
        peer itself is there (RFC 8046 §5.4): servers that took each other for their client would
        send to each other for ever what comes for that.
        """
        if not straight or self.peer.get(path.to) is None:
            return False
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
        sas, flow = self._sas, self._flow
        sa = sas.outbound.sa
        if sa.metered:
            self._meter(now)
        else:
            self._credit.look(sas.inbound.sa.received(), now)
        quiet = flow.look(sa.packets, sas.inbound.sa.packets, heard_at, now)
        if flow.heard:
            self._searching = False
        return self._search() if quiet else []

    def questioned(self, heard_at: float, now: float) -> list[Path]:
        """The peer asks who is there; return the paths to try if we don't hear it either."""
        return self._search() if self._flow.doubts(heard_at, now) else []

    def _search(self) -> list[Path]:
        self._searching = True
        self._shared.counters["silence"] += 1
        self._consider_contacts()
        return self.paths()

    def next_look(self) -> float | None:
        """Seconds until the next look; None: the association's own pace will do."""
        flow = self._flow
        if flow.call or self._sas.outbound.sa.metered:
            return self._shared.config.silence / _LOOKS
        if flow.active and (len(self.ours) > 1 or sum(known.listed for known in self.peer) > 1):
            return _SLOW_LOOK
        return None

    @property
    def in_use(self) -> bool:
        """Whether enough was sent that the peer may learn of our other addresses."""
        return self._sas.outbound.sa.packets >= CALL_RATE


def _first(ours: Sequence[Address], to: Address) -> Address | None:
    six = ":" in to[0]
    return next((address for address in ours if (":" in address[0]) is six), None)
