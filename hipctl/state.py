"""What an association remembers: its state, its timers, the work in hand, what all share."""

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from hipctl.actions import Address, Pair, Relayed
from hipctl.candidates import Candidate, fits, gather, to_locators
from hipctl.constants import SPI_RESERVED, RegistrationType
from hipctl.contact import is_at_home
from hipctl.credentials import NOTHING, Desk
from hipctl.crypto import Rng
from hipctl.exchange import KnownHosts
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import Discloses, Shown
from hipctl.limits import Limiter
from hipctl.params import LocatorSet, PeerPermission
from hipctl.requester import SERVERS_MAX, OurServer, Requester
from hipctl.sas import Inbound, Outbound
from hipctl.serving import Serving
from hipctl.settings import EngineConfig

_HIDING: Final = 60.0  # seconds after an association ended in which we still hide from its peer

_ADDRESSES_MAX: Final = 8  # a peer
_HIDDEN_SHARE: Final = 4  # from so many times as many peers as we speak with we may hide
_FORGOTTEN_SHARE: Final = 256  # of a full table, one in so many is forgotten at once


class State(Enum):
    """Association states, named as in RFC 7401 §4.4.2."""

    UNASSOCIATED = "UNASSOCIATED"
    I1_SENT = "I1-SENT"
    I2_SENT = "I2-SENT"
    R2_SENT = "R2-SENT"
    ESTABLISHED = "ESTABLISHED"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"
    E_FAILED = "E-FAILED"


class Timer(Enum):
    """What an association waits for."""

    RETRANSMIT = "no answer to I1, I2 or CLOSE yet"
    PUZZLE = "the puzzle is still being solved"
    EXCHANGE_COMPLETE = "no ESP since R2 yet"
    CHECK = "time to see whether the SAs are still used"
    CLOSED = "the peer may still repeat its CLOSE"


@dataclass(frozen=True, slots=True)
class Permit:
    """Errand: let ``local``'s data relay at ``server`` pass on what comes from a peer, and to it.

    Attributes:
        local: our HIT.
        server: where the relay is.
        permission: for its UPDATE.
    """

    local: Hit
    server: Address
    permission: PeerPermission


@dataclass(frozen=True, slots=True)
class Poke:
    """Errand: see whether the servers of ``local`` still hear us: our NAT may have moved us."""

    local: Hit


