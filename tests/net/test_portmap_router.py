"""Port mappings at a real router, Debian's miniupnpd: made, used, kept, lost and deleted."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from net import home
from net.handover import ROOT
from net.home import LAN, LAN6, WAN, Home
from net.lab_capture import ladder

from hipctl import HostIdentity
from hipctl.mapped import NO_PUBLIC_ADDRESS
from sipgw.demo.process import Program

pytestmark = [pytest.mark.net, pytest.mark.slow]

PORT = 10_500
HOST, HOST6 = f"{LAN}.2", f"{LAN6}2"
ONLY = {  # the router's options that leave one protocol, and what we may try
    "PCP": ({"enable_natpmp": "yes", "enable_upnp": "no"}, ["PCP", "NAT-PMP", "UPnP"]),
    "NAT-PMP": ({"enable_natpmp": "yes", "enable_upnp": "no"}, ["NAT-PMP"]),  # it has no switch
    "UPnP": ({"enable_natpmp": "no", "enable_upnp": "yes"}, ["PCP", "NAT-PMP", "UPnP"]),
}


@pytest.fixture(scope="module")
def net() -> Iterator[Home]:
    if why := home.missing():
        pytest.skip(why)
    with Home() as made:
        yield made


class Client:
    """``mapping_client.py`` in the host's namespace."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def sees(self, key: str, timeout: float = 15, since: int = 0, **wanted: Any) -> Any:
        """The first line of a kind, and of a certain content if one is given."""

        def match(line: str) -> Any:
            if not line.startswith("{"):
                return None
            told = json.loads(line)
            if key not in told or any(told[key] != each for each in wanted.values()):
                return None
            return told

        return await self._program.lines.wait(match, timeout, since=since, what=f"{key} {wanted}")

    async def advice(self) -> Any:
        """What is said of each router once nothing more is tried."""

        def match(line: str) -> Any:
            rows = json.loads(line).get("rows") if line.startswith("{") else None
            return rows if rows and all("advice" in row for row in rows) else None

        return await self._program.lines.wait(match, 30, what="advice")

    @property
    def lines(self) -> int:
        return len(self._program.lines.entries)

    async def close(self) -> Any:
        self._program.write("close")
        return await self.sees("closed")


@asynccontextmanager
async def client(
    net: Home, addresses: list[str], loop: str = "uvloop", **settings: Any
) -> AsyncIterator[Client]:
    told = {"loop": loop, "port": PORT, "addresses": addresses, "settings": settings}
    script = str(ROOT / "tests" / "net" / "mapping_client.py")
    argv = [*net.inside("host"), sys.executable, script, json.dumps(told)]
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    async with Program("client", argv, env) as program:
        yield Client(program)


@pytest.mark.parametrize(
    ("protocol", "loop"),
    [("PCP", "asyncio"), ("NAT-PMP", "uvloop"), ("UPnP", "asyncio"), ("UPnP", "uvloop")],
)
def test_others_reach_us_until_we_close(net: Home, protocol: str, loop: str) -> None:
    async def main() -> None:
        options, protocols = ONLY[protocol]
        net.start_router(**options)
        assert not net.knock(WAN, PORT, 0.2)
        async with client(net, [HOST], loop, protocols=protocols) as host:
            told = await host.sees("changed", wanted=[[WAN, PORT, protocol]])
            assert told["after"] < 4
            assert net.knock(WAN, PORT)
            closed = await host.close()
            assert closed["closed"] < 1.5
            assert closed["left"] == 0
        assert not net.knock(WAN, PORT, 0.2)
        assert net.rules() == ""

    try:
        asyncio.run(main())
    finally:
        net.stop_router()


@pytest.mark.parametrize("protocol", ["PCP", "UPnP"])
def test_an_ipv6_firewall_is_opened_until_we_close(net: Home, protocol: str) -> None:
    async def main() -> None:
        net.start_router(**ONLY[protocol][0])  # but for IPv6 it always has PCP
        assert not net.knock(HOST6, PORT, 0.2)
        async with client(net, [HOST6], protocols=[protocol]) as host:
            await host.sees("changed", wanted=[[HOST6, PORT, protocol]])
            assert net.knock(HOST6, PORT)
            await host.close()
        assert not net.knock(HOST6, PORT, 0.2)
        assert net.rules() == ""

    try:
        asyncio.run(main())
    finally:
        net.stop_router()


@pytest.mark.parametrize("protocol", ONLY)
def test_mappings_are_renewed(net: Home, protocol: str) -> None:
    async def main() -> None:
        options, protocols = ONLY[protocol]
        net.start_router(**options)
        quick: dict[str, Any] = {"lifetime": 120, "lease": 120, "renew": 0.02}  # after 2.4 to 3 s
        async with client(net, [HOST], protocols=protocols, **quick) as host:
            await host.sees("changed", wanted=[[WAN, PORT, protocol]])
            first = (await host.sees("expires"))["expires"]
            later = (await host.sees("expires", since=host.lines))["expires"]
            assert later > first
            assert net.knock(WAN, PORT)

    try:
        asyncio.run(main())
    finally:
        net.stop_router()


