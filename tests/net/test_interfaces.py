"""Real changes of addresses and links, in a namespace, on both kinds of event loop."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable

import pytest
from net import lab
from net.handover import ROOT

from sipgw.demo.process import Program

pytestmark = [pytest.mark.net]

IN_TIME = 0.2  # seconds
UNPLUGGED = 1.3  # the kernel itself tells of carriers once a second

WATCHER = """
import asyncio, json, sys, time
import uvloop
from hipctl.interfaces import Interfaces

def tell(found):
    print(json.dumps([time.monotonic(), [each.ip for each in found]]), flush=True)

async def main():
    watch = Interfaces(tell)
    tell(watch.open(asyncio.get_running_loop()))
    await asyncio.sleep(30)

with asyncio.Runner(loop_factory=getattr(sys.modules[sys.argv[1]], "new_event_loop")) as runner:
    runner.run(main())
"""


async def changes(loop: str) -> None:
    with lab.Lab(["alice"]) as net:
        net.connect("alice", 1)
        net.connect("alice", 2)
        argv = [*net.inside("alice"), sys.executable, "-c", WATCHER, loop]
        env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        async with Program("watcher", argv, env) as watcher:

            async def expect(*wanted: str, since: float, within: float) -> None:
                def found(line: str) -> float | None:
                    at, ips = json.loads(line)
                    return float(at) if at >= since and ips == list(wanted) else None

                at = await watcher.lines.wait(found, 5, what=f"{wanted}")
                assert at - since <= within, f"{wanted} after {at - since:.3f} s"

            await expect(since=0.0, within=float("inf"))
            four, six = net.address("alice", 1), net.address("alice", 1, 6)
            other = net.address("alice", 2)
            steps: list[tuple[Callable[[], None], list[str], float]] = [
                (lambda: net.add("alice", 1), [four], IN_TIME),
                (lambda: net.add("alice", 1, 6), [four, six], IN_TIME),
                (lambda: net.add("alice", 2), [four, six, other], IN_TIME),
                (lambda: net.remove("alice", 1), [other, six], IN_TIME),
                (lambda: net.ip("router", "link set 1-2 down"), [six], UNPLUGGED),
                (lambda: net.ip("router", "link set 1-2 up"), [other, six], UNPLUGGED),
                (lambda: net.ip("alice", "link set link2 down"), [six], IN_TIME),
                (lambda: net.remove("alice", 1, 6), [], IN_TIME),
            ]
            for change, wanted, within in steps:
                since = time.monotonic()
                change()
                await expect(*wanted, since=since, within=within)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_change_is_told_within_200_ms(loop: str) -> None:
    if why := lab.missing():
        pytest.skip(why)
    asyncio.run(changes(loop))
