"""A host in a home: answers at a UDP port, and has its router map it; a JSON line for all it sees.

python mapping_client.py '{"loop": "uvloop", "port": 10500, "addresses": [...], "settings": {...}}'
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from importlib import import_module
from typing import Any

from hipctl.mapped import Protocol, Settings
from hipctl.portmap import PortMapper

LAG = 0.05  # seconds between two looks


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201  it is a program


def answer(loop: asyncio.AbstractEventLoop, ip: str, port: int) -> None:
    """Send everything back that comes to (ip, port)."""
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((ip, port))
    loop.add_reader(sock.fileno(), lambda: sock.sendto(*sock.recvfrom(2_048)))


async def main(told: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    port: int = told["port"]
    for ip in told["addresses"]:
        answer(loop, ip, port)
    chosen = dict(told["settings"])
    if "protocols" in chosen:
        chosen["protocols"] = frozenset(map(Protocol, chosen["protocols"]))
    mapper = PortMapper(
        port,
        lambda mapped: tell(
            changed=[[*each.external, each.protocol.value] for each in mapped],
            after=time.monotonic() - began,
        ),
        settings=Settings(**chosen),
    )
    began = time.monotonic()
    await mapper.start([(ip, port) for ip in told["addresses"]])
    closing = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), closing.set)
    expires: list[float] = []
    rows: list[dict[str, object]] = []
    longest, before = 0.0, time.monotonic()
    while not closing.is_set():
        now = [round(each.expires, 3) for each in mapper.mapped]
        if now != expires:
            expires = now
            tell(expires=expires)
        known = mapper.describe()
        for row in known:
            row.pop("seconds left", None)
        if known != rows:
            rows = known
            tell(rows=rows)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), LAG)
        longest, before = max(longest, time.monotonic() - before - LAG), time.monotonic()
    began_closing = time.monotonic()
    await mapper.close()
    await mapper.close()
    took = time.monotonic() - began_closing
    tell(counters=mapper.counters())
    tell(closed=took, held_up=longest, left=len(asyncio.all_tasks()) - 1)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    factory = import_module(asked["loop"]).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(asked))
