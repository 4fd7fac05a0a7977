"""The shell of port mappings: real sockets on loopback, against routers that misbehave."""

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from hipctl import pcp, portmap
from hipctl.mapped import Fetch, Mapped, MappingsChanged, Protocol, Settings, Uplink, Url
from hipctl.mapping import Mapper
from hipctl.portmap import PortMapper

pytestmark = [pytest.mark.net]

HERE = Uplink("127.0.0.1", "127.0.0.1", "lo")
LOOPS = ["asyncio", "uvloop"]
MAPPED = Mapped(("5.9.1.1", 9), ("127.0.0.1", 9), Protocol.PCP, "127.0.0.1", 9.0, 9.0)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(loop: str, main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main()

    with asyncio.Runner(loop_factory=import_module(loop).new_event_loop) as runner:
        runner.run(whole())


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own routers are none of the tests' business."""
    monkeypatch.setattr(portmap, "_uplinks", lambda addresses: [])


async def fetch(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> tuple[int, bytes] | None:
    replies: list[tuple[int, bytes] | None] = []

    def on_reply(
        self: Mapper, uplink: Uplink, number: int, reply: tuple[int, bytes] | None, now: float
    ) -> list[object]:
        assert (uplink, number) == (HERE, 7)
        replies.append(reply)
        return []

    monkeypatch.setattr(Mapper, "on_reply", on_reply)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass  # who asks has had enough
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    mapper = PortMapper(10_500, lambda mapped: None)
    await mapper.start([])
    mapper._perform(Fetch(HERE, 7, Url("127.0.0.1", port, "/x")))
    async with asyncio.timeout(10):
        while not replies:
            await asyncio.gather(*mapper._tasks)
    server.close()
    await mapper.close()
    (reply,) = replies
    return reply


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reply_is_read(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    async def main() -> None:
        assert await fetch(serve, monkeypatch) == (200, b"hi")

    run(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", ["silent", "endless", "drip", "closed"])
def test_a_router_that_misbehaves_costs_a_task_for_some_seconds(
    loop: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portmap, "PATIENCE", 0.3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if kind == "silent":
            await reader.read()
        if kind == "closed":
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * (65_536 if kind == "endless" else 1))
            await writer.drain()
            await asyncio.sleep(0 if kind == "endless" else 0.01)

    async def main() -> None:
        assert await asyncio.wait_for(fetch(serve, monkeypatch), 30) is None

    run(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_port_that_nobody_has_is_no_harm(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[Uplink] = []

    def on_refused(self: Mapper, uplink: Uplink, now: float) -> list[object]:
        refused.append(uplink)
        return []

    monkeypatch.setattr(Mapper, "on_refused", on_refused)
    monkeypatch.setattr(pcp, "SERVER_PORT", 1)  # nobody's, on loopback

    async def main() -> None:
        mapper = PortMapper(10_500, lambda mapped: None)
        await mapper.start([])
        async with asyncio.timeout(5):
            while len(refused) < 2:  # ICMP, each time: the socket lives on
                mapper._ask(HERE, b"\0\0")
                await asyncio.sleep(0.02)
        mapper._ask(Uplink("192.0.2.1", "127.0.0.1", "lo"), b"\0\0")  # not ours
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert refused[-1].ip == "192.0.2.1"
        await mapper.close()

    run(loop, main)


def test_who_listens_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    def fail(mapped: Sequence[Mapped]) -> None:
        raise ValueError("no")

    async def main() -> None:
        mapper = PortMapper(10_500, fail)
        await mapper.start([("127.0.0.1", 10_500)])
        with caplog.at_level(logging.ERROR):
            mapper._perform(MappingsChanged((MAPPED,)))
        assert "was not taken" in caplog.text
        await mapper.close()

    run("asyncio", main)


def test_before_and_after_nothing_happens() -> None:
    async def main() -> None:
        mapper = PortMapper(10_500, lambda mapped: None)
        assert mapper.describe() == []
        mapper.moved([("127.0.0.1", 10_500)])
        await mapper.close()
        await mapper.start([("127.0.0.1", 10_500)])
        await mapper.close()
        await mapper.close()
        mapper.moved([("127.0.0.1", 10_500)])
        assert (mapper.mapped, mapper.describe(), mapper.counters()) == ([], [], {})

    run("asyncio", main)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net")
def test_routes_that_cannot_be_read_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    portmap._uplinks(["192.0.2.1"])  # whatever this machine has
    monkeypatch.setattr(portmap, "_PROC", tmp_path)
    assert portmap._uplinks(["10.0.0.1", "2400::1"]) == []


def test_close_waits_for_nobody_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portmap, "FAREWELL", 0.1)

    async def main() -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        mapper = PortMapper(
            10_500, lambda mapped: None, settings=Settings(protocols=frozenset({Protocol.UPNP}))
        )
        await mapper.start([])
        delete = [Fetch(HERE, 1, Url("127.0.0.1", port, "/x"), "urn:x#Delete", b"<a/>")]
        monkeypatch.setattr(Mapper, "close", lambda self: delete)
        await asyncio.wait_for(mapper.close(), portmap.PATIENCE / 2)
        silent.close()
        assert len(asyncio.all_tasks()) == 1

    run("asyncio", main)
