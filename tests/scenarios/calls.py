"""Two or three gateways with scripted clients, in virtual time: what test_calls_* build on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sim.clients import Agent, Wire
from sim.peer import SimPeer, World
from sipgw.gateway import SipService

ALICE, BOB, CAROL = "sip:alice@example.org", "sip:bob@example.org", "sip:carol@example.org"


class Stage:
    """A world, its wires (each peer has a loopback of its own) and its gateways."""

    def __init__(self, seed: int = 0) -> None:
        self.world = World(seed)
        self.peers: list[SimPeer] = []
        self.services: list[SipService] = []
        self.wires: list[Wire] = []

    async def gateway(self, *aors: str, **table: Any) -> SipService:
        peer = self.world.peer(*aors)
        wire = Wire(seed=len(self.wires))
        service = SipService(peer, table, wire.open)
        await service.start()
        self.peers.append(peer)
        self.wires.append(wire)
        self.services.append(service)
        return service

    async def agent(self, aor: str, at: int = 0, register: bool = True) -> Agent:
        agent = Agent(self.wires[at], aor, self.services[at].address)
        if register:
            assert (await agent.register()).status == 200
        return agent

    def sides(self) -> int:
        return sum(int(service.status()["media_sides"]) for service in self.services)

    def calls(self) -> int:
        return sum(int(service.status()["calls"]) for service in self.services)


@asynccontextmanager
async def two_peers(seed: int = 0, **table: Any) -> AsyncIterator[tuple[Stage, Agent, Agent]]:
    """Alice's peer and Bob's peer, a client registered at each."""
    stage = Stage(seed)
    await stage.gateway(ALICE, **table)
    await stage.gateway(BOB, **table)
    alice, bob = await stage.agent(ALICE, 0), await stage.agent(BOB, 1)
    try:
        yield stage, alice, bob
    finally:
        for service in stage.services:
            await service.stop()
