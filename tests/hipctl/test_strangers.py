"""A server in a flood of strangers' packets, on real sockets: its clients notice nothing."""

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import cycle

import pytest

from hipctl import (
    EngineConfig,
    Hit,
    HostConfig,
    HostIdentity,
    LocalHost,
    Offer,
    RegistrationType,
    contact_from_addresses,
)
from hipctl.actions import Address
from hipctl.constants import PacketType
from hipctl.contact import compose
from hipctl.exchange import make_i1
from hipctl.packet import build

pytestmark = pytest.mark.net

RVS, HIP, ESP = (
    RegistrationType.RENDEZVOUS,
    RegistrationType.RELAY_UDP_HIP,
    RegistrationType.RELAY_UDP_ESP,
)
KEYS = [HostIdentity.from_secret(8_000 + n) for n in range(5)]
CONFIG = EngineConfig(k=1)
STRANGERS, RATE = 64, 1_000  # addresses; packets a second
PACKETS, PACE = 100, 0.01  # of a call; seconds


def host(number: int) -> LocalHost:
    """Where only servers can say how it is reached."""
    config = HostConfig(
        listen=(("127.0.0.1", 0),), announce_private=True, locators=number == 0, engine=CONFIG
    )
    return LocalHost([KEYS[number]], config)


def troubles(hits: Sequence[Hit]) -> list[bytes]:
    """I1s and UPDATEs for these, ESP, garbage."""
    made = []
    for number in range(200):
        hit, nobody = (
            hits[number % len(hits)],
            Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big")),
        )
        made += [
            bytes(4) + make_i1(nobody, hit, CONFIG),
            bytes(4) + build(PacketType.UPDATE, nobody, hit, []),
            os.urandom(172),
            bytes(4) + os.urandom(100),
        ]
    return made


@contextmanager
def flood(hits: Sequence[Hit], to: Sequence[Address]) -> Iterator[list[int]]:
    """Within, strangers send; yields how much they have sent."""
    over, sent = threading.Event(), [0]
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(STRANGERS)]
    for number, sock in enumerate(socks):
        sock.bind((f"127.9.1.{number + 1}", 0))
    turns, dice = zip(cycle(socks), cycle(troubles(hits)), strict=False), random.Random(1)

    def send() -> None:
        began = time.monotonic()
        while not over.wait(0.002):
            while sent[0] < (time.monotonic() - began) * RATE:
                sock, data = next(turns)
                sock.sendto(data, dice.choice(to))
                sent[0] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()
        for sock in socks:
            sock.close()


async def talk(one: LocalHost, other: LocalHost) -> int:
    """How many packets of a call arrive."""
    heard: set[bytes] = set()
    there = other.open(other.hits[0], 7, lambda data, *_: heard.add(data))
    here = one.open(one.hits[0], 7, lambda *_: None)
    for number in range(PACKETS):
        here.send(bytes(160) + number.to_bytes(4, "big"), other.hits[0], 7)
        await asyncio.sleep(PACE)
    await asyncio.sleep(10 * PACE)
    here.close()
    there.close()
    return len(heard)


def test_relayed_calls_refreshes_and_new_callers_pass_a_flood() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            server, alice, bob, carol, dave = [
                await stack.enter_async_context(host(number)) for number in range(5)
            ]
            hit = server.hits[0]
            server.offer({RVS: Offer(), HIP: Offer(), ESP: Offer()})
            await asyncio.sleep(0.1)
            for client in (alice, bob, carol):
                client.learn(hit, server.contact(hit))
            [row] = await bob.register(hit, [ESP])
            assert row.relayed is not None
            await bob.register(hit, [HIP])
            await carol.register(hit, [RVS])
            alice.learn(bob.hits[0], contact_from_addresses(list(server.addresses)))
            await alice.connect(bob.hits[0])
            hits = [bob.hits[0], carol.hits[0], hit, KEYS[4].hit]
            with flood(hits, [server.addresses[0], row.relayed]) as sent:
                arrived = await talk(alice, bob)
                await carol.unregister(hit)
                await carol.register(hit, [RVS])
                dave.learn(carol.hits[0], compose((), carol.services.servers(carol.hits[0])))
                await dave.connect(carol.hits[0])
                assert await dave.ping(carol.hits[0]) < 1.0
            assert arrived >= PACKETS - 1
            assert sent[0] >= RATE
            counters = server.counters()
            assert counters["relayed ESP without permission"] > 0
            assert counters["unknown SPI"] > 0
            assert sum(row.packets for row in server.served()) < sent[0] + 10 * PACKETS

    asyncio.run(main())
