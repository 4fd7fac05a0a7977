"""Neighbours that ask us to knock at them: rarely, at their own address, and each once."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios.swarm import Swarm, identity

from hipctl import Hit
from overlay.knocking import (
    ALL_BURST,
    EACH_BURST,
    ELSEWHERE,
    HIDES,
    MAX_ANSWERS,
    MOST_AT_ONCE,
    KnockAt,
    Knocked,
    Knocking,
    knocked,
    passes,
)
from overlay.messages import Code, Field, Kind, encode_request, parse
from sim.hits import HitNet
from sim.loop import simulate

CONTACT = b"where"


def hit(number: int) -> Hit:
    return Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big"))


def request(number: int) -> bytes:
    return number.to_bytes(8, "big")


def code(answer: object) -> int:
    assert isinstance(answer, bytes)
    return int(parse(answer).fields[Field.CODE])


def test_a_knock_is_made_once_however_often_it_is_asked_for() -> None:
    knocking = Knocking(Counter())
    asked = knocking.on_asked(hit(1), request(1), CONTACT, 0.0)
    assert asked == KnockAt(hit(1), CONTACT, request(1))
    assert knocking.on_asked(hit(1), request(1), CONTACT, 1.0) is None
    answer = knocking.on_knocked(hit(1), request(1), True)
    message = parse(answer)
    assert (message.kind, message.answer, message.request_id) == (Kind.KNOCK, True, request(1))
    assert message.fields == {Field.REACHED: 1}
    assert knocking.on_asked(hit(1), request(1), CONTACT, 3.0) == answer
    assert parse(knocking.on_knocked(hit(1), request(2), False)).fields == {Field.REACHED: 0}


def test_who_names_nothing_to_knock_at_is_told_where_it_is_seen() -> None:
    knocking = Knocking(Counter())
    assert knocking.on_asked(hit(1), request(1), b"", 0.0) == KnockAt(hit(1), b"", request(1))
    message = parse(knocking.on_knocked(hit(1), request(1), b"there"))
    assert (message.kind, message.fields) == (Kind.KNOCK, {Field.SEEN: b"there"})


def test_who_wants_us_to_knock_elsewhere_is_refused() -> None:
    counters: Counter[str] = Counter()
    knocking = Knocking(counters)
    knocking.on_asked(hit(1), request(1), CONTACT, 0.0)
    message = parse(knocking.on_knocked(hit(1), request(1), ELSEWHERE))
    assert message.fields == {Field.CODE: Code.REFUSED, Field.REASON: ELSEWHERE}
    assert counters == {f"no knock: {ELSEWHERE}": 1}


@pytest.mark.parametrize(
    ("why", "verdict"), [(ELSEWHERE, Knocked.ELSEWHERE), (HIDES, Knocked.HIDES)]
)
def test_who_does_not_knock_says_why(why: str, verdict: Knocked) -> None:
    knocking = Knocking(Counter())
    knocking.on_asked(hit(1), request(1), CONTACT, 0.0)
    message = parse(knocking.on_knocked(hit(1), request(1), why))
    assert knocked(None, [message.fields[Field.REASON]]) is verdict


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ((Knocked.YES, Knocked.NO), True),
        ((Knocked.NO, Knocked.HIDES, Knocked.UNKNOWN), False),
        ((Knocked.HIDES, Knocked.ELSEWHERE, Knocked.SILENT, Knocked.UNKNOWN), None),
        ((), None),
    ],
)
def test_whether_a_server_passes_calls_on_is_said_by_those_who_can_tell(
    said: tuple[Knocked, ...], expected: bool | None
) -> None:
    assert passes(said) is expected


def test_one_neighbour_gets_one_knock_at_a_time_and_a_few_in_all() -> None:
    knocking = Knocking(Counter())
    knocking.on_asked(hit(1), request(1), CONTACT, 0.0)
    assert code(knocking.on_asked(hit(1), request(2), CONTACT, 0.0)) == Code.BUSY
    knocking.on_knocked(hit(1), request(1), True)
    made = 1
    for number in range(10, 100):
        if isinstance(knocking.on_asked(hit(1), request(number), CONTACT, 1.0), KnockAt):
            knocking.on_knocked(hit(1), request(number), True)
            made += 1
    assert made == EACH_BURST
    assert isinstance(knocking.on_asked(hit(1), request(200), CONTACT, 60.0), KnockAt)


def test_many_neighbours_get_few_knocks_at_a_time() -> None:
    knocking = Knocking(Counter())
    made = [knocking.on_asked(hit(n), request(n), CONTACT, 0.0) for n in range(50)]
    assert sum(isinstance(each, KnockAt) for each in made) == min(MOST_AT_ONCE, ALL_BURST)
    assert code(made[-1]) == Code.BUSY


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans(), st.floats(0.0, 9.0)),
        max_size=120,
    )
)
def test_whatever_is_asked_knocks_are_few_and_every_one_is_answered(
    steps: list[tuple[int, int, bool, float]],
) -> None:
    knocking, now = Knocking(Counter()), 0.0
    under_way: list[KnockAt] = []
    made = 0
    for who, number, done, gap in steps:
        now += gap
        if done and under_way:
            knock = under_way.pop(0)
            answer = knocking.on_knocked(knock.hit, knock.request_id, number % 2 == 0)
            assert parse(answer).request_id == knock.request_id
            continue
        asked = knocking.on_asked(hit(who), request(number), CONTACT, now)
        if isinstance(asked, KnockAt):
            assert asked.hit == hit(who)
            under_way.append(asked)
            made += 1
        elif asked is not None:
            assert parse(asked).request_id == request(number)
        assert len(under_way) <= MOST_AT_ONCE
        assert len({knock.hit for knock in under_way}) == len(under_way)
        assert made <= ALL_BURST + 2.0 * now
        assert len(knocking._answers) <= MAX_ANSWERS


# --- between nodes


async def neighbours(net: HitNet, count: int) -> Swarm:
    swarm = Swarm(net, seed=net.seed)
    await swarm.grow(count)
    await asyncio.sleep(3)
    return swarm


@pytest.mark.parametrize(
    ("site", "mapped", "firewalled", "expected"),
    [
        (None, False, False, Knocked.YES),
        (None, False, True, Knocked.NO),
        ("home", False, False, Knocked.ELSEWHERE),
        ("home", True, False, Knocked.YES),
    ],
)
def test_a_neighbour_tells_whether_it_reaches_us(
    site: str | None, mapped: bool, firewalled: bool, expected: Knocked
) -> None:
    async def main() -> None:
        swarm = await neighbours(HitNet(latency=(0.02, 0.05), seed=2), 3)
        one, other, _ = swarm.nodes
        host = swarm.host(one)
        host.site, host.mapped, host.firewalled = site, mapped, firewalled
        direct = host.reachability().direct
        assert await one.ask_to_knock(other.local, direct) is expected
        assert swarm.host(other).knocks == [] or expected is not Knocked.ELSEWHERE
        session = one.engine.session(other.local)
        assert session is not None
        assert session.srtt < 0.2  # a knock takes its time, and says nothing of the path

    simulate(main)


def test_lost_datagrams_cost_neither_the_answer_nor_a_second_knock() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.02, 0.05), seed=2)
        swarm = await neighbours(net, 2)
        one, other = swarm.nodes
        direct = swarm.host(one).reachability().direct
        net.loss = 0.4
        answers: Counter[Knocked] = Counter()
        for _ in range(12):
            answers[await one.ask_to_knock(other.local, direct)] += 1
            await asyncio.sleep(60)
        assert answers[Knocked.YES] >= 7
        assert set(answers) <= {Knocked.YES, Knocked.SILENT}
        assert len(swarm.host(other).knocks) <= 12

    simulate(main)


def test_silence_and_strangers_tell_nothing() -> None:
    async def main() -> None:
        swarm = await neighbours(HitNet(seed=2), 2)
        one, other = swarm.nodes
        assert await one.ask_to_knock(identity(99).hit, b"sim:") is Knocked.SILENT
        swarm.host(other).stop()
        began = one.now()
        assert await one.ask_to_knock(other.local, b"sim:") is Knocked.SILENT
        assert one.now() - began <= 7.1

    simulate(main)


def test_a_neighbour_that_is_asked_too_often_says_so() -> None:
    async def main() -> None:
        swarm = await neighbours(HitNet(seed=2), 2)
        one, other = swarm.nodes
        direct = swarm.host(one).reachability().direct
        answers = [await one.ask_to_knock(other.local, direct) for _ in range(8)]
        assert answers == [Knocked.YES] * 4 + [Knocked.UNKNOWN] * 4

    simulate(main)


def test_a_stranger_cannot_make_us_knock() -> None:
    async def main() -> None:
        swarm = await neighbours(HitNet(seed=2), 2)
        one, _ = swarm.nodes
        data = encode_request(Kind.KNOCK, request(1), {Field.CONTACT: b"sim:"})
        actions = one.engine.on_datagram(data, hit(77), one.now(), swarm.wall())
        (action,) = actions
        assert not isinstance(action, KnockAt)
        await asyncio.sleep(5)
        assert swarm.host(one).knocks == []

    simulate(main)


def test_a_ping_measures_the_way_and_notices_silence() -> None:
    async def main() -> None:
        swarm = await neighbours(HitNet(latency=(0.05, 0.05), seed=2), 2)
        one, other = swarm.nodes
        rtt = await one.ping(other.local)
        assert rtt is not None
        assert 0.09 < rtt < 0.12
        assert await one.ping(identity(99).hit) is None
        swarm.host(other).stop()
        assert await one.ping(other.local) is None

    simulate(main)
