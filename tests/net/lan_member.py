"""A host for tests of LANs: ``python -m net.lan_member [welcome]``.

Prints its HIT, then for each line on its standard input what it has counted, as JSON.
"""

import asyncio
import json
import sys
import time

from hipctl import HostConfig, HostIdentity, LocalHost


async def main(welcome: bool) -> None:
    config = HostConfig(port_mapping=False, announce_private=True)
    async with LocalHost([HostIdentity.generate()], config) as host:
        if welcome:
            await host.welcome()
        print(json.dumps({"hit": str(host.hits[0])}), flush=True)  # noqa: T201
        while await asyncio.to_thread(sys.stdin.readline):
            said = {"cpu": time.process_time(), "counters": host.counters()}
            print(json.dumps(said), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main("welcome" in sys.argv))
