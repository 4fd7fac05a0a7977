"""A host that serves whoever comes, for benchmarks; says where it is as a line of JSON."""

import asyncio
import json
import sys

import uvloop

from hipctl import EngineConfig, HostConfig, HostIdentity, LocalHost, Offer, RegistrationType

CLIENTS = 4_000
KINDS = (
    RegistrationType.RENDEZVOUS,
    RegistrationType.RELAY_UDP_HIP,
    RegistrationType.RELAY_UDP_ESP,
)


async def serve() -> None:
    """Serve until standard input ends."""
    config = HostConfig(
        listen=(("127.0.0.1", 0),), announce_private=True, engine=EngineConfig(k=2)
    )
    async with LocalHost([HostIdentity.generate()], config) as host:
        host.offer({kind: Offer(clients=CLIENTS) for kind in KINDS})
        await asyncio.sleep(0.5)  # ports of the data relay are opened
        address = list(host.addresses[0])
        print(json.dumps({"hit": str(host.hits[0]), "address": address}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
