"""Rekeying under load on real sockets: nothing is lost, nothing comes out of order."""

import asyncio
import time
from dataclasses import replace

import pytest

from hipctl import HostIdentity, contact_from_addresses
from hipctl.engine import EngineConfig
from hipctl.host import LocalHost
from hipctl.hostconfig import HostConfig

pytestmark = [pytest.mark.net, pytest.mark.slow]

RATE = 5_000  # datagrams a second
SECONDS = 6
PACKETS = 4_000  # under one SA
TICK = 0.002


@pytest.mark.parametrize("dh", [True, False])
def test_rekeys_under_5000_packets_a_second_lose_and_reorder_nothing(dh: bool) -> None:
    asyncio.run(_stream(dh))


async def _stream(dh: bool) -> None:
    engine = EngineConfig(k=1, rekey_packets=PACKETS, rekey_dh=dh)
    config = HostConfig(listen=(("127.0.0.1", 0),), engine=engine)
    sender, receiver = HostIdentity.generate(), HostIdentity.generate()
    got: list[int] = []
    async with (
        LocalHost([sender], config) as a,
        LocalHost([receiver], replace(config)) as b,
    ):
        b.open(receiver.hit, 7000, lambda data, *_: got.append(int.from_bytes(data[:4], "big")))
        endpoint = a.open(sender.hit, 0, lambda *_: None)
        a.learn(receiver.hit, contact_from_addresses(b.addresses))
        await a.connect(receiver.hit)
        answering = b.open(receiver.hit, 7001, lambda *_: None)
        began, sent = time.perf_counter(), 0
        while sent < RATE * SECONDS:
            due = min(int((time.perf_counter() - began) * RATE), RATE * SECONDS, sent + 200)
            for number in range(sent, due):
                endpoint.send(number.to_bytes(4, "big") + bytes(156), receiver.hit, 7000)
                if number % 100 == 0:  # the other side speaks too, as in a call
                    answering.send(b"heard", sender.hit, 7001)
            sent = due
            await asyncio.sleep(TICK)
        await asyncio.sleep(0.3)
        assert got == list(range(RATE * SECONDS))
        assert a.counters()["rekeyed"] >= 3
        assert b.counters()["rekeyed"] >= 3
        assert len(a.engine.inbound) <= 2  # the one in use, and the one before
