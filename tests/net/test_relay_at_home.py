"""A data relay behind a real router: its port is mapped, and who cannot meet talks through it."""

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Any

import pytest
from net import lab, lab_mapper
from net.handover import ROOT
from net.lab_capture import ladder
from net.lab_internet import Internet

from sipgw.demo.process import Program

pytestmark = [pytest.mark.net]

SCRIPT = str(ROOT / "tests" / "net" / "speaker.py")
PINGS = 5


async def told(program: Program, key: str) -> Any:
    def match(line: str) -> Any:
        found = json.loads(line) if line.startswith("{") else {}
        return found if key in found else None

    return await program.lines.wait(match, 20, what=key)


@pytest.mark.parametrize("hides", [(), ("hides",)])
def test_a_symmetric_and_a_port_restricted_home_talk_through_a_mapped_one(
    hides: tuple[str, ...],
) -> None:
    if why := lab.missing(lab_mapper.PROGRAM):
        pytest.skip(why)

    async def main(net: Internet) -> None:
        async with AsyncExitStack() as stack:

            async def start(name: str, *args: str) -> Program:
                env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
                argv = [*net.inside(name), sys.executable, SCRIPT, *args]
                return await stack.enter_async_context(Program(name, argv, env))

            relay = await told(await start("relay", "serve"), "contact")
            peers = {
                name: await start(name, relay["hit"], relay["contact"], *hides)
                for name in ("one", "other")
            }
            known = {name: await told(peers[name], "relayed") for name in peers}
            where = net.address("relay-home")
            addresses = {tuple(each["relayed"][0]) for each in known.values()}
            assert len(addresses) == 1, "they share it"
            assert addresses.pop()[0] == where
            peers["one"].write(f"{known['other']['hit']} {known['other']['contact']} {PINGS}")
            said = await told(peers["one"], "times")
            assert len(said["times"]) == PINGS
            assert said["relayed"] is True

    with Internet() as net:
        for name, kind in (
            ("relay", "mapped"),
            ("one", "symmetric"),
            ("other", "port-restricted"),
        ):
            net.home(f"{name}-home", kind)
            net.host(name, f"{name}-home")
        with ladder(net):
            asyncio.run(main(net))
