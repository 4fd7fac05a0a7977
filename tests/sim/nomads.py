"""Peers at home behind NATs that meet through relays, and whatever happens to them at random."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from hipctl.actions import plain
from hipctl.checklist import PAIRS_MAX
from hipctl.datarelay import PERMISSIONS_MAX
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import AssociationDown, Offer
from hipctl.mobility import Mobility
from hipctl.state import State
from hipctl.traversal import Traversal
from hipctl.update import OUTSTANDING_MAX
from sim.engines import FAST, UDP, Peer
from sim.homenet import Books, Home, HomeNet, Hop
from sim.nats import NATS, Behaviour, Kind
from sim.servers import ESP, HIP, RVS

CONFIG = replace(
    FAST, rekey_packets=400, rekey_lifetime=300.0, registration_lifetime=120.0, max_contacts=16
)
OFFERED = {
    "relay1": {HIP: Offer(lifetime=120.0), ESP: Offer(lifetime=120.0)},
    "relay2": {HIP: Offer(lifetime=120.0), ESP: Offer(lifetime=120.0)},
    "rvs": {RVS: Offer(lifetime=120.0)},
}
KINDS = (Kind.PUBLIC, Kind.ENDPOINT_INDEPENDENT, Kind.PORT_RESTRICTED, Kind.SYMMETRIC)
PATIENCE = 120.0  # seconds after all trouble in which everybody must be heard again


class Nomads:
    """Two or three peers and three servers, all from one seed.

    Attributes:
        steps: how many were done.
        did: what they were, the last one last.
        moves: of them, changes of address.
    """

    def __init__(
        self,
        seed: int,
        peers: int | None = None,
        shy: float = 0.25,
        kinds: Sequence[Kind] = KINDS,
        apart: bool = False,
    ) -> None:
        """Set up.

        Args:
            seed: of all that is random.
            peers: how many; 2 or 3 if None.
            shy: probability that one hides where it is.
            kinds: of places where peers may be.
            apart: no two are ever in the same home, nor twice.
        """
        self.kinds, self.apart = kinds, apart
        self.random = random.Random(seed)
        self.net = HomeNet(seed)
        self.did: list[str] = []
        self.steps = self.moves = self.sent = 0
        self.homes: list[Home] = []
        self._secrets = count(16 * seed + 1)
        self.servers = {name: self._server(name) for name in OFFERED}
        self.relays = [self.servers["relay1"], self.servers["relay2"]]
        self.peers = [
            self.net.add(CONFIG, HostIdentity.from_secret(next(self._secrets)), f"{i}")
            for i in range(peers or self.random.choice((2, 2, 3)))
        ]
        self.by_hit: dict[Hit, Peer] = {peer.hit: peer for peer in self.net.everybody}
        self.shown: set[tuple[Hit, Hit]] = set()  # (who, to whom), for good
        self.shy = {peer.hit for peer in self.peers if self.random.random() < shy}
        for peer in self.peers:
            self._move(peer)
            self._begin(peer)
        self.net.run(2.0)
        self._introduce()

    def _server(self, name: str) -> Peer:
        identity = HostIdentity.from_secret(next(self._secrets))
        server = self.net.serve(OFFERED[name], 0, CONFIG, self.net.ip(), identity)
        self.net.books[server.hit] = Books()
        return server

    def _begin(self, peer: Peer) -> None:
        """What its owner asks of a new engine."""
        if peer.hit in self.shy:
            peer.engine.disclose_by(lambda local, other, shown: False)
        for who, whom in self.shown:
            if who == peer.hit:
                peer.engine.disclose(who, whom, self.net.now)
        for server in self.servers.values():
            peer.engine.learn(server.hit, [server.address])
        self._register(peer)

    # -- a step --------------------------------------------------------------------------------

    def step(self) -> None:
        """Something happens, then some time passes."""
        self.steps += 1
        net, rng = self.net, self.random
        peer, other = rng.sample(self.peers, 2)
        (what,) = rng.choices(list(_STEPS), list(_STEPS.values()))
        self.note(what.__name__.strip("_"), peer)
        what(self, peer, other)
        net.run(net.now + rng.random() * 0.05)
        self.check()

    def note(self, what: str, peer: Peer | None = None) -> None:
        where = f" {self.peers.index(peer)}" if peer is not None else ""
        self.did.append(f"{self.net.now:.3f}: {what}{where}")
        del self.did[:-200]

    def _say(self, peer: Peer, other: Peer) -> None:
        """Who hides answers, but calls nobody: it would show where it is."""
        self.sent += 1
        self._say_what(peer, other, b"%d" % self.sent)
        del peer.datagrams[:-50]

    def _hide(self, peer: Peer, other: Peer) -> None:
        if (peer.hit, other.hit) not in self.shown:
            self.net.hidden.add((peer.hit, other.hit))

    def _call(self, peer: Peer, other: Peer) -> None:
        net = self.net
        for i in range(100):
            net.at(net.now + i / 50, partial(self._say, peer, other))
            net.at(net.now + i / 50, partial(self._say, other, peer))
        net.run(net.now + 2)

    def _wait(self, *_: Peer) -> None:
        self.net.run(self.net.now + self.random.choice((0.001, 0.02, 0.2, 1.0, 5.0, 40.0)))

    def _sleep(self, *_: Peer) -> None:
        """A long silence: longer than NATs remember, registrations and permissions last."""
        self.net.run(self.net.now + self.random.choice((70.0, 200.0, 400.0)))

    def _move(self, peer: Peer, *_: Peer) -> None:
        self.moves += 1
        rng = self.random
        places = {self._place() for _ in range(rng.choice((1, 1, 1, 2)))}
        self.net.go(peer, *places)

    def _place(self) -> Home | None:
        rng = self.random
        kind = rng.choice(self.kinds)
        if kind is Kind.PUBLIC:
            return None
        used = [home for home in self.homes if home.members]
        if used and not self.apart and rng.random() < 0.15:
            return rng.choice(used)  # where somebody is already
        if self.homes and not self.apart and rng.random() < 0.2:
            return rng.choice(self.homes)
        nat = replace(NATS[kind], lifetime=rng.choice((30.0, 120.0)))
        home = self.net.home(nat)
        self.homes.append(home)
        if len(self.homes) > 8:
            gone = next((home for home in self.homes if not home.members), None)
            if gone is not None:
                self.homes.remove(gone)
                del self.net.homes[gone.ip]
        return home

    def _both_move(self, peer: Peer, other: Peer) -> None:
        self._move(peer)
        self.net.run(self.net.now + self.random.random() * 0.1)
        self._move(other)

    def _vanish(self, peer: Peer, *_: Peer) -> None:
        self.net.go(peer)
        self.net.run(self.net.now + self.random.choice((0.5, 5.0, 60.0)))
        self._move(peer)

    def _reboot_nat(self, peer: Peer, *_: Peer) -> None:
        for home in self.net.places(peer):
            if home is not None:
                self.net.reboot(home, renumbered=self.random.random() < 0.3)

    def _kill(self, *_: Peer) -> None:
        self.dead(self.random.choice(list(self.servers.values())), True)

    def _revive(self, *_: Peer) -> None:
        for server in self.servers.values():
            self.dead(server, False)

    def dead(self, server: Peer, is_dead: bool) -> None:
        """Nothing reaches it, or comes from it."""
        where = {a for a, there in self.net.peers.items() if there is server}
        self.net.dead -= {a for a in self.net.dead if a[0] == server.address[0]}
        if is_dead:
            self.net.dead |= where

    def _restart_server(self, *_: Peer) -> None:
        name = self.random.choice(list(self.servers))
        self.restart_server(self.servers[name])

    def restart_server(self, server: Peer) -> None:
        """It comes back and knows nothing of anybody."""
        name = next(name for name, there in self.servers.items() if there is server)
        self.dead(server, False)
        self.net.begin_anew(server)
        self.net.offer(server, OFFERED[name])
        self.net.books[server.hit] = Books()

    def _restart(self, peer: Peer, *_: Peer) -> None:
        self.net.restart(peer, CONFIG)
        self._begin(peer)
        self.net.perform(peer, peer.engine.set_locators(self.net.addresses(peer), self.net.now))

    def _register(self, peer: Peer, *_: Peer) -> None:
        for server in self.relays:
            peer.engine.requester.register((peer.hit, server.hit), [HIP, ESP], self.net.now)
        if peer.hit not in self.shy and self.random.random() < 0.5:
            rvs = self.servers["rvs"]
            peer.engine.requester.register((peer.hit, rvs.hit), [RVS], self.net.now)

    def _cancel(self, peer: Peer, *_: Peer) -> None:
        server = self.random.choice(list(self.servers.values()))
        types = self.random.choice((None, [ESP], [HIP]))
        peer.engine.requester.unregister((peer.hit, server.hit), types, self.net.now)

    def _rekey(self, peer: Peer, other: Peer) -> None:
        association = peer.engine._associations.get((peer.hit, other.hit))
        if association is None or association.standing.upkeep is None:
            return
        if association.state is State.ESTABLISHED:
            actions = association.standing.upkeep.start_rekey(self.net.now)
            peer.engine._settle(association)
            self.net.perform(peer, peer.engine._edge.pass_out(actions, self.net.now))

    def _disclose(self, peer: Peer, other: Peer) -> None:
        self.net.hidden.discard((peer.hit, other.hit))
        self.shown.add((peer.hit, other.hit))
        self.net.perform(peer, peer.engine.disclose(peer.hit, other.hit, self.net.now))

    def _close(self, peer: Peer, other: Peer) -> None:
        self.net.perform(peer, peer.engine.close(peer.hit, other.hit, self.net.now))

    def _befriend(self, peer: Peer, other: Peer) -> None:
        if peer.hit in self.shy:
            return
        chosen = self.random.choice(((), (other.hit,)))
        self.net.perform(peer, peer.engine.befriend(peer.hit, chosen, self.net.now))

    def _trouble(self, *_: Peer) -> None:
        net, rng = self.net, self.random
        net.loss, net.duplicates = rng.choice((0.05, 0.3)), rng.choice((0.0, 0.2))
        net.jitter = rng.choice((0.0, 0.1))

    def _mend(self, *_: Peer) -> None:
        self.net.loss = self.net.duplicates = self.net.jitter = 0.0
        self._introduce()

    def _replay(self, *_: Peer) -> None:
        if self.net.wire:
            old = self.random.choice(self.net.wire)
            call = self.net._control_call(old.data, old.source, old.to)
            self.net._deliver(old.source, old.to, call)

    def _introduce(self, *_: Peer) -> None:
        """Whoever looks finds through which servers the others may be reached."""
        for peer in self.peers:
            through = [
                row.address
                for row in peer.engine.requester.registrations()
                if row.type in {HIP, RVS} and row.address is not None
            ]
            for other in self.peers:
                if other is not peer and through:
                    other.engine.learn(peer.hit, [], through[:2])

    # -- what holds at any time ----------------------------------------------------------------

    def check(self) -> None:
        net = self.net
        assert not net.wrong, net.wrong
        for peer in net.everybody:
            self._check_engine(peer)
        for server in self.servers.values():
            self._check_server(server)
        net.bytes.clear()
        del net.wire[:-50]

    def _check_engine(self, peer: Peer) -> None:
        engine, now = peer.engine, self.net.now
        shared = engine._shared
        engine.counters.clear()
        assert not shared.errands
        assert (engine.deadline() or now) >= now
        associations = engine._associations
        assert len(associations) <= len(net_hits(self))
        assert engine._table.exchanging <= associations.keys()
        assert len(engine._table._alarms) < 500
        spis = set()
        for association in associations.values():
            installed = association.standing.installed
            sas = installed.sas if installed else None
            upkeep = installed.upkeep if installed else None
            work = association._initiation._work
            if work is not None and work.spi:
                spis.add(work.spi)
            if sas is not None:
                spis.add(sas.inbound.sa.spi)
            at = association.deadline()
            if at is not None:
                assert association.armed is not None
                assert association.armed <= at
            waits = association.state not in {State.UNASSOCIATED, State.E_FAILED}
            assert (at is not None) is waits, association.state
            outbound = engine.outbound.get(association.pair)
            if upkeep is None or sas is None:
                assert outbound is None
                continue
            rekeying = upkeep._rekeying
            for inbound in (rekeying.old, rekeying._prepared):
                if inbound is not None:
                    spis.add(inbound.sa.spi)
            assert outbound is None or outbound is sas.outbound
            assert len(upkeep.outbox.updates.outstanding) <= OUTSTANDING_MAX
            paths = upkeep._paths
            if isinstance(paths, Traversal):
                self._check_traversal(peer, association.pair, paths)
            elif association.state is not State.I1_SENT:
                assert outbound is not None
        assert engine.inbound.keys() == spis
        assert engine.outbound.keys() <= associations.keys()

    def _check_traversal(self, peer: Peer, pair: tuple[Hit, Hit], paths: Traversal) -> None:
        checks = paths.checks
        assert len(checks._list) <= PAIRS_MAX
        assert len(checks._heard) <= 16
        if paths.reachable:
            assert pair in peer.engine.outbound
        if (pair[1], pair[0]) in self.net.hidden:  # the peer must not have told where it is
            other = self.by_hit[pair[1]]
            own = {address for address in self.net.addresses(other)}
            told = {candidate.address for candidate in paths._theirs}
            assert not own & told, f"{own} told of"

    def _check_server(self, server: Peer) -> None:
        engine = server.engine
        registrar, data = engine.serving.registrar, engine.serving.data
        now = self.net.now
        clients = registrar._clients
        for pair, client in clients.items():
            assert pair in engine._associations, "a client without association"
            assert client.expires
            assert min(client.expires.values()) >= now
            assert max(client.expires.values()) <= now + 180
            assert client.expires.keys() == client.accounts.keys()
            assert (client.relayed is not None) is (ESP in client.expires)
            assert data.count(client) <= PERMISSIONS_MAX
        assert len(clients) <= len(self.peers)
        open_ = {client.relayed for client in clients.values() if client.relayed is not None}
        assert data._owners.keys() == data.down.keys() == open_
        assert data._permissions.keys() == {p for p, c in clients.items() if c.relayed}
        at = {client.path.to for client in clients.values() if client.path is not None}
        assert data.up.keys() <= at, "flows of nobody"
        flows = sum(len(flows) for flows in data.up.values())
        assert flows <= sum(len(each) for each in data._permissions.values())
        assert len(data._alarms) < 2_000
        for client in clients.values():
            for permission in data._permissions.get(client.pair, {}).values():
                assert now <= permission.expires <= now + 300

    # -- what holds after all trouble ----------------------------------------------------------

    def settle(self) -> None:
        """Trouble ends; perhaps a server stays away, or there are no data relays."""
        net, rng = self.net, self.random
        self.note("settle")
        net.loss = net.duplicates = net.jitter = 0.0
        self._revive()
        relayed = rng.random() < 0.85
        for peer in self.peers:
            if not net.addresses(peer):
                self._move(peer)
            self._register(peer)
            if not relayed:
                for server in self.relays:
                    peer.engine.requester.unregister((peer.hit, server.hit), [ESP], net.now)
        if rng.random() < 0.3:
            self.dead(rng.choice(self.relays), True)
        self.note("settled with relays" if relayed else "settled without data relays")
        self.wait_for_registrations(relayed)
        self._introduce()
        for i, a in enumerate(self.peers):
            for b in self.peers[i + 1 :]:
                self.settle_pair(a, b, relayed)
        self.check()

    def wait_for_registrations(self, relayed: bool) -> None:
        """Until everybody is registered with every server that there is."""
        net = self.net
        wanted = {HIP, ESP} if relayed else {HIP}
        there = [server for server in self.relays if server.address not in net.dead]
        end = net.now + 700
        while not all(self._has(peer, server, wanted) for peer in self.peers for server in there):
            assert net.now < end, "registrations don't come back"
            net.run(net.now + 1)

    def _has(self, peer: Peer, server: Peer, wanted: set[Any]) -> bool:
        mine = peer.engine.requester.registrations()
        theirs = server.engine.serving.registrar.of((server.hit, peer.hit))
        granted = {row.type for row in mine if row.server == server.hit}
        return theirs is not None and granted == wanted == set(theirs.expires)

    def settle_pair(self, a: Peer, b: Peer, relayed: bool) -> None:
        """Both hear each other, along the same way there and back, if there is one."""
        net = self.net
        if a.hit in self.shy:
            a, b = b, a
        if {a.hit, b.hit} <= self.shy and net.state(a, b) is not State.ESTABLISHED:
            return  # nobody calls
        direct = self.direct_possible(a, b)
        hidden = net.hidden & {(a.hit, b.hit), (b.hit, a.hit)}
        if relayed or (direct and not hidden):
            took = self.restored(a, b, PATIENCE)
            assert took is not None, f"not heard after {PATIENCE} s, direct={direct}"
            net.run(net.now + 40)
            assert self.restored(a, b, 2.0) is not None, "lost again without any trouble"
            there, back = self.route(a, b), self.route(b, a)
            checked = isinstance(_paths(a, b), Traversal)  # else RFC 8046 lets each side choose
            assert not checked or there == [hop[::-1] for hop in reversed(back)], (there, back)
            if any(peer.engine._shared.friends for peer in (a, b)):
                return  # who would meet again at once
            self._close(*self.random.choice(((a, b), (b, a))))
            net.run(net.now + 5)
            for one, other in ((a, b), (b, a)):
                assert net.state(one, other) in {State.UNASSOCIATED, State.CLOSED}
        else:
            for peer in (a, b):
                peer.events.clear()
            self._say(a, b)
            net.run(net.now + PATIENCE)
            if (a.hit, b.hit) not in a.engine.outbound:
                assert any(isinstance(event, AssociationDown) for event in a.events)

    def restored(self, a: Peer, b: Peer, patience: float, pause: float = 0.5) -> float | None:
        """Seconds until both have heard what the other has sent from now on; None: too many."""
        net = self.net
        began = net.now
        for peer in (a, b):
            peer.datagrams.clear()
        while net.now < began + patience:
            mark = b"mark%d" % self.sent
            self._say_what(a, b, b"there " + mark)
            self._say_what(b, a, b"back " + mark)
            self.sent += 1
            net.run(net.now + pause)
            if _has(b, b"there mark") and _has(a, b"back mark"):
                return net.now - began
        return None

    def _say_what(self, peer: Peer, other: Peer, what: bytes) -> None:
        pair, engine = (peer.hit, other.hit), peer.engine
        answers = pair in engine.outbound or engine._shared.hides(pair, self.net.now)
        if peer.hit in self.shy and not answers:
            return
        if other.hit in self.shy:
            self._hide(other, peer)
        self.net.send(peer, other.hit, UDP, what)

    def route(self, peer: Peer, other: Peer) -> list[Hop]:
        """The hops of one datagram."""
        self.net.hops = []
        self.net.send(peer, other.hit, UDP, b"which way?")
        self.net.run(self.net.now + 0.3)
        hops, self.net.hops = self.net.hops, None
        return [(plain(source), plain(to)) for source, to in hops]

    def direct_possible(self, a: Peer, b: Peer) -> bool:
        """Whether packets could go between them without a relay: see ``punching``."""
        for one in self.net.places(a):
            for other in self.net.places(b):
                if one is not None and one is other:
                    return True
                kinds = [_mapping(home) for home in (one, other)]
                hard = [_filters(home) for home in (one, other)]
                if not (any(kinds) and all(hard)):
                    return True
        return False


def _paths(peer: Peer, other: Peer) -> Mobility | Traversal | None:
    association = peer.engine._associations.get((peer.hit, other.hit))
    upkeep = association.standing.upkeep if association is not None else None
    return upkeep._paths if upkeep is not None else None


def _has(peer: Peer, begins: bytes) -> bool:
    return any(data.startswith(begins) for _, data in peer.datagrams)


def _mapping(home: Home | None) -> bool:
    """Whether it is a symmetric NAT."""
    independent = Behaviour.ENDPOINT_INDEPENDENT
    return home is not None and home.translator.nat.mapping is not independent


def _filters(home: Home | None) -> bool:
    """Whether strangers' packets don't pass."""
    independent = Behaviour.ENDPOINT_INDEPENDENT
    return home is not None and home.translator.nat.filtering is not independent


def net_hits(world: Nomads) -> set[Hit]:
    """Everybody."""
    return {peer.hit for peer in world.net.everybody}


_STEPS: dict[Callable[[Nomads, Peer, Peer], None], int] = {
    Nomads._say: 40,
    Nomads._call: 6,
    Nomads._move: 4,
    Nomads._both_move: 2,
    Nomads._vanish: 1,
    Nomads._reboot_nat: 3,
    Nomads._kill: 1,
    Nomads._revive: 2,
    Nomads._restart_server: 1,
    Nomads._restart: 1,
    Nomads._register: 4,
    Nomads._cancel: 2,
    Nomads._rekey: 3,
    Nomads._disclose: 1,
    Nomads._close: 2,
    Nomads._befriend: 1,
    Nomads._trouble: 4,
    Nomads._mend: 4,
    Nomads._introduce: 4,
    Nomads._replay: 3,
    Nomads._wait: 8,
    Nomads._sleep: 1,
}
