"""Two hosts, each behind a NAT of some kind, and two public servers, in virtual time."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from hipctl import HostConfig, HostIdentity, LocalHost, Offer, RegistrationType
from sim.ladder import of_internet
from sim.nats import Internet, Kind

SERVERS = (RegistrationType.RELAY_UDP_HIP, RegistrationType.RELAY_UDP_ESP)
KINDS = (
    Kind.PUBLIC,
    Kind.ENDPOINT_INDEPENDENT,
    Kind.PORT_RESTRICTED,
    Kind.SYMMETRIC,
    Kind.DOUBLE,
)


@dataclass(slots=True)
class Pair:
    """What there is: ``a`` calls, ``b`` is registered with both servers."""

    internet: Internet
    a: LocalHost
    b: LocalHost
    servers: list[LocalHost]
    heard: list[bytes]


@asynccontextmanager
async def pair(one: Kind, other: Kind, *, seed: int = 1) -> AsyncIterator[Pair]:
    """Make the two; what is raised meanwhile prints a ladder first."""
    internet = Internet(seed=seed, families="4")
    heard: list[bytes] = []
    async with AsyncExitStack() as stack:

        async def host(name: str, kind: Kind, number: int) -> LocalHost:
            machine = internet.machine(name, internet.place(kind))
            identity = HostIdentity.from_secret(number)
            made = LocalHost([identity], HostConfig(), open_port=machine.open, watch=machine.watch)
            return await stack.enter_async_context(made)

        servers = [await host(f"server{n}", Kind.PUBLIC, 100 + n) for n in (1, 2)]
        for server in servers:
            server.offer({kind: Offer() for kind in SERVERS})
        a, b = await host("alice", one, 1), await host("bob", other, 2)
        for peer in (a, b):
            for server in servers:
                peer.learn(server.hits[0], server.contact(server.hits[0]))
                await peer.register(server.hits[0], SERVERS)
        b.open(b.hits[0], 7, lambda data, peer, port: heard.append(data))
        a.learn(b.hits[0], b.contact(b.hits[0]))
        try:
            yield Pair(internet, a, b, servers, heard)
        except BaseException:
            sys.stdout.write(f"\n{of_internet(internet)}\n")
            raise


async def first_datagram(there: Pair, limit: float = 10.0) -> float:
    """Seconds until the first datagram of ``a`` is at ``b``."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    there.a.open(there.a.hits[0], 7, lambda *_: None).send(b"first", there.b.hits[0], 7)
    while not there.heard:
        assert loop.time() - began < limit, "it never came"
        await asyncio.sleep(0.01)
    return loop.time() - began


def row(host: LocalHost, peer: LocalHost) -> dict[str, object]:
    return next(r for r in host.associations() if r["peer"] == str(peer.hits[0]))
