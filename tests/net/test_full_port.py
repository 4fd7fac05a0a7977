"""A port for whose datagrams the kernel has no room: they wait for a neighbour who isn't there."""

import json
import os
import subprocess
import sys

import pytest
from net import lab
from net.handover import ROOT

pytestmark = [pytest.mark.net]

SENDER = """
import asyncio, collections, json, socket, sys
import uvloop
from hipctl.udp import open_udp

async def main(ip, nobody):
    counters = collections.Counter()
    port = await open_udp((ip, 0), lambda *_: None, counters)
    port._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_000)
    for _ in range(2_000):
        port.send(bytes(200), (nobody, 9))
    waiting = port._transport.get_write_buffer_size()
    port.close()
    await asyncio.sleep(0.01)
    (await open_udp(port.address, lambda *_: None, counters)).close()
    await asyncio.sleep(0)
    print(json.dumps([waiting, counters]))

with asyncio.Runner(loop_factory=getattr(sys.modules[sys.argv[1]], "new_event_loop")) as runner:
    runner.run(main(*sys.argv[2:]))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_little_waits_for_a_neighbour_who_is_not_there_and_nothing_keeps_the_port(
    loop: str,
) -> None:
    if why := lab.missing():
        pytest.skip(why)
    with lab.Lab(["alice"]) as net:
        net.connect("alice", 1)
        net.add("alice", 1)
        nobody = net.address("alice", 1)[:-1] + "9"
        command = [sys.executable, "-c", SENDER, loop, net.address("alice", 1), nobody]
        done = subprocess.run(
            [*net.inside("alice"), *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            timeout=30,
        )
    waiting, counters = json.loads(done.stdout)
    assert 60_000 < waiting <= 2**16
    assert list(counters) == ["send failed: EAGAIN"]
    assert counters["send failed: EAGAIN"] > 1_000