@dataclass(frozen=True, slots=True)
class Objection:
    """Errand: tell a control relay that it must not use RVS_HMAC (RFC 9028 §7.8).

    Attributes:
        local: our HIT.
        server: the relay's.
        to: where it is.
        details: Notification Data.
    """

    local: Hit
    server: Hit
    to: Address
    details: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Errand: send the peer an echo request in ESP; whatever comes then is an answer."""

    local: Hit
    peer: Hit


Errand = Permit | Poke | Objection | Ping


@dataclass(slots=True)
class Shared:
    """What all associations of one engine share.

    Attributes:
        config: of the engine.
        rng: randomness.
        counters: of everything that was dropped or done, by reason.
        inbound: by SPI.
        outbound: by (local HIT, peer HIT).
        through: addresses of servers that pass control packets on to them, likewise.
        recent: where peers were when an association with them came up; bounded.
        known_hosts: parsed public keys.
        notify_limit: how often we say NOTIFY.
        contacts: addresses of peers that we were told; bounded.
        desk: shows and judges credentials.
        serial: last number that a SolvePuzzle got.
        here: at which of them the packet came that is being processed, if the shell tells.
        locators: our own addresses, the preferred one first; empty while nobody has told us.
        hosts: where we listen, for want of ``locators``.
        mapped: what a router has opened for us: (external address, our address behind it).
        may_learn: who may learn where we are.
        disclosed: peers that may, whatever ``may_learn`` says.
        hidden: peers that have begun with us and may not, and until when that matters: if we
            begin with them, it is through relays of ours.
        secluded: HITs of ours that hide also from those with whom they begin, and from whom not.
        veiled: those with whom we have begun so.
        forgotten: how often a relay of ours may have forgotten whom it is to let through, by
            its address.
        errands: what an association asks of another one, which the engine passes on.
        friends: who must be able to reach us though neither side has a server, see
            ``interface.Host.befriend``.
        kept: associations across NATs that are kept open though idle.
        servers: (local HIT, server HIT) -> a server that we are registered with.
        via_rvs: IP address of the rendezvous server that the packet in hand came through, or
            nothing.
        identities: ours, by HIT.
        serving: what we do for others.
        requester: what we have registered for with others.
    """

    config: EngineConfig
    rng: Rng
    counters: Counter[str]
    inbound: dict[int, Inbound]
    outbound: dict[Pair, Outbound]
    notify_limit: Limiter
    contacts: OrderedDict[Hit, tuple[Address, ...]] = field(default_factory=OrderedDict)
    recent: OrderedDict[Hit, Address] = field(default_factory=OrderedDict)
    known_hosts: KnownHosts = field(default_factory=KnownHosts)
    desk: Desk = field(default_factory=Desk)
    serial: int = 0
    locators: tuple[Address, ...] = ()
    here: Address | None = None
    hosts: tuple[Address, ...] = ()
    mapped: tuple[tuple[Address, Address], ...] = ()
    may_learn: Discloses | None = None
    disclosed: OrderedDict[Pair, None] = field(default_factory=OrderedDict)
    hidden: OrderedDict[Pair, float] = field(default_factory=OrderedDict)
    secluded: dict[Hit, frozenset[Hit]] = field(default_factory=dict)
    veiled: set[Pair] = field(default_factory=set)
    forgotten: Counter[Address] = field(default_factory=Counter)
    errands: list[Errand] = field(default_factory=list)
    servers: dict[Pair, OurServer] = field(default_factory=dict)
    friends: frozenset[Pair] = frozenset()
    kept: OrderedDict[Pair, None] = field(default_factory=OrderedDict)
    via_rvs: str = ""
    through: dict[Hit, tuple[Address, ...]] = field(default_factory=dict)
    identities: dict[Hit, HostIdentity] = field(default_factory=dict)
    serving: Serving = field(init=False)
    requester: Requester = field(init=False)

    def __post_init__(self) -> None:
        self.serving = Serving(
            self.identities, self.config, self.counters, self.inbound, self.notify_limit
        )
        self.requester = Requester(
            self.config,
            self.rng,
            self.servers,
            self.outbound,
            self.poke_servers,
        )

    def poke_servers(self, local: Hit) -> None:
        """The servers of ``local`` may see it elsewhere than they did: tell them."""
        self.errands.append(Poke(local))

    def forget_permissions(self, server: Pair) -> None:
        """A server knows us by other keys or elsewhere now: its permissions are void."""
        known = self.servers.get(server)
        if known is None:
            return
        self.forgotten[known.address] += 1
        if len(self.forgotten) > SERVERS_MAX:
            there = {each.address for each in self.servers.values()}
            for address in self.forgotten.keys() - there:
                del self.forgotten[address]

    def natted(self, local: Hit) -> bool:
        """Whether servers see ``local`` elsewhere than it is."""
        ours = self.locators or self.hosts
        return bool(ours) and any(
            known.reflexive is not None and known.reflexive not in ours
            for (mine, _), known in self.servers.items()
            if mine == local
        )

    def keep(self, pair: Pair) -> None:
        """It was used: keep it open, rather than the one that was not used for the longest."""
        self.kept[pair] = None
        self.kept.move_to_end(pair)
        while len(self.kept) > self.config.kept:
            self.kept.popitem(last=False)

    def candidates(
        self, local: Hit, *, disclosed: bool = True, relays: bool = True
    ) -> tuple[Candidate, ...]:
        """Where ``local`` may be reached, the best first (RFC 9028 §4.2).

        Args:
            local: one of our HITs.
            disclosed: whether the peer may learn where we are; else only through which relays.
            relays: whether data relays can tell the peer from others, see ``collides``.
        """
        servers = [known for (mine, _), known in self.servers.items() if mine == local]
        relayed = [
            (known.relayed, known.address, None)
            for known in servers
            if known.relayed is not None and relays
        ]
        if not disclosed:
            return gather((), (), relayed)
        reflexive = [(known.reflexive, None) for known in servers if known.reflexive is not None]
        return gather(self.locators or self.hosts, [*self.mapped, *reflexive], relayed)

    def collides(self, pair: Pair, spi: int) -> bool:
        """Whether somebody else receives under the peer's SPI, too.

        A data relay of ours could not tell whom we mean (RFC 9028 §4.12.3): we have one relayed
        address for all, so this peer isn't told of it.
        """
        return any(known.sa.spi == spi and other != pair for other, known in self.outbound.items())

    def relays(self, local: Hit) -> list[Address]:
        """The control relays of ``local``."""
        return [
            known.address
            for (mine, _), known in self.servers.items()
            if mine == local and RegistrationType.RELAY_UDP_HIP in known.types
        ]

    def listed(
        self, pair: Pair, spi: int, room: int, *, ice: bool, disclosed: bool, relays: bool = True
    ) -> LocatorSet | None:
        """What a packet of the base exchange says of where we are, or None.

        Args:
            pair: of the association.
            spi: our inbound one.
            room: bytes that it may take, at most.
            ice: whether connectivity checks follow, which need candidates; else only our control
                relays are told.
            disclosed: whether the peer may learn where we are.
            relays: see ``candidates``.
        """
        found = self.candidates(pair[0], disclosed=disclosed, relays=relays) if ice else ()
        told = to_locators(found, spi, fits(room), self.relays(pair[0]))
        return LocatorSet(told) if told or ice else None

    def discloses(self, pair: Pair, shown: Shown) -> bool:
        """Whether a peer that has begun an association with us may learn where we are."""
        may_learn = self.may_learn
        wanted = pair in self.disclosed or pair in self.friends
        return wanted or may_learn is None or may_learn(*pair, shown)

    def hide(self, pair: Pair, *, hidden: bool) -> None:
        """A peer has begun an association with us; ``hidden``: it may not learn where we are."""
        self.hidden.pop(pair, None)
        self.veiled.discard(pair)
        if hidden:
            self.hidden[pair] = inf
        if len(self.hidden) > _HIDDEN_SHARE * self.config.max_associations:
            count = 1 + len(self.hidden) // _FORGOTTEN_SHARE  # the search costs, so forget some
            for gone in heapq.nsmallest(count, self.hidden, key=self.hidden.__getitem__):
                del self.hidden[gone]  # never one whose association there still is

    def hide_on(self, pair: Pair, since: float) -> None:
        """That association has ended; what its owner still answers must not show where we are."""
        self.veiled.discard(pair)
        if pair in self.hidden:
            self.hidden[pair] = since + _HIDING

    def veil(self, pair: Pair, now: float) -> None:
        """We begin with that peer, and see whether we hide from it until this has ended."""
        if now > self.hidden.get(pair, inf) or self.spares(pair):
            self.hidden.pop(pair, None)
        self.veiled.discard(pair)
        if self._secludes(pair) and self.addresses(pair[1]):
            self.veiled.add(pair)

    def hides(self, pair: Pair, now: float = -inf) -> bool:
        """Whether we hide from that peer, with whom there is an association, or was until lately.

        Args:
            pair: of the association.
            now: monotonic seconds, where that may have been long ago.
        """
        if now > self.hidden.get(pair, inf):
            del self.hidden[pair]
        return pair in self.hidden or (pair in self.veiled and self._secludes(pair))

    def shuns(self, pair: Pair, there: Address) -> bool:
        """Whether that peer must not hear from us directly at that address.

        At home we don't begin in secret: there it hears us on our own LAN or not at all.
        """
        if isinstance(there, Relayed) or not self.hides(pair):
            return False
        return pair in self.hidden or not (there[0] and is_at_home(there[0]))

    def forsakes(self, pair: Pair) -> bool:
        """Whether that peer, though it may know where we are, must not learn where we go."""
        theirs = self.desk.theirs.get(pair, NOTHING)
        return self._secludes(pair) and not self.discloses(pair, theirs)

    def spares(self, pair: Pair) -> bool:
        """Whether we hide from others, but never from that peer."""
        return pair[1] in self.secluded.get(pair[0], ())

    def _secludes(self, pair: Pair) -> bool:
        wanted = pair in self.disclosed or pair in self.friends
        return pair[0] in self.secluded and not self.spares(pair) and not wanted

    def disclose(self, pair: Pair) -> None:
        """The peer may learn where we are from now on."""
        self.hidden.pop(pair, None)
        self.veiled.discard(pair)
        self.disclosed[pair] = None
        self.disclosed.move_to_end(pair)
        if len(self.disclosed) > self.config.max_associations:
            self.disclosed.popitem(last=False)

    def server_at(self, local: Hit, address: Address) -> Hit | None:
        """Which server of ``local`` is at ``address``."""
        for (mine, server), known in self.servers.items():
            if mine == local and known.address == address:
                return server
        return None

    def source_to(self, local: Hit, server: Address) -> Address | None:
        """From where ``local`` speaks with its server there, which hears it from there only."""
        hit = self.server_at(local, server)
        outbound = self.outbound.get((local, hit)) if hit is not None else None
        return outbound.source if outbound is not None else None

    def learn(
        self, peer: Hit, addresses: Sequence[Address], through: Sequence[Address] = ()
    ) -> None:
        """Remember where I1 may find ``peer``; at most 8 addresses, the newest call wins.

        Args:
            peer: who.
            addresses: its own.
            through: those of servers that pass control packets on to it.
        """
        self.contacts.pop(peer, None)
        self.through.pop(peer, None)
        if addresses or through:
            self.contacts[peer] = tuple(addresses[:_ADDRESSES_MAX])
        if through:
            self.through[peer] = tuple(through[:_ADDRESSES_MAX])
        if len(self.contacts) > self.config.max_contacts:
            oldest, _ = self.contacts.popitem(last=False)
            self.through.pop(oldest, None)

    def remember(self, peer: Hit, address: Address) -> None:
        """Note where ``peer`` is, for want of better knowledge."""
        if address in self.through.get(peer, ()):
            return
        self.recent[peer] = address
        self.recent.move_to_end(peer)
        if len(self.recent) > self.config.max_associations:
            self.recent.popitem(last=False)

    def addresses(self, peer: Hit) -> tuple[Address, ...]:
        """Where to send I1: the peer, then its servers."""
        return *self.direct(peer), *self.through.get(peer, ())

    def called(self, pair: Pair) -> tuple[Address, ...]:
        """Where to send I1s of that association: if we hide, through control relays of ours.

        But on our own LAN, if the peer is nowhere else.
        """
        there = self.addresses(pair[1])
        abroad = tuple(each for each in there if not is_at_home(each[0]))
        if not self.hides(pair) or not (abroad or pair in self.hidden):
            return there
        if pair in self.veiled and not self.candidates(pair[0], disclosed=False):
            return ()  # data would have no way: better wait for a relay of it
        there = abroad or there
        return tuple(Relayed(to, relay) for to in there for relay in self.relays(pair[0]))

    def direct(self, peer: Hit) -> tuple[Address, ...]:
        """Where the peer may be: what we were told, then where it was."""
        told, last = self.contacts.get(peer, ()), self.recent.get(peer)
        return told if last is None or last in told else (*told, last)

    def new_spi(self) -> int:
        """Draw an SPI that is neither reserved nor in use."""
        while True:
            spi = int.from_bytes(self.rng(4), "big")
            if spi > SPI_RESERVED and spi not in self.inbound:
                return spi


@dataclass(slots=True)
class Waiting:
    """Datagrams that wait for an exchange, (next header, payload) each; bounded."""

    datagrams: deque[tuple[int, bytes]] = field(default_factory=deque)
    size: int = 0

    def add(self, next_header: int, payload: bytes, config: EngineConfig) -> bool:
        """Append one; False if there is no room."""
        if len(self.datagrams) >= config.queue_datagrams:
            return False
        if self.size + len(payload) > config.queue_bytes:
            return False
        self.datagrams.append((next_header, payload))
        self.size += len(payload)
        return True

    def release(self) -> tuple[tuple[int, bytes], ...]:
        """Return all, and be empty."""
        released = tuple(self.datagrams)
        self.datagrams.clear()
        self.size = 0
        return released
