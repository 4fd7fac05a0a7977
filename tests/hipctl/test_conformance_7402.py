"""What RFC 7402 asks for and no other test shows; docs/conformance/rfc7402.md says which row."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from hipctl import HostConfig, LocalHost, contact_from_addresses, exchange, params, puzzle, signed
from hipctl.constants import PacketType
from hipctl.engine import Engine, EngineConfig
from hipctl.errors import HostConfigRefused, Rejected
from hipctl.exchange import KnownHosts, Reply
from hipctl.identity import HostIdentity
from hipctl.limits import Limiter
from hipctl.packet import Packet, build
from hipctl.responder import Responder
from hipctl.sas import Inbound
from hipctl.state import Shared
from sim import net as sockets
from sim.engines import FAST, Net, Seen
from sim.loop import simulate

A, B = (HostIdentity.from_secret(n) for n in (10_001, 10_002))
AT_A = ("192.0.2.1", 10500)
RNG = random.Random(9).randbytes


def test_spis_are_random_and_neither_reserved_nor_in_use() -> None:
    drawn = iter([0, 1, 255, 0x1111, 0x2222])
    shared = Shared(
        FAST, lambda n: next(drawn).to_bytes(n, "big"), Counter(), {}, {}, Limiter(1.0, 1, 1)
    )
    shared.inbound[0x1111] = Inbound.__new__(Inbound)
    assert shared.new_spi() == 0x2222


def test_every_exchange_has_spis_of_its_own() -> None:
    net = Net()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    for _ in range(4):
        net.send(a, b.hit, 17, b"x")
        net.run(net.now + 1)
        net.perform(a, a.engine.close(a.hit, b.hit, net.now))
        net.run(net.now + 20)
    spis = [
        Packet(seen.data).need(params.EspInfo).new_spi
        for seen in net.wire
        if seen.kind in (PacketType.I2, PacketType.R2)
    ]
    assert len(spis) == len(set(spis)) == 8


def half_done() -> tuple[Responder, Reply]:
    """A Responder and an I2 that it would accept."""
    responder = Responder(B, FAST, RNG)
    i1 = Packet(build(PacketType.I1, A.hit, B.hit, [params.DhGroupList((7,))]))
    offer = exchange.read_r1(Packet(responder.answer(i1, AT_A, 0.0)), FAST, KnownHosts())
    j = puzzle.solve(offer.puzzle.k, offer.prefix, offer.rhash, 1)
    assert j is not None
    reply = exchange.make_i2(A, offer, answer_j=j, spi=4711, config=FAST, rng=RNG)
    return responder, reply


def test_an_i2_with_an_old_spi_is_refused() -> None:
    responder, reply = half_done()
    parameters = [
        p for p in Packet(reply.packet).parameters() if not isinstance(p, params.Unknown)
    ]
    index = reply.keys.esp_index
    kept = [p for p in parameters if params.EspInfo.TYPE < p.TYPE < params.HipMac.TYPE]
    for info, accepted in (
        (params.EspInfo(index, 0, 300), True),
        (params.EspInfo(index, 299, 300), False),
    ):
        head = build(PacketType.I2, A.hit, B.hit, [])[:40]
        raw = signed.sign_and_mac(head + params.encode([info, *kept]), reply.keys, A)
        vetted = responder.vet(Packet(raw), AT_A, 0.0)
        if accepted:
            exchange.accept_i2(B, Packet(raw), vetted, FAST, KnownHosts())
            continue
        with pytest.raises(Rejected, match="bad ESP_INFO"):
            exchange.accept_i2(B, Packet(raw), vetted, FAST, KnownHosts())


def test_suites_after_the_sixth_do_not_count() -> None:
    offered = (7, 14, 15, 10, 11, 8, 13)  # GCM is the seventh
    with pytest.raises(Rejected):
        exchange._choose((13,), offered, "no ESP suite in common")
    assert exchange._choose((13, 8), offered, "no ESP suite in common") == 8


def test_the_default_offer_holds_the_mandatory_suite_and_six_at_most() -> None:
    config = EngineConfig()
    assert 8 in config.esp_suites
    assert len(config.esp_suites) <= 6


@pytest.mark.parametrize("suite", [7, 14, 15])
def test_a_suite_that_does_not_encrypt_cannot_be_configured(suite: int) -> None:
    with pytest.raises(HostConfigRefused):
        Engine([], EngineConfig(esp_suites=(13, suite)), RNG)


def test_the_initiator_can_receive_before_it_has_sent_i2() -> None:
    net = Net()
    a, b = net.add(), net.add()
    net.introduce(a, b)
    ready: list[int] = []

    def look(seen: Seen) -> list[bytes]:
        if seen.kind == PacketType.I2:
            ready.extend(a.engine.inbound)
        return [seen.data]

    net.tamper = look
    net.connect(a, b)
    net.run(1.0)
    (i2,) = net.sent(PacketType.I2)
    assert ready == [Packet(i2.data).need(params.EspInfo).new_spi]


def test_control_packets_never_go_through_an_sa() -> None:
    net = sockets.Net()
    ends: list[sockets.Address] = [("10.0.0.1", 10500), ("10.0.0.2", 10500)]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts = [
                await stack.enter_async_context(
                    LocalHost([who], HostConfig(listen=(end,), engine=FAST), open_port=net.open)
                )
                for who, end in zip((A, B), ends, strict=True)
            ]
            hosts[0].learn(B.hit, contact_from_addresses([ends[1]]))
            await hosts[0].connect(B.hit)
            hosts[0].disconnect(B.hit)
            await asyncio.sleep(1)

    simulate(main)
    kinds = [Packet(data[4:]).type for _, _, _, data in net.log if data[:4] == bytes(4)]
    assert kinds[:6] == [1, 2, 3, 4, 18, 19]
    assert len(kinds) == len(net.log)
