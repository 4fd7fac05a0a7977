"""Engines that serve others: relayed addresses, and walls between those who cannot meet."""

from collections.abc import Callable, Collection, Mapping

from hipctl.actions import Address
from hipctl.constants import RegistrationType
from hipctl.datarelay import Flow
from hipctl.identity import HostIdentity
from hipctl.interface import Offer
from hipctl.settings import EngineConfig
from sim.engines import FAST, Net, Peer

RVS = RegistrationType.RENDEZVOUS
HIP = RegistrationType.RELAY_UDP_HIP
ESP = RegistrationType.RELAY_UDP_ESP
RELAYS = {HIP: Offer(), ESP: Offer()}


class ServerNet(Net):
    """Delivers also what comes at relayed addresses, as a shell would.

    Attributes:
        walls: whether a packet may go (from, to).
        bytes: UDP payloads that arrived, by (from, to).
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.relayed: dict[Address, Peer] = {}
        self.walls: Callable[[Address, Address], bool] = lambda source, to: True
        self.bytes: dict[tuple[Address, Address], int] = {}

    def serve(
        self,
        offers: Mapping[RegistrationType, Offer],
        ports: int = 4,
        config: EngineConfig = FAST,
        name: str = "",
        identity: HostIdentity | None = None,
        *,
        shared: bool = False,
    ) -> Peer:
        """Add a server that offers this; ``shared``: one relayed address for all clients."""
        server = self.add(config, identity, name)
        self.offer(server, offers)
        for n in range(ports):
            address = (server.address[0], 50_000 + n)
            self.relayed[address] = self.peers[address] = server
            if shared:
                server.engine.serving.share(address, self.now)
                break
            server.engine.serving.data.lend(address)
        server.engine.serving.relay.ours = frozenset({server.address})
        return server

    def offer(self, server: Peer, offers: Mapping[RegistrationType, Offer]) -> None:
        server.engine.serving.offer(offers, server.engine.pairs(), self.now)

    def register(
        self, client: Peer, server: Peer, types: Collection[RegistrationType], wait: float = 1.0
    ) -> None:
        """Register, and let the answer come."""
        client.engine.learn(server.hit, [server.address])
        client.engine.requester.register((client.hit, server.hit), types, self.now)
        self.run(self.now + wait)

    def granted(self, client: Peer) -> set[RegistrationType]:
        return {row.type for row in client.engine.requester.registrations()}

    def _deliver(self, source: Address, to: Address, call: Callable[[Peer], None]) -> None:
        if self.walls(source, to):
            super()._deliver(source, to, call)

    def _control(self, other: Peer, data: bytes, source: Address, to: Address) -> None:
        way = source, to
        self.bytes[way] = self.bytes.get(way, 0) + len(data)
        if to in self.relayed:
            self.perform(other, other.engine.on_relayed(data, source, to, self.now))
        else:
            super()._control(other, data, source, to)

    def _open(self, other: Peer, sealed: bytes, source: Address, to: Address) -> None:
        spi, data = int.from_bytes(sealed[:4], "big"), other.engine.serving.data
        self.bytes[source, to] = self.bytes.get((source, to), 0) + len(sealed)
        if to in self.relayed:
            flow = data.down.get(to, {}).get(source, {}).get(spi)
        elif spi not in other.engine.inbound:
            flow = data.up.get(source, {}).get(spi)
        else:
            super()._open(other, sealed, source, to)
            return
        if flow is None:
            other.engine.counters["relayed ESP without permission"] += 1
        elif flow.account.pays(len(sealed), lambda: self.now):
            flow.used = True
            self._pass(other, flow, sealed)

    def _pass(self, server: Peer, flow: Flow, sealed: bytes) -> None:
        leaves = flow.source or server.address
        if self.relayed.get(leaves) is server and self.relayed.get(flow.to) is server:
            self._open(server, sealed, leaves, flow.to)
            return
        self._deliver(leaves, flow.to, lambda other: self._open(other, sealed, leaves, flow.to))


def met(walls: bool = False, *, seed: int = 0) -> tuple[ServerNet, Peer, Peer, Peer]:
    """A caller, a callee behind a relay, and the relay; ``walls``: they never meet directly."""
    net = ServerNet(seed)
    a, b, server = net.add(), net.add(), net.serve(RELAYS)
    for peer in (a, b):
        peer.engine.set_hosts([peer.address])
    net.register(b, server, [HIP, ESP])
    a.engine.learn(b.hit, [server.address])
    if walls:
        apart = {a.address, b.address}
        net.walls = lambda source, to: not {source, to} <= apart
    net.wire.clear()
    return net, a, b, server


def address(peer: Peer, other: Peer) -> Address:
    """Where data for ``other`` goes."""
    return peer.engine.outbound[peer.hit, other.hit].wire
