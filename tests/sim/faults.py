"""How long two nomads don't hear each other after each kind of fault, in and out of a call."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sim.engines import UDP, Peer
from sim.homenet import Home
from sim.nats import Kind
from sim.nomads import KINDS, Nomads

_PACE = 0.02  # seconds between packets of a call
_AFTER = 60.0  # seconds for which we listen after a fault
_FORGOTTEN = 600.0  # seconds of silence


@dataclass
class Outage:
    """What a fault did to a call.

    Attributes:
        fault: its name.
        relayed: data went through a relay before.
        seconds: the longest time for which one of both heard nothing, or less than ``_AFTER``.
    """

    fault: str
    relayed: bool
    seconds: float


class Pair(Nomads):
    """Two peers somewhere, both registered with both relays, who have met."""

    def __init__(self, seed: int, *, hard: bool = False) -> None:
        """Set up; ``hard``: only where they need a relay."""
        kinds = (Kind.SYMMETRIC,) if hard else KINDS
        super().__init__(seed, peers=2, shy=0.0, kinds=kinds, apart=True)
        self.a, self.b = self.peers
        for peer in self.peers:
            for server in (*self.relays, self.servers["rvs"]):
                peer.engine.learn(server.hit, [server.address])
        self.wait_for_registrations(relayed=True)
        self._introduce()
        assert self.restored(self.a, self.b, 30.0) is not None
        self.net.run(self.net.now + 10)  # a better path may be found

    @property
    def relay(self) -> Peer | None:
        """The data relay that their packets go through."""
        ends = {address for hop in self.route(self.a, self.b) for address in hop}
        return next((relay for relay in self.relays if relay.address in ends), None)

    # -- talking -------------------------------------------------------------------------------

    def heard(self, seconds: float, fault: Callable[["Pair"], None] | None) -> float:
        """Call for a while, with a fault at its beginning; the longest gap on either side."""
        net, began = self.net, self.net.now
        for peer in self.peers:
            peer.datagrams.clear()
        for i in range(round((seconds + 2) / _PACE)):
            at = began + i * _PACE
            net.at(at, partial(self._stamp, self.a, self.b))
            net.at(at, partial(self._stamp, self.b, self.a))
        net.run(began + 2)
        since = net.now
        if fault is not None:
            fault(self)
        net.run(began + seconds + 2)
        return max(_gap(peer, since, began + seconds + 1) for peer in self.peers)

    def _stamp(self, peer: Peer, other: Peer) -> None:
        self.net.send(peer, other.hit, UDP, b"%d" % round(self.net.now * 1e4))

    def found_again(self, fault: Callable[["Pair"], None]) -> float:
        """Have the fault while nobody speaks, speak after a while; seconds until both hear."""
        fault(self)
        self.net.run(self.net.now + 5)
        took = self.restored(self.a, self.b, _AFTER, pause=0.1)
        return _AFTER if took is None else took

    # -- faults --------------------------------------------------------------------------------

    def nothing(self) -> None:
        """No fault."""

    def one_moves(self) -> None:
        self._move(self.a)

    def other_moves(self) -> None:
        self._move(self.b)

    def both_move(self) -> None:
        self._both_move(self.a, self.b)

    def same_numbers(self) -> None:
        """To another home, where it has the same private address."""
        here = next((home for home in self.net.places(self.a) if home is not None), None)
        if here is None:
            self.net.go(self.a, self._home())
        else:
            self.net.go(self.a, self._like(here))

    def nowhere(self) -> None:
        self.net.go(self.a)
        self.net.at(self.net.now + 3.0, partial(self._move, self.a))

    def nat_reboots(self) -> None:
        self._reboot(renumbered=False)

    def nat_renumbers(self) -> None:
        self._reboot(renumbered=True)

    def _reboot(self, *, renumbered: bool) -> None:
        for home in {home for peer in self.peers for home in self.net.places(peer)}:
            if home is not None:
                self.net.reboot(home, renumbered=renumbered)

    def relay_dies(self) -> None:
        """The data relay in use; any, if there is none."""
        self.dead(self.relay or self.relays[0], True)

    def relay_restarts(self) -> None:
        """The same, and it has forgotten everything."""
        self.restart_server(self.relay or self.relays[0])

    def relay_away(self) -> None:
        """It is not reached for ten seconds."""
        relay = self.relay or self.relays[0]
        self.dead(relay, True)
        self.net.at(self.net.now + 10.0, partial(self.dead, relay, False))

    def all_relays_restart(self) -> None:
        for relay in self.relays:
            self.restart_server(relay)

    def rvs_dies(self) -> None:
        self.dead(self.servers["rvs"], True)

    def peer_restarts(self) -> None:
        self._restart(self.b)

    def loss(self) -> None:
        """A third is lost for five seconds."""
        self.net.loss = 0.33
        self.net.at(self.net.now + 5.0, self._mend)

    def rekey_with_loss(self) -> None:
        self.loss()
        self._rekey(self.a, self.b)

    def silence(self) -> None:
        """Nobody speaks for ten minutes."""
        self.net.run(self.net.now + _FORGOTTEN)

    def _home(self) -> Home:
        while True:
            place = self._place()
            if place is not None:
                return place

    def _like(self, home: Home) -> Home:
        made = self.net.home(home.translator.nat)
        number = next(a for a, there in home.members.items() if there is self.a)[0]
        others = int(number.rpartition(".")[2]) - 2
        for n in range(others):  # somebody has the numbers before
            made.members[f"192.168.1.{2 + n}", 10500] = self.servers["rvs"]
        return made


FAULTS: tuple[Callable[[Pair], None], ...] = (
    Pair.nothing,
    Pair.one_moves,
    Pair.other_moves,
    Pair.both_move,
    Pair.same_numbers,
    Pair.nowhere,
    Pair.nat_reboots,
    Pair.nat_renumbers,
    Pair.relay_dies,
    Pair.relay_restarts,
    Pair.relay_away,
    Pair.all_relays_restart,
    Pair.rvs_dies,
    Pair.peer_restarts,
    Pair.loss,
    Pair.rekey_with_loss,
)


def outages(seeds: range, fault: Callable[[Pair], None]) -> Iterator[tuple[Outage, Outage]]:
    """What a fault does in a call, and where nobody speaks, once for each seed."""
    for seed in seeds:
        pair = Pair(seed, hard=seed % 2 == 1)
        relayed = pair.relay is not None
        in_call = Outage(fault.__name__, relayed, pair.heard(_AFTER, fault))
        pair = Pair(seed, hard=seed % 2 == 1)
        idle = Outage(fault.__name__, relayed, pair.found_again(fault))
        yield in_call, idle


def _gap(peer: Peer, since: float, until: float) -> float:
    """The longest time in which nothing that was sent then has come, seconds."""
    times = sorted(int(data) / 1e4 for _, data in peer.datagrams if data.isdigit())
    times = [at for at in times if since <= at <= until]
    return max(b - a for a, b in zip([since, *times], [*times, until], strict=True))


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Median, 90th and 100th percentile."""
    found = sorted(seconds)
    return {
        "p50": found[len(found) // 2],
        "p90": found[min(len(found) - 1, len(found) * 9 // 10)],
        "max": found[-1],
    }
