"""What we have registered for, and with whom: the client's end of RFC 8003.

A wish names a server and types. It is asked for in I2, or in UPDATE where there is an association;
never what the server's REG_INFO does not offer. What was granted is refreshed before it ends;
after a refusal for want of resources, and when the association is gone, we ask again, ever more
seldom. A type that is refused before it was ever granted is no wish any more.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hipctl import params
from hipctl.actions import Action, Address, Pair, RegistrationAnswered, Relayed
from hipctl.constants import RegistrationFailure, RegistrationType
from hipctl.crypto import Rng
from hipctl.identity import Hit
from hipctl.interface import Registered, RegistrationEnded
from hipctl.limits import Damper
from hipctl.packet import Packet
from hipctl.params_registration import decode_lifetime, encode_lifetime
from hipctl.registrar import EXCLUSIVE
from hipctl.sas import Outbound
from hipctl.settings import EngineConfig

SERVERS_MAX: Final = 64
ANSWER_SECONDS: Final = 20.0  # that a server has for its answer: its UPDATE may be lost
REFRESH_LEAST: Final = 5.0  # seconds, whatever lifetime was granted
BEHIND_NAT: Final = 60.0  # seconds between refreshs where a NAT may forget us without a word
_FIRST_PAUSE: Final = 2.0  # seconds before a lost association is tried again; it doubles
_LONGEST_PAUSE: Final = 300.0
_DOUBLINGS: Final = 16
MOVED_FIRST, MOVED_MOST = 5.0, 120.0  # seconds between two times that we believe one server that
# sees us elsewhere, and let all others look: any may say so at any time
_BUSY_PAUSE: Final = 60.0  # seconds after "insufficient resources" (RFC 8003 §4.5: not at once)

Tell = Callable[[Pair, Sequence[params.Parameter], float], list[Action] | None]
"""``tell(pair, parameters, now)`` sends an UPDATE; None: there is no association."""

Connect = Callable[[Pair, float], list[Action]]


@dataclass(slots=True)
class OurServer:
    """A server with which an identity of ours is registered.

    Attributes:
        address: where it is.
        types: registration types that it has granted.
        reflexive: where it sees us (REG_FROM), or None.
        relayed: what it has opened for us (RELAYED_ADDRESS), or None.
    """

    address: Address
    types: frozenset[int] = frozenset()
    reflexive: Address | None = None
    relayed: Address | None = None


@dataclass(slots=True)
class Wish:
    """What one identity of ours wants of one server.

    Attributes:
        wanted: types.
        granted: types in force -> when they end, monotonic seconds.
        ever: types that were granted at some time: these we go on asking for.
        asking: types whose answer we wait for.
        cancelling: types that we don't want any more, but may have.
        due: when something is to be done; None: when something happens.
        pauses: failures in a row.
        unanswered: requests in a row that nobody has answered.
        reflexive: where the server sees us.
        told: where it saw us when we last let the others look.
        moves: how often we do so on its word.
        relayed: what it has opened for us.
        lost: the association is gone since we looked last.
        passed: when it last passed on how a stranger began with us.
    """

    wanted: set[int] = field(default_factory=set)
    granted: dict[int, float] = field(default_factory=dict)
    ever: set[int] = field(default_factory=set)
    asking: set[int] = field(default_factory=set)
    cancelling: set[int] = field(default_factory=set)
    due: float | None = None
    pauses: int = 0
    unanswered: int = 0
    reflexive: Address | None = None
    told: Address | None = None
    moves: Damper = field(default_factory=lambda: Damper(MOVED_FIRST, MOVED_MOST))
    relayed: Address | None = None
    lost: bool = False
    passed: float = float("-inf")


class Requester:
    """All registrations of one host with others.

    Attributes:
        infos: what the peer of an association offers, as far as it has said so.
        locators: our own addresses; who is seen elsewhere is behind a NAT.
    """

    def __init__(
        self,
        config: EngineConfig,
        rng: Rng,
        servers: MutableMapping[Pair, OurServer],
        outbound: Mapping[Pair, Outbound],
        on_moved: Callable[[Hit], None] = lambda _: None,
    ) -> None:
        """Set up.

        Args:
            config: of the engine.
            rng: randomness.
            servers: is kept in step with what is granted.
            outbound: tells where servers are.
            on_moved: called with a HIT of ours that a server sees elsewhere than before.
        """
        self.infos: dict[Pair, params.RegInfo] = {}
        self.locators: Collection[Address] = ()
        self._config = config
        self._rng = rng
        self._servers = servers
        self._outbound = outbound
        self._on_moved = on_moved
        self._wishes: dict[Pair, Wish] = {}
        self._chosen: dict[Pair, int] = {}  # rendezvous or control relay, for good
        self._told: list[Action] = []

    # -- from above ----------------------------------------------------------------------------

    def register(self, pair: Pair, types: Iterable[int], now: float) -> bool:
        """Wish for these types of that server; False: there are too many servers."""
        wish = self._wishes.get(pair)
        if wish is None:
            if len(self._wishes) >= SERVERS_MAX:
                return False
            wish = self._wishes[pair] = Wish()
        types = set(types)
        wish.wanted |= types
        wish.cancelling -= types
        if not types <= wish.granted.keys() | wish.asking:
            wish.due = now
        return True

    def unregister(self, pair: Pair, types: Iterable[int] | None, now: float) -> None:
        """Wish for them no more; None: for nothing of that server."""
        wish = self._wishes.get(pair)
        if wish is None:
            return
        ended = set(wish.wanted | wish.granted.keys() if types is None else types)
        wish.wanted -= ended
        for kind in ended & wish.granted.keys():
            self._end(pair, wish, kind, "cancelled")
            wish.cancelling.add(kind)
        wish.cancelling |= ended & wish.asking
        wish.asking -= ended
        wish.due = now
        self._sync(pair, wish)

    def registered(self, pair: Pair, kind: int) -> bool:
        """Whether that registration is in force."""
        wish = self._wishes.get(pair)
        return wish is not None and kind in wish.granted

    def registrations(self) -> list[Registered]:
        """All in force; how far away the servers are, others know."""
        return [
            Registered(
                *pair,
                RegistrationType(kind),
                expires,
                address=self.address(pair),
                reflexive=wish.reflexive,
                relayed=wish.relayed if kind == RegistrationType.RELAY_UDP_ESP else None,
                passed=wish.passed,
            )
            for pair, wish in self._wishes.items()
            for kind, expires in wish.granted.items()
        ]

    def servers(self, local: bytes, kind: int) -> list[Pair]:
        """The associations of ``local`` with servers that do that for us."""
        return [
            pair
            for pair, wish in self._wishes.items()
            if pair[0] == local and kind in wish.granted
        ]

    def holds(self, pair: Pair) -> bool:
        """Whether the association is to stay though nobody uses it."""
        wish = self._wishes.get(pair)
        return wish is not None and bool(wish.wanted)

    def address(self, pair: Pair) -> Address | None:
        """Where that server is, if we are registered with it."""
        known = self._servers.get(pair)
        return known.address if known is not None else None

    # -- from associations ---------------------------------------------------------------------

    def begun(self, local: Hit, source: Address, now: float) -> None:
        """A peer has begun an association with us, from there.

        Servers let each other's packets in, so what came through two of ours says nothing.
        """
        if not isinstance(source, Relayed):
            return
        there = {known.address[0] for known in self._servers.values()}
        for pair, known in self._servers.items():
            wish = self._wishes.get(pair)
            here = (pair[0], known.address) == (local, source.via)
            if wish is not None and here and source[0] not in there:
                wish.passed = now

    def request(self, pair: Pair, info: params.RegInfo | None) -> list[params.Parameter]:
        """What our I2 asks for, given what the R1 offers."""
        wish = self._wishes.get(pair)
        if wish is None or info is None:
            return []
        self._chosen.pop(pair, None)
        types = self._askable(pair, wish, info)
        wish.asking = set(types)
        return [params.RegRequest(self._lifetime(info), types)] if types else []

    def concluded(
        self, pair: Pair, info: params.RegInfo | None, packet: Packet, now: float
    ) -> None:
        """An exchange of ours has ended with this R2: what it doesn't grant is not granted.

        Args:
            pair: of the association.
            info: what the R1 offered.
            packet: an R2 that is authentic.
            now: monotonic seconds.
        """
        if info is not None:
            self.infos[pair] = info
        else:
            self.infos.pop(pair, None)
        wish = self._wishes.get(pair)
        if wish is None:
            return
        wish.lost, wish.cancelling = False, set()
        before, wish.granted = wish.granted, {}
        wish.reflexive = wish.relayed = None
        answered = self._take(pair, wish, packet, now)
        silent = wish.wanted - wish.granted.keys() - answered.keys()
        answered |= dict.fromkeys(silent, RegistrationFailure.TYPE_UNAVAILABLE)
        for kind in before.keys() - wish.granted.keys():
            self._tell_end(pair, kind, _why(answered.get(kind)))
        self._conclude(pair, wish, answered, now)
        self._sync(pair, wish)

    def on_update(self, pair: Pair, packet: Packet, now: float) -> None:
        """Take what an authentic UPDATE says that we have not seen before.

        Raises:
            MalformedPacket: a parameter is not well formed.
        """
        info = packet.get(params.RegInfo)
        wish = self._wishes.get(pair)
        if info is not None:
            self.infos[pair] = info
            if wish is not None and wish.wanted - wish.granted.keys() - wish.asking:
                wish.due = now
        if wish is None:
            return
        answered = self._take(pair, wish, packet, now)
        if answered:
            self._conclude(pair, wish, answered, now)
        self._sync(pair, wish)

    def renewed(self, pair: Pair, now: float) -> None:
        """The server has begun another exchange: perhaps it knows nothing of us any more."""
        wish = self._wishes.get(pair)
        if wish is not None:
            if wish.lost:
                self._mourn(pair, wish, now)
            wish.asking = set()
            wish.due = now

    def hurry(self, now: float) -> None:
        """We have slept: ask all servers anew, at once."""
        for wish in self._wishes.values():
            wish.pauses, wish.due = min(wish.pauses, 1), now
            wish.moves.calm()

    def lost(self, pair: Pair) -> None:
        """There is no association any more."""
        self.infos.pop(pair, None)
        self._chosen.pop(pair, None)
        self._servers.pop(pair, None)
        wish = self._wishes.get(pair)
        if wish is not None:
            wish.lost = True

    def _sync(self, pair: Pair, wish: Wish) -> None:
        """Let the others know which servers we have."""
        outbound = self._outbound.get(pair)
        if wish.granted and outbound is not None:
            types = frozenset(wish.granted)
            relayed = wish.relayed if RegistrationType.RELAY_UDP_ESP in types else None
            known = OurServer(outbound.address, types, wish.reflexive, relayed)
            self._servers[pair] = known
        else:
            self._servers.pop(pair, None)

    # -- answers -------------------------------------------------------------------------------

    def _take(self, pair: Pair, wish: Wish, packet: Packet, now: float) -> dict[int, int | None]:
        """Read REG_RESPONSE and REG_FAILED; return the types they answer, with the failure."""
        answered: dict[int, int | None] = {}
        for response in packet.every(params.RegResponse):
            lifetime = decode_lifetime(response.lifetime)
            for kind in response.types:
                if not lifetime:
                    self._cancelled(pair, wish, kind, now)
                elif kind in wish.wanted:
                    wish.granted[kind] = now + lifetime
                    wish.ever.add(kind)
                    answered[kind] = None
        for failed in packet.every(params.RegFailed):
            answered |= dict.fromkeys(wish.wanted & set(failed.types), failed.reason)
        if seen := packet.get(params.RegFrom):
            if wish.reflexive is None:
                wish.told = seen.address
            wish.reflexive = seen.address
            if wish.told != seen.address and wish.moves.allow(now):
                wish.told = seen.address
                self._on_moved(pair[0])  # a NAT has: servers must not go by what we said before
        relayed = packet.get(params.RelayedAddress)
        if relayed is not None and RegistrationType.RELAY_UDP_ESP in wish.granted:
            wish.relayed = relayed.address
        return answered

    def _cancelled(self, pair: Pair, wish: Wish, kind: int, now: float) -> None:
        if kind in wish.cancelling:
            wish.cancelling.discard(kind)
        elif kind in wish.granted:
            self._end(pair, wish, kind, "cancelled by the server")
            self._pause(wish, now, _BUSY_PAUSE)

    def _conclude(
        self, pair: Pair, wish: Wish, answered: dict[int, int | None], now: float
    ) -> None:
        """Go by what was answered, and tell who has asked."""
        refused = {kind: why for kind, why in answered.items() if why is not None}
        wish.asking -= answered.keys()
        wish.unanswered = 0
        busy = False
        for kind, why in refused.items():
            if kind in wish.granted:
                self._end(pair, wish, kind, _why(why))
            if kind in wish.ever and why == RegistrationFailure.INSUFFICIENT_RESOURCES:
                busy = True
            else:
                wish.wanted.discard(kind)
        told = tuple(kind for kind, why in answered.items() if why is None)
        self._told.append(RegistrationAnswered(*pair, told, refused))
        if not wish.wanted and not wish.cancelling:
            self._wishes.pop(pair, None)
            return
        if busy:
            self._pause(wish, now, _BUSY_PAUSE)
            return
        wish.pauses = 0
        self._plan(wish, now)

    def _plan(self, wish: Wish, now: float) -> None:
        """When to refresh."""
        ends = min(wish.granted.values(), default=None)
        if ends is None:
            wish.due = None
            return
        share = 0.5 + int.from_bytes(self._rng(2), "big") / 2**18  # half to three quarters
        after = max((ends - now) * share, REFRESH_LEAST)
        if wish.reflexive is None or wish.reflexive not in self.locators:
            after = min(after, BEHIND_NAT)
        if wish.reflexive != wish.told and now < wish.moves.until:  # whether it still says so
            after = min(after, max(wish.moves.until - now, REFRESH_LEAST))
        wish.due = now + after

    def _pause(self, wish: Wish, now: float, first: float) -> None:
        pause = min(first * 2.0**wish.pauses, _LONGEST_PAUSE)
        wish.pauses = min(wish.pauses + 1, _DOUBLINGS)
        wish.due = now + pause * (1 + int.from_bytes(self._rng(2), "big") / 2**18)

    def _end(self, pair: Pair, wish: Wish, kind: int, reason: str) -> None:
        if wish.granted.pop(kind, None) is not None:
            if kind == RegistrationType.RELAY_UDP_ESP:
                wish.relayed = None
            self._tell_end(pair, kind, reason)

    def _tell_end(self, pair: Pair, kind: int, reason: str) -> None:
        self._told.append(RegistrationEnded(*pair, RegistrationType(kind), reason))

    def _lifetime(self, info: params.RegInfo) -> int:
        wanted = encode_lifetime(self._config.registration_lifetime)
        return min(max(wanted, info.least), max(info.most, 1))

    # -- time ----------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        if not self._wishes and not self._told:
            return None
        if self._told:
            return 0.0
        return min((at for wish in self._wishes.values() for at in _times(wish)), default=None)

    def on_time(self, now: float, tell: Tell, connect: Connect) -> list[Action]:
        """See sansio.Machine.

        Args:
            now: monotonic seconds.
            tell: sends UPDATEs.
            connect: begins base exchanges.
        """
        actions: list[Action] = []
        for pair, wish in list(self._wishes.items()):
            if wish.lost:
                self._mourn(pair, wish, now)
            for kind in [kind for kind, ends in wish.granted.items() if ends <= now]:
                self._end(pair, wish, kind, "expired")
                self._sync(pair, wish)
            if wish.due is not None and wish.due <= now:
                wish.due = None
                actions += self._act(pair, wish, now, tell, connect)
            if not wish.wanted and not wish.cancelling:
                self._wishes.pop(pair, None)
        told, self._told = self._told, []
        return [*told, *actions]

    def _mourn(self, pair: Pair, wish: Wish, now: float) -> None:
        """The association is gone, and all that was granted with it."""
        wish.lost = False
        ever = bool(wish.ever) or wish.pauses > 0
        for kind in list(wish.granted):
            self._end(pair, wish, kind, "the association is gone")
        wish.asking, wish.cancelling = set(), set()
        wish.reflexive = wish.relayed = None
        if ever:
            self._pause(wish, now, _FIRST_PAUSE)

    def _act(
        self, pair: Pair, wish: Wish, now: float, tell: Tell, connect: Connect
    ) -> list[Action]:
        """Ask, refresh, cancel; or associate first."""
        info = self.infos.get(pair)
        actions: list[Action] = []
        if wish.cancelling:
            cancelled = _ordered(wish.cancelling)
            wish.cancelling = set()
            actions += tell(pair, [params.RegRequest(0, cancelled)], now) or []
        if not wish.wanted:
            return actions
        offered = set(info.types) if info is not None else set()
        types = self._askable(pair, wish, info) if info is not None else ()
        if types and info is not None:
            request = params.RegRequest(self._lifetime(info), types)
            sent = tell(pair, [request], now)
            if sent is not None:
                wish.asking = set(types)
                wish.due = now + min(ANSWER_SECONDS * 2.0**wish.unanswered, _LONGEST_PAUSE)
                wish.unanswered = min(wish.unanswered + 1, _DOUBLINGS)
                self._refuse_unoffered(pair, wish, offered, now)
                return [*actions, *sent]
        if tell(pair, (), now) is not None:
            self._refuse_unoffered(pair, wish, offered, now)
            return actions
        self._pause(wish, now, _FIRST_PAUSE)
        return [*actions, *connect(pair, now)]

    def _askable(self, pair: Pair, wish: Wish, info: params.RegInfo) -> tuple[int, ...]:
        """What is wanted and offered, and of rendezvous and control relay one.

        Which of them, holds as long as the association lasts (RFC 9028 §7.8).
        """
        types = _ordered(wish.wanted & set(info.types))
        chosen = next((kind for kind in types if kind in EXCLUSIVE), None)
        if chosen is not None:
            chosen = self._chosen.setdefault(pair, chosen)
        other = EXCLUSIVE & wish.wanted - {chosen} if chosen is not None else set()
        if other:
            wish.wanted -= other
            why = int(RegistrationFailure.RENDEZVOUS_WITH_CONTROL_RELAY)
            self._told.append(RegistrationAnswered(*pair, (), dict.fromkeys(other, why)))
        return tuple(kind for kind in types if kind not in other)

    def _refuse_unoffered(self, pair: Pair, wish: Wish, offered: set[int], now: float) -> None:
        """What the server doesn't offer we don't ask for (RFC 8003 §4.3)."""
        missing = wish.wanted - offered
        never = missing - wish.ever
        wish.wanted -= never
        if never:
            failures = dict.fromkeys(never, int(RegistrationFailure.TYPE_UNAVAILABLE))
            self._told.append(RegistrationAnswered(*pair, (), failures))


def _times(wish: Wish) -> Iterable[float]:
    if wish.lost:
        yield 0.0
    if wish.due is not None:
        yield wish.due
    yield from wish.granted.values()


def _ordered(types: Collection[int]) -> tuple[int, ...]:
    """The control relay first, whose alternative is the rendezvous server."""
    return tuple(sorted(types, key=lambda kind: (kind != RegistrationType.RELAY_UDP_HIP, kind)))


def _why(failure: int | None) -> str:
    try:
        name = "no answer" if failure is None else RegistrationFailure(failure).name
    except ValueError:
        name = f"failure {failure}"
    return "refused: " + name.replace("_", " ").lower()
