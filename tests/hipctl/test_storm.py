"""A storm of I1s and bad I2s in virtual time; benchmarks/bench_storm.py has a real one."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from hipctl import exchange, params, puzzle
from hipctl.actions import Address
from hipctl.constants import PacketType
from hipctl.engine import EngineConfig
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build
from sim.engines import Net, Peer, solved, ups

CONFIG = EngineConfig(k=4, k_busy=10)
SECONDS, I1S, I2S = 6, 500, 100  # a second; a tenth of the real storm


def forged_hits(template: bytes) -> Iterator[bytes]:
    for number in count():
        yield template[:18] + number.to_bytes(6, "big") + template[24:]


def bad_i2s(net: Net, responder: Peer, address: Address) -> tuple[list[bytes], list[bytes]]:
    """I2s from ``address`` with wrong solutions, and with right ones and a wrong MAC."""
    attacker = net.add(CONFIG, name=address[0])
    attacker.engine.learn(responder.hit, [responder.address])
    i2 = solved(net, attacker, responder)
    attacker.engine.close(attacker.hit, responder.hit, net.now)  # it never sends the good one
    solution = Packet(i2).need(params.Solution)
    prefix = puzzle.prefix(solution.random_i, attacker.hit, responder.hit)
    wrong: list[bytes] = []
    right: list[bytes] = []
    dice = random.Random(1)
    for j in (dice.randbytes(48) for _ in range(200)):
        good = puzzle.verify(solution.k, prefix, j, "sha384")
        (right if good else wrong).append(i2.replace(solution.answer_j, j))
    return wrong, right


def storm(net: Net, responder: Peer, addresses: list[Address]) -> None:
    """Schedule ``SECONDS`` of it."""
    template = build(
        PacketType.I1,
        HostIdentity.from_secret(77).hit,
        responder.hit,
        [params.DhGroupList((7, 8))],
    )
    i1s = forged_hits(template)
    bad = {address: bad_i2s(net, responder, address) for address in addresses}
    dice = random.Random(2)
    begin = net.now

    def i1() -> None:
        responder.engine.on_control(next(i1s), dice.choice(addresses), net.now)

    def i2() -> None:
        address = dice.choice(addresses)
        packet = dice.choice(dice.choice(bad[address]))
        responder.engine.on_control(packet, address, net.now)

    for n in range(SECONDS * I1S):
        net.at(begin + n / I1S, i1)
    for n in range(SECONDS * I2S):
        net.at(begin + n / I2S, i2)


def test_honest_peers_get_through_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    accept = exchange.accept_i2

    def counted(identity, packet, *rest, **more):  # type: ignore[no-untyped-def]
        looks.append(packet.sender)
        return accept(identity, packet, *rest, **more)

    net = Net(1)
    b = net.add(CONFIG)
    addresses = [(f"198.51.100.{n}", 10500) for n in range(1, 9)]
    storm(net, b, addresses)
    monkeypatch.setattr(exchange, "accept_i2", counted)
    honest = [net.add(CONFIG, name=f"203.0.113.{n + 1}") for n in range(30)]
    begin = net.now
    for n, peer in enumerate(honest):
        peer.engine.learn(b.hit, [b.address])
        net.at(begin + n * SECONDS / 30, lambda peer=peer: net.connect(peer, b))  # type: ignore[misc]
    net.run(begin + SECONDS + 1)
    assert all(len(ups(peer)) == 1 and ups(peer)[0].seconds < 0.05 for peer in honest)
    counters = b.engine.counters
    answered = len(addresses) * (CONFIG.r1_burst + SECONDS * CONFIG.r1_rate + 1)
    assert counters["I1 rate limit"] >= SECONDS * I1S - answered > 1000
    assert counters["bad I2 rate limit"] > SECONDS * I2S / 2
    # what the liars could make us look at: their burst, and their rate, each address
    assert counters["wrong HIP_MAC"] == len(looks) - len(honest)
    allowed = len(addresses) * (CONFIG.bad_i2_burst + SECONDS * CONFIG.bad_i2_rate + 1)
    assert counters["wrong HIP_MAC"] + counters["puzzle not solved"] <= allowed
    assert len(b.engine.associations()) == len(honest)
    net.run(net.now + 60)
    responder = b.engine._identities[b.hit][1]
    assert responder.difficulty(net.now) == CONFIG.k


def test_a_storm_from_everywhere_makes_puzzles_harder_and_peers_still_get_through() -> None:
    net = Net(1)
    b = net.add(replace(CONFIG, calm_load=4.0))
    responder = b.engine._identities[b.hit][1]
    template = build(
        PacketType.I1, HostIdentity.from_secret(77).hit, b.hit, [params.DhGroupList((7,))]
    )
    dice, seen = random.Random(2), set()
    for n, i1 in zip(range(3000), forged_hits(template), strict=False):
        source = f"{dice.randrange(1, 200)}.{dice.randrange(256)}.{dice.randrange(256)}.1"
        b.engine.on_control(i1, (source, 1), n / 1000)
        seen.add(responder.difficulty(n / 1000))
    net.now = 3.0
    assert seen == {4, 5, 6, 7}
    peer = net.add(CONFIG)
    peer.engine.learn(b.hit, [b.address])
    net.connect(peer, b)
    net.run(4.0)
    assert ups(peer)
    assert len(b.engine.associations()) == 1
    net.run(30.0)
    assert responder.difficulty(net.now) == 4