@pytest.mark.parametrize(
    ("protocol", "politely"),
    [("PCP", False), ("NAT-PMP", False), ("UPnP", False), ("UPnP", True)],
)
def test_a_router_that_restarts_maps_again(net: Home, protocol: str, politely: bool) -> None:
    async def main() -> None:
        options, protocols = ONLY[protocol]
        net.start_router(**options)
        # with PCP, miniupnpd announces restarts in its format only: then we have to ask
        check = 1.0 if protocol == "NAT-PMP" else 120.0
        async with client(net, [HOST], protocols=protocols, check=check) as host:
            await host.sees("changed", wanted=[[WAN, PORT, protocol]])
            await asyncio.sleep(3)  # epochs count in seconds: it must have lived for some
            net.stop_router(politely)
            assert not net.knock(WAN, PORT, 0.2)
            seen, began = host.lines, time.monotonic()
            net.start_router(**options)
            await host.sees("expires", since=seen)
            assert time.monotonic() - began < 10
            assert net.knock(WAN, PORT)

    try:
        asyncio.run(main())
    finally:
        net.stop_router()


@pytest.mark.parametrize(
    ("protocol", "more"),
    [("PCP", {}), ("NAT-PMP", {}), ("UPnP", {}), ("UPnP", {"force_igd_desc_v1": "yes"})],
    ids=["PCP", "NAT-PMP", "IGDv2", "IGDv1"],
)
def test_a_port_that_another_has_is_mapped_elsewhere(
    net: Home, protocol: str, more: dict[str, str]
) -> None:
    async def main() -> None:
        options, protocols = ONLY[protocol]
        net.start_router(**options, **more)
        async with client(net, [f"{LAN}.3"], protocols=protocols) as other:
            await other.sees("changed", wanted=[[WAN, PORT, protocol]])
            async with client(net, [HOST], protocols=protocols) as host:
                ((ip, port, by),) = (await host.sees("changed"))["changed"]
                assert (ip, by) == (WAN, protocol)
                assert port != PORT
                assert net.knock(WAN, port)
                assert net.knock(WAN, PORT)
                await host.close()
            assert not net.knock(WAN, port, 0.2)
            assert net.knock(WAN, PORT)  # the other's is still there

    try:
        asyncio.run(main())
    finally:
        net.stop_router()


def test_a_hip_host_behind_the_router_is_called_from_outside(net: Home, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    identity = HostIdentity.generate()
    identity.save(key)
    hipctl = [sys.executable, "-c", "import sys; from hipctl.cli import main; sys.exit(main())"]
    env = {"PYTHONPATH": str(ROOT)}

    async def main() -> None:
        net.start_router(enable_natpmp="yes")
        listen = ["listen", "--identity", str(key), "--control", str(tmp_path / "control")]
        argv = [*net.inside("host"), *hipctl, *listen]
        async with Program("listener", argv, env):
            async with asyncio.timeout(15):
                while "10500" not in net.rules():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # it doesn't tell
            target = f"{identity.hit}@{WAN}:{PORT}"
            argv = [*net.inside("outside"), *hipctl, "ping", target, "--count", "1"]
            async with Program("caller", argv, env) as caller:
                assert await caller.exit_status(20) == 0, caller.tail()

    try:
        asyncio.run(main())
    finally:
        net.stop_router()


def test_a_home_without_port_mapping_is_told_what_to_do(net: Home) -> None:
    async def main() -> None:
        async with client(net, [HOST, HOST6]) as host:  # no router program at all
            rows = await host.advice()
            assert [row["address"] for row in rows] == [HOST, HOST6]
            assert "forward UDP port 10500 to 192.168.77.2" in rows[0]["advice"]
            assert "allow UDP port 10500 to 2a00:77::2" in rows[1]["advice"]
            await host.close()

    asyncio.run(main())


def test_behind_another_nat_it_is_said_and_nothing_announced() -> None:
    if why := home.missing():
        pytest.skip(why)

    async def main(net: Home) -> None:
        net.start_router(enable_natpmp="yes")
        async with client(net, [HOST]) as host:
            (row,) = await host.advice()
            # this router maps nothing then; others do, see test_mapping.py
            assert row["failures"]["NAT-PMP"] == NO_PUBLIC_ADDRESS
            assert row["failures"]["UPnP"] == NO_PUBLIC_ADDRESS
            assert "behind another NAT" in row["advice"]
            await host.close()

    with Home(wan="100.64.1.1") as net, ladder(net):
        asyncio.run(main(net))
