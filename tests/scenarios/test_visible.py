"""Whoever lets strangers see its address can be called, whatever NATs are between."""

import asyncio
import itertools
from contextlib import AsyncExitStack

from scenarios.nat_pairs import KINDS

from hipctl import HipError, Hit, HostConfig, HostIdentity, LocalHost, Offer, RegistrationType
from hipctl.errors import Rejected
from overlay.hiding import HEAD_START, Hiding
from sim.ladder import of_internet
from sim.loop import simulate
from sim.mapper import machine_mapper
from sim.nats import Internet, Kind

EVERY_KIND = (*KINDS, Kind.MAPPED)
PATIENCE = 3.0  # seconds of whoever calls
PORT = 7


class Place:
    """A host, in a place of some kind, and what came to it."""

    def __init__(self, internet: Internet, name: str, kind: Kind, number: int) -> None:
        self.kind = kind
        machine = internet.machine(name, internet.place(kind, name))
        self.host = LocalHost(
            [HostIdentity.from_secret(number)],
            HostConfig(),
            open_port=machine.open,
            watch=machine.watch,
            map_port=machine_mapper(machine),
        )
        self.hit: Hit = self.host.hits[0]
        self.heard: set[bytes] = set()

    async def proven(self, server: LocalHost) -> bool:
        """What a server says that knocks."""
        try:
            return await server.knock(self.hit, self.host.reachability().direct, 2.0)
        except Rejected:  # it sees us elsewhere
            return False

    async def find_servers(self, servers: list[LocalHost]) -> None:
        """Register as the policy of overlays has it for who is visible."""
        for server in servers:
            self.host.learn(server.hits[0], server.contact(server.hits[0]))
            await self.host.connect(server.hits[0])
        proven = await self.proven(servers[0])
        ways = Hiding(visible=True, hides=False).ways(proven, lambda: False, HEAD_START)
        for server in servers:
            if ways:
                await self.host.register(server.hits[0], ways[0])

    async def calls(self, other: "Place", contact: bytes) -> bool:
        """Whether something arrives in the first seconds."""
        data = self.hit + other.hit
        self.host.learn(other.hit, contact)
        try:
            await self.host.connect(other.hit, timeout=PATIENCE)
        except HipError:
            return False
        end = self.host.open(self.hit, 0, lambda *_: None)
        end.send(data, other.hit, PORT)
        await asyncio.sleep(1)
        end.close()
        return data in other.heard


def test_every_kind_calls_every_visible_kind_in_the_first_seconds() -> None:
    async def main() -> tuple[list[str], str]:
        internet = Internet(seed=1, families="4")
        numbers = itertools.count(1)
        async with AsyncExitStack() as stack:

            async def place(name: str, kind: Kind) -> Place:
                made = Place(internet, name, kind, next(numbers))
                await stack.enter_async_context(made.host)
                made.host.open(made.hit, PORT, lambda data, *_: made.heard.add(data))
                return made

            servers = [(await place(f"server{n}", Kind.PUBLIC)).host for n in (1, 2)]
            for server in servers:
                server.offer({kind: Offer() for kind in RegistrationType})
            failed = []
            for kind in EVERY_KIND:
                callee = await place(f"to {kind.value}", kind)
                await asyncio.sleep(0.1)
                await callee.find_servers(servers)
                contact = callee.host.contact(callee.hit)
                for other in EVERY_KIND:
                    caller = await place(f"from {other.value} to {kind.value}", other)
                    if not await caller.calls(callee, contact):
                        failed.append(f"{other.value} to {kind.value}")
                    await caller.host.__aexit__(None, None, None)
            return failed, of_internet(internet)[-20_000:] if failed else ""

    failed, ladder = simulate(main)
    assert not failed, f"{failed}\n{ladder}"
