"""A host that relays for others, or is relayed for, and pings; a JSON line for all it does.

    python speaker.py serve          says {"hit": ..., "contact": ...} once it is mapped
    python speaker.py HIT CONTACT    registers there, and says {"hit", "contact", "relayed"}
    python speaker.py HIT CONTACT hides    the same, and tells nobody else where it is

Contacts are in hexadecimal. A line "HIT CONTACT COUNT" on its input has it ping.
"""

import asyncio
import json
import sys

import uvloop

from hipctl import EngineConfig, Hit, HostConfig, HostIdentity, LocalHost, Offer, RegistrationType

KINDS = (RegistrationType.RELAY_UDP_HIP, RegistrationType.RELAY_UDP_ESP)
LAG = 0.05  # seconds between two looks


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201  it is a program


async def serve(host: LocalHost) -> None:
    """Relay; ready once a router has mapped also the port for data."""
    host.offer({kind: Offer() for kind in KINDS})
    while host.engine.serving.data.shared is None:  # noqa: ASYNC110
        await asyncio.sleep(LAG)  # it doesn't tell
    tell(hit=str(host.hits[0]), contact=host.contact(host.hits[0]).hex())


async def register(host: LocalHost, server: Hit, contact: bytes) -> None:
    """Have the server relay for us."""
    host.learn(server, contact)
    rows = [row for kind in KINDS for row in await host.register(server, [kind])]
    relayed = [row.relayed for row in rows if row.relayed]
    tell(hit=str(host.hits[0]), contact=host.contact(host.hits[0]).hex(), relayed=relayed)


def hide(host: LocalHost, server: Hit) -> None:
    """Tell nobody else where we are, whoever begins."""
    host.disclose_by(lambda *_: False)
    host.seclude(host.hits[0], [server])


async def ping(host: LocalHost, peer: Hit, contact: bytes, count: int, *, hides: bool) -> None:
    host.learn(peer, contact)
    if not hides:
        host.disclose(peer)
    await host.connect(peer, timeout=20.0)
    times = [await host.ping(peer) for _ in range(count)]
    [row] = [row for row in host.associations() if row["peer"] == str(peer)]
    tell(times=times, relayed=row["relayed"])


async def main() -> None:
    hides = sys.argv[3:] == ["hides"]
    config = HostConfig(locators=len(sys.argv) == 2, engine=EngineConfig(k=2))
    async with LocalHost([HostIdentity.generate()], config) as host:
        if len(sys.argv) == 2:
            await serve(host)
        else:
            server = Hit.parse(sys.argv[1])
            if hides:
                hide(host, server)
            await register(host, server, bytes.fromhex(sys.argv[2]))
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            await ping(host, Hit.parse(line[0]), bytes.fromhex(line[1]), int(line[2]), hides=hides)


if __name__ == "__main__":
    uvloop.run(main())
