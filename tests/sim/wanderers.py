"""Two peers that move, lose links, rekey and talk at random, and what must hold all the time."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hipctl.actions import Address
from hipctl.constants import LOCATORS_MAX
from hipctl.mobility import Mobility
from hipctl.state import State
from hipctl.update import OUTSTANDING_MAX
from sim.engines import FAST, UDP, Net, Peer, both_ways

CONFIG = replace(FAST, rekey_packets=400, rekey_lifetime=300.0)


class Wanderers:
    """A network with two peers, all from one seed.

    Attributes:
        steps: how many were done.
        moves: of them, changes of address.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.net = Net(seed)
        self.a, self.b = self.net.add(CONFIG), self.net.add(CONFIG)
        self.steps = self.moves = 0
        self.sent = 0
        for peer in (self.a, self.b):
            self._move(peer)
        self._introduce()
        self.net.send(self.a, self.b.hit, UDP, b"first")
        self.net.run(2.0)

    def step(self) -> None:
        """Something happens, then some time passes."""
        self.steps += 1
        net, rng = self.net, self.random
        peer = rng.choice((self.a, self.b))
        (what,) = rng.choices(list(_STEPS), list(_STEPS.values()))
        what(self, peer, self.b if peer is self.a else self.a)
        net.run(net.now + rng.random() * 0.05)
        del net.wire[:-50]
        self.check()

    def check(self) -> None:
        """What holds at any time."""
        for peer in (self.a, self.b):
            engine = peer.engine
            engine.counters.clear()
            assert (engine.deadline() or self.net.now) >= self.net.now
            assert len(engine.inbound) <= 4  # in use, old, prepared, of an exchange
            for association in engine._associations.values():
                upkeep = association.standing.upkeep
                if upkeep is None:
                    continue
                assert isinstance(upkeep._paths, Mobility)
                waiting = upkeep.outbox.updates.outstanding
                assert len(waiting) <= OUTSTANDING_MAX
                assert len(list(upkeep._paths.peer)) <= LOCATORS_MAX
                outbound = engine.outbound[association.pair]
                known = upkeep._paths.peer.get(outbound.address)
                assert outbound.sa.metered is not (known is not None and known.verified)
                assert (
                    outbound.source is None
                    or outbound.source in upkeep._paths.ours
                    or (not upkeep._paths.ours)
                )
                at = upkeep.deadline()
                assert at is not None or not waiting
                if at is not None and association.state is not State.E_FAILED:
                    armed = association.armed
                    assert armed is not None
                    assert armed <= at

    def settle(self) -> None:
        """After all trouble, both hear each other; nothing is left behind."""
        net, a, b = self.net, self.a, self.b
        self._mend()
        self._introduce()
        net.run(net.now + 60)
        for _ in range(3):
            net.send(a, b.hit, UDP, b"again")
            net.send(b, a.hit, UDP, b"again")
            net.run(net.now + 40)
        both_ways(net, a, b)
        net.run(net.now + 100)
        both_ways(net, a, b)
        self.check()
        for _ in range(3):  # a rekey may have come with the last datagrams
            if len(a.engine.inbound) + len(b.engine.inbound) > 2 or self._telling():
                net.run(net.now + 70)
        for peer, other in ((a, b), (b, a)):
            assert net.state(peer, other) is State.ESTABLISHED
            assert len(peer.engine.inbound) == 1, peer.engine.inbound
            upkeep = peer.engine._associations[peer.hit, other.hit].standing.upkeep
            assert upkeep is not None
            assert not upkeep.outbox.updates.outstanding
            assert net.peers[peer.engine.outbound[peer.hit, other.hit].address] is other

    def _telling(self) -> bool:
        """Whether something waits for an acknowledgement."""
        return any(
            association.standing.upkeep is not None
            and association.standing.upkeep.outbox.updates.outstanding
            for peer in (self.a, self.b)
            for association in peer.engine._associations.values()
        )

    def _say(self, peer: Peer, other: Peer) -> None:
        self.sent += 1
        self.net.send(peer, other.hit, UDP, b"%d" % self.sent)
        del peer.datagrams[:-50]

    def _call(self, peer: Peer, other: Peer) -> None:
        for i in range(100):
            self.net.at(self.net.now + i / 50, partial(self._say, peer, other))
            self.net.at(self.net.now + i / 50, partial(self._say, other, peer))
        self.net.run(self.net.now + 2)

    def _wait(self, *_: Peer) -> None:
        pause = self.random.choice((0.001, 0.02, 0.2, 1.0, 5.0, 40.0))
        self.net.run(self.net.now + pause)

    def _vanish(self, peer: Peer, other: Peer) -> None:
        self.net.move(peer)
        self.net.run(self.net.now + self.random.random() * 5)
        self._move(peer)

    def _replay(self, *_: Peer) -> None:
        if self.net.wire:
            old = self.random.choice(self.net.wire)
            call = self.net._control_call(old.data, old.source, old.to)
            self.net._deliver(old.source, old.to, call)

    def _move(self, peer: Peer, *_: Peer) -> None:
        self.moves += 1
        rng = self.random
        n = 1 + 100 * (peer is self.b)
        homes = [(f"192.0.2.{n + i}", 10500) for i in range(4)]
        homes += [(f"2001:db8::{n + i:x}", 10500) for i in range(2)]
        chosen: list[Address] = rng.sample(homes, rng.randint(1, 3))
        if not any(":" not in ip for ip, _ in chosen):
            chosen.append(homes[0])  # else the two might have no IP version in common
        self.net.move(peer, *chosen)

    def _trouble(self, *_: Peer) -> None:
        net, rng = self.net, self.random
        net.loss, net.duplicates = rng.choice((0.05, 0.3)), rng.choice((0.0, 0.2))
        net.jitter = rng.choice((0.0, 0.1))
        net.dead = set(rng.sample(sorted(net.peers), rng.randint(0, 1)))

    def _mend(self, *_: Peer) -> None:
        net = self.net
        net.loss = net.duplicates = net.jitter = 0.0
        net.dead = set()
        self._introduce()

    def _introduce(self) -> None:
        for peer, other in ((self.a, self.b), (self.b, self.a)):
            there = [address for address, found in self.net.peers.items() if found is other]
            peer.engine.learn(other.hit, there)

    def _rekey(self, peer: Peer, other: Peer) -> None:
        association = peer.engine._associations.get((peer.hit, other.hit))
        if association is None or association.standing.upkeep is None:
            return
        if association.state is State.ESTABLISHED:
            self.net.perform(peer, association.standing.upkeep.start_rekey(self.net.now))
            peer.engine._settle(association)


_STEPS: dict[Callable[[Wanderers, Peer, Peer], None], int] = {
    Wanderers._say: 40,
    Wanderers._call: 4,
    Wanderers._move: 4,
    Wanderers._trouble: 4,
    Wanderers._mend: 4,
    Wanderers._rekey: 3,
    Wanderers._wait: 8,
    Wanderers._vanish: 1,
    Wanderers._replay: 3,
}
