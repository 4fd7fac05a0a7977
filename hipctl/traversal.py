"""Between which addresses an association speaks that began through a relay (RFC 9028 §4.6, §4.9).

``checks`` finds and keeps the path; this gives it both sides' candidates, tells the peer of ours
through its control relays when they change, and has our data relays let the peer in. ``upkeep``
makes and reads the UPDATEs. Beside ``mobility``, which does the same for associations that began
without a relay.
"""

from collections.abc import Sequence
from typing import Final

from hipctl import crypto, params
from hipctl.actions import Address, Pair, Path, Relayed, plain, wire
from hipctl.candidates import Candidate, fits, from_locators, to_locators
from hipctl.checks import Ask, Checks
from hipctl.crypto import Keys
from hipctl.errors import Rejected
from hipctl.flow import ECHO_GAP, Echoing, Flow
from hipctl.sas import SaPair
from hipctl.state import Permit, Ping, Shared
from hipctl.wire import frame

_IV_LENGTH: Final = 16
_ROOM: Final = 720  # bytes of our locators in an UPDATE
_SLOW_LOOK: Final = 2.0  # seconds between looks at one in use that is no call
_PERMITTED_MAX: Final = 32  # addresses of a peer that our data relays let in
_PASSERS_MAX: Final = 16  # with so many, we don't know any more where the peer itself is
_REFRESH: Final = 4 * 60.0  # seconds after which a permission is refreshed, RFC 9028 §4.12.1
_TELLING_MAX: Final = 4  # paths on which a move is told
_POKE_GAP: Final = 2.0  # seconds between two looks at our servers


class Traversal:
    """The paths of one association.

    Attributes:
        checks: the connectivity checks.
        ours: our own addresses, as the shell knows them.
        told: the peer knows our candidates.
        disclosed: the peer may learn where we are.
        first_at: when data could be sent first, monotonic seconds; None before.
        direct_at: the same, without any relay.
    """

    __slots__ = (
        "_candidates",
        "_collides",
        "_echoing",
        "_flow",
        "_pair",
        "_passers",
        "_pending",
        "_permitted",
        "_pings",
        "_poked_at",
        "_relays",
        "_sas",
        "_shared",
        "_signaling",
        "_theirs",
        "checks",
        "direct_at",
        "disclosed",
        "first_at",
        "ours",
        "told",
    )

    def __init__(
        self,
        pair: Pair,
        sas: SaPair,
        shared: Shared,
        now: float,
        *,
        controlling: bool,
        pacing: float,
        listed: Sequence[params.Locator],
        disclosed: bool,
    ) -> None:
        """The base exchange is over: begin to check.

        Args:
            pair: of the association.
            sas: its SAs; outbound.address is where the exchange's packets went.
            shared: of the engine.
            now: monotonic seconds.
            controlling: whether we are the Initiator.
            pacing: Ta, seconds.
            listed: the peer's locators.
            disclosed: whether the peer may learn where we are.
        """
        self._pair = pair
        self._sas = sas
        self._shared = shared
        self._signaling = sas.outbound.address
        self._theirs, self._relays = from_locators(listed, plain(self._signaling))
        self._pending: tuple[tuple[Candidate, ...], tuple[Address, ...]] | None = None
        # when, and how often its relay had forgotten all, by the peer's address
        self._permitted: dict[Relayed, tuple[float, int]] = {}
        self._passers: set[Address] = set()  # whence the peer's packets came that a relay had sent
        self._poked_at = float("-inf")
        self._flow = Flow(shared.config.silence, now)
        self._echoing = Echoing()
        self._pings = 0  # echoes under the SA, which say nothing of what the peer owes us
        self.checks = Checks(controlling, pacing)
        self.disclosed = disclosed
        self.ours = shared.locators
        self._collides = shared.collides(pair, sas.outbound.sa.spi)
        self._candidates = self._find()
        self.told = True
        self.first_at: float | None = None
        self.direct_at: float | None = None
        self._begin(now)

    # -- paths ---------------------------------------------------------------------------------

    @property
    def reachable(self) -> bool:
        """Whether data may be sent."""
        return self.checks.selected is not None

    @property
    def failed(self) -> bool:
        """No path was found, nor had one been."""
        return self.checks.failed and self.checks.selected is None

    @property
    def lost(self) -> bool:
        """There was a path, and neither it nor any other works now."""
        return self.checks.failed and self.checks.selected is not None

    def path(self) -> Path:
        """The one in use; before there is one, that of the base exchange."""
        return self.checks.selected or Path(None, self._signaling)

    def to(self, to: Address) -> Path:
        """How to reach ``to``: from where the packet in hand came, if it came from there."""
        return Path(self._shared.here, to)

    def choose(self, now: float) -> None:
        """Follow what the checks have selected."""
        selected, outbound = self.checks.selected, self._sas.outbound
        if selected is not None and self.first_at is None:
            self.first_at = now
        if selected is not None and self.direct_at is None and not self.checks.relayed:
            self.direct_at = now
        if selected is None:
            return
        source = selected.source
        if isinstance(selected.to, Relayed):
            source = self._shared.source_to(self._pair[0], selected.to.via)
        if (selected.to, source) == (outbound.address, outbound.source):
            return
        outbound.aim(selected.to, source)
        self._echoing.restart()
        self._shared.counters["path changed"] += 1
        self._serve()
        if not self.checks.relayed:
            self._shared.remember(self._pair[1], selected.to)
        self._permit_selected(now)

    def own(self, path: Path) -> bool:
        """Whether the peer itself is there, and not a relay that it has told us of."""
        passers = self._passers
        return len(passers) < _PASSERS_MAX and plain(path.to) not in passers

    def heard(self, path: Path, now: float, *, relayed: bool, check: bool) -> None:
        """A control packet of the peer's came along a path; ``relayed``: its relay has sent it.

        Raises:
            Rejected: it is a check that is better not answered.
        """
        if check and self.checks.ignores(path, now):
            raise Rejected("check through a relay that passes no data")
        source = path.to
        if not relayed:
            self._passers.discard(source)
        elif len(self._passers) < _PASSERS_MAX and source not in self._passers:
            self._passers.add(source)
            self._serve()

    def _serve(self) -> None:
        """Where our client is: two servers are not to take each other for it."""
        selected = self.checks.selected
        if selected is not None:
            self._shared.serving.moved(self._pair, selected if self.own(selected) else None)

    def describe(self) -> list[dict[str, object]]:
        """The peer's addresses and what we know about each, JSON-ready."""
        selected = self.checks.selected
        valid = {path.to for path in self.checks.valid()}
        return [
            {
                "address": list(candidate.address),
                "status": "ACTIVE" if candidate.address in valid else "UNVERIFIED",
                "preferred": selected is not None and plain(selected.to) == candidate.address,
                "kind": candidate.kind.name.lower(),
            }
            for candidate in self._theirs
        ]

    @property
    def relayed(self) -> bool:
        """Whether data goes through a relay, of either side."""
        return self.checks.relayed

    # -- we move -------------------------------------------------------------------------------

    def _find(self) -> tuple[Candidate, ...]:
        return self._shared.candidates(
            self._pair[0], disclosed=self.disclosed, relays=not self._collides
        )

    def _begin(self, now: float) -> None:
        self.checks.start(self._candidates, self._theirs, now)

    def move(self, ours: tuple[Address, ...], now: float) -> None:
        """Our addresses are others now: begin anew, the peer will be told."""
        self.ours = ours
        self._renew(now)
        outbound = self._sas.outbound
        if outbound.source is not None and outbound.source not in ours:
            outbound.aim(outbound.address, None)  # a relay may go on hearing us

    def disclose(self, now: float) -> None:
        """The peer may learn where we are from now on."""
        if not self.disclosed:
            self.disclosed = True
            self._renew(now)

    def _renew(self, now: float) -> None:
        self._candidates = self._find()
        self.told = False
        self._permitted.clear()
        self._begin(now)

    def telling(self) -> list[Path]:
        """The paths on which to tell the peer of our candidates: control relays first.

        Before the others the one that relayed the base exchange, if it was listed (RFC 9028 §4.5).
        Where the peer may not learn where we are, only through our own.
        """
        last, own = self.path().to, self._shared.relays(self._pair[0])
        known = dict.fromkeys(candidate.address for candidate in self._theirs)
        ways: list[Address] = [*self._relays, last]
        ways += [Relayed(plain(last), relay) for relay in own if relay not in self._relays]
        if wire(self._signaling) in {*self._relays, *own, *known}:
            ways.insert(0, self._signaling)
        if not self.disclosed:
            there = [*self._relays, *known]
            ways = [way for way in (self._signaling, last) if isinstance(way, Relayed)]
            ways += [Relayed(to, relay) for to in there for relay in own]
        source = self.path().source if self.path().source in self.ours else None
        paths = [Path(source if way == last else None, way) for way in _diverse(ways)]
        return paths[:_TELLING_MAX]

    def detours(self) -> list[Path]:
        """Paths through relays, but the one in use (RFC 9028 §4.8)."""
        return [way for way in self.telling() if way.to != self.path().to]

    @property
    def spread(self) -> int:
        """On how many of these to tell it at once."""
        return 2

    def said(self, spi: int, keys: Keys) -> params.Parameter:
        """LOCATOR_SET with our candidates and control relays, encrypted (RFC 9028 §4.9)."""
        relays = self._shared.relays(self._pair[0])
        listed = params.LocatorSet(to_locators(self._candidates, spi, fits(_ROOM), relays))
        inside = frame(listed.TYPE, listed.content())
        rng = self._shared.rng
        return params.Encrypted(crypto.encrypt(keys.encrypt_out, rng(_IV_LENGTH), inside))

    # -- the peer moves ------------------------------------------------------------------------

    def hears(self, address: Address) -> bool:
        """Only where the peer speaks from is asked anything; all else are checks, which pace."""
        return True

    def take(
        self, listed: Sequence[params.Locator] | None, source: Address, now: float
    ) -> list[Path]:
        """Take a LOCATOR_SET; what to ask before it is believed (RFC 9028 §4.9, step 3)."""
        if listed is None:
            return []
        self._pending = from_locators(listed, plain(source))
        return [self.to(source)]

    def answered(self, path: Path, now: float, *, straight: bool) -> bool:
        """The peer has echoed what we sent, by whatever way: what it says is from now."""
        if self._pending is not None:
            (self._theirs, self._relays), self._pending = self._pending, None
            self._permitted.clear()
            self._begin(now)
        return False

    # -- checks --------------------------------------------------------------------------------

    def on_request(self, path: Path, shown: int, nominated: bool, now: float) -> Ask | None:
        """A check of the peer's has come; see Checks."""
        if nominated and isinstance(path.to, Relayed):
            self._permit(path.to, now, again=True)
        ask = self.checks.on_request(path, shown, nominated, now)
        self.choose(now)
        return ask

    def on_response(self, ask: Ask, came: Path, mapped: Address, now: float) -> bool:
        """The answer to one of ours has come; False: along another path, it counts for nothing."""
        counts = self.checks.on_response(ask, came, mapped, now)
        self.choose(now)
        return counts

    def on_given_up(self, ask: Ask, now: float) -> None:
        """Nobody answers one of ours."""
        self.checks.on_given_up(ask, now)
        self.choose(now)

    def asks(self, now: float) -> list[Ask]:
        """Checks to send now."""
        found = self.checks.on_time(now)
        for ask in found:  # the peer may send as soon as it has this (RFC 9028 §4.12.1)
            if ask.nominate and isinstance(ask.path.to, Relayed):
                self._permit(ask.path.to, now, again=True)
        self.choose(now)
        return found

    # -- our data relays -----------------------------------------------------------------------

    def _permit_selected(self, now: float) -> None:
        selected = self.checks.selected
        if selected is not None and isinstance(selected.to, Relayed):
            self._permit(selected.to, now)

    def _permit(self, to: Relayed, now: float, *, again: bool = False) -> None:
        forgotten = self._shared.forgotten[to.via]
        at, then = self._permitted.get(to, (now, -1))
        if then == forgotten and now - at < _REFRESH and not again:
            return
        relayed = next((c.address for c in self._candidates if c.via == to.via), None)
        if relayed is None or (":" in relayed[0]) is not (":" in to[0]):
            return
        self._permitted[to] = now, forgotten
        while len(self._permitted) > _PERMITTED_MAX:
            del self._permitted[next(iter(self._permitted))]
        sas = self._sas
        permission = params.PeerPermission(
            relayed, plain(to), sas.outbound.sa.spi, sas.inbound.sa.spi
        )
        self._shared.errands.append(Permit(self._pair[0], to.via, permission))

    def rekeying(self, spi_out: int, spi_in: int) -> None:
        """New SAs are about to be used: our data relay is told of their SPIs first."""
        selected = self.checks.selected
        if selected is None or not isinstance(selected.to, Relayed):
            return
        to = selected.to
        relayed = next((c.address for c in self._candidates if c.via == to.via), None)
        if relayed is not None:
            permission = params.PeerPermission(relayed, plain(to), spi_out, spi_in)
            self._shared.errands.append(Permit(self._pair[0], to.via, permission))

    def rekeyed(self, now: float) -> None:
        """The SAs are other ones now; the path stays."""
        self._flow.restart(now)
        self._pings = 0
        self._collides = self._shared.collides(self._pair, self._sas.outbound.sa.spi)
        self._permitted.clear()
        self._permit_selected(now)

    # -- silence -------------------------------------------------------------------------------

    def look(self, heard_at: float, now: float) -> list[Path]:
        """See whether a call still hears its peer, and whether our candidates are still those."""
        sas, shared = self._sas, self._shared
        sent, received = sas.outbound.sa.packets - self._pings, sas.inbound.sa.packets
        asked = self._echoing.awaits(now)
        silent = self._flow.look(sent, received, heard_at, now, asked=asked)
        if silent:
            shared.counters["silence"] += 1
            self.checks.on_silence(now)
            if now - self._poked_at >= _POKE_GAP:
                self._poked_at = now
                shared.poke_servers(self._pair[0])
        elif self._flow.unheard:
            self.checks.on_doubt(now)
        self._ask_for_echoes(silent or self._flow.unheard, now)
        self.choose(now)  # from where our relay hears us now
        self._permit_selected(now)
        found = self._find()
        if found != self._candidates:
            self._renew(now)
        return []

    def _ask_for_echoes(self, doubted: bool, now: float) -> None:
        """See whether the relay in use passes on data, too, and not only checks."""
        heard, doubted = self._flow.heard, doubted and self.checks.relayed
        since = self._echoing.asking
        concluded = self._echoing.look(heard=heard, doubted=doubted, now=now)
        if since is not None and concluded:
            if self.checks.on_mute(since, now):
                self._shared.counters["relay passes no data"] += 1
        elif self._echoing.due:
            self._pings += 1
            self._shared.errands.append(Ping(*self._pair))
            if since is not None:
                self.checks.on_unanswered(since, now)

    def questioned(self, heard_at: float, now: float) -> list[Path]:
        """The peer asks who is there; checks know themselves what to do."""
        return []

    def next_look(self) -> float | None:
        """Seconds until the next look; None: the association's own pace will do."""
        if self._flow.call:
            return self._shared.config.silence / 5
        if self._echoing.asking is not None:
            return ECHO_GAP
        return _SLOW_LOOK

    @property
    def in_use(self) -> bool:
        """Whether the peer is to learn of our other addresses."""
        return self.reachable

    def wanted(self, ask: Ask) -> bool:
        """Whether a check is to be sent again."""
        return self.checks.wanted(ask)

    def deadline(self) -> float | None:
        """When ``asks`` is due."""
        return self.checks.deadline()

    # -- what is of no matter here -------------------------------------------------------------

    @property
    def heeds_order(self) -> bool:
        """Whether a LOCATOR_SET may have been overtaken by a later one."""
        return True

    def learn(self, listed: Sequence[params.Locator], now: float) -> None:
        """What the base exchange said is known from the beginning."""

    def expire(self, now: float) -> bool:
        """Candidates have no lifetimes."""
        return False

    def next_expiry(self) -> float | None:
        """Nor do they end."""
        return None


def _diverse(ways: Sequence[Address]) -> list[Address]:
    """In that order, but one through each relay before others through the same: it may be dead."""
    first: dict[Address, Address] = {}
    for way in ways:
        first.setdefault(wire(way), way)
    return list(dict.fromkeys([*first.values(), *ways]))
