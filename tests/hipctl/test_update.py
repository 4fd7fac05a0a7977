"""Update IDs: what is sent again, what is acknowledged, what was seen before."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl.actions import Path
from hipctl.update import OUTSTANDING_MAX, Arrival, Outstanding, Updates

PATH = Path(None, ("192.0.2.1", 10500))
CIRCLE = 2**32


def updates() -> Updates:
    return Updates(0.5, 0.2)


def send(machine: Updates, now: float, limit: int = 5) -> Outstanding:
    update = Outstanding(machine.number(), b"packet", PATH, limit)
    machine.sent(update, now)
    return update


def test_the_first_update_id_is_zero_and_they_count_up_around_the_circle() -> None:
    machine = updates()
    assert [machine.number() for _ in range(3)] == [0, 1, 2]
    machine._next = CIRCLE - 1
    assert [machine.number() for _ in range(2)] == [CIRCLE - 1, 0]


def test_the_gaps_double_until_it_is_given_up() -> None:
    machine = updates()
    update = send(machine, 10.0)
    times: list[float] = []
    given_up: list[Outstanding] = []
    while (at := machine.deadline()) is not None:
        again, given_up = machine.expired(at)
        times += [at] * len(again)
    assert times == [10.5, 11.5, 13.5, 17.5]
    assert given_up == [update]
    assert machine.deadline() is None


def test_what_is_acknowledged_is_not_sent_again_and_only_the_first_ack_counts() -> None:
    machine = updates()
    update = send(machine, 0.0)
    assert machine.waits_for((7, 0))
    assert machine.acknowledged((7, 0), 0.1) == [update]
    assert not machine.waits_for((0,))
    assert machine.acknowledged((0,), 0.2) == []
    assert machine.deadline() is None


def test_the_timer_is_twice_the_round_trip_within_bounds() -> None:
    machine = updates()
    send(machine, 0.0)
    machine.acknowledged((0,), 0.15)
    assert send(machine, 1.0).due_at == pytest.approx(1.3)
    machine.rtt = 0.001
    assert send(machine, 1.0).due_at == pytest.approx(1.2)
    machine.rtt = 9.0
    assert send(machine, 1.0).due_at == pytest.approx(1.5)


def test_an_ack_of_a_retransmission_says_nothing_about_the_round_trip() -> None:
    machine = updates()
    send(machine, 0.0)
    machine.expired(0.5)
    machine.acknowledged((0,), 0.51)
    assert machine.rtt is None


def test_more_than_the_limit_forgets_the_oldest() -> None:
    machine = updates()
    for _ in range(OUTSTANDING_MAX + 3):
        send(machine, 0.0)
    assert len(machine.outstanding) == OUTSTANDING_MAX
    assert min(machine.outstanding) == 3


def test_the_peer_s_first_update_may_come_late_but_not_from_nowhere() -> None:
    assert updates().judge(0) is Arrival.NEW
    assert updates().judge(3) is Arrival.NEW
    assert updates().judge(1_000_000) is Arrival.OUTSIDE


def test_each_update_is_new_once_in_any_order() -> None:
    machine = updates()
    for update_id in (1, 0, 3, 2, 9):
        assert machine.judge(update_id) is Arrival.NEW
        machine.note(update_id)
        assert machine.judge(update_id) is Arrival.REPEATED
    assert machine.judge(5) is Arrival.NEW
    machine.note(1000)
    assert machine.judge(9) is Arrival.OUTSIDE
    assert machine.judge(1000 + 5000) is Arrival.OUTSIDE


def test_judging_notes_nothing() -> None:
    machine = updates()
    assert machine.judge(0) is machine.judge(0) is Arrival.NEW


@settings(max_examples=40)
@given(st.integers(0, CIRCLE - 1), st.integers(0, 2**32))
def test_around_the_circle_nothing_is_new_twice(start: int, seed: int) -> None:
    rng = random.Random(seed)
    machine = updates()
    machine._highest, machine._seen, machine._wrapped = start, 1, True
    seen = {start}
    for step in range(200):
        update_id = (start + step + rng.randint(-20, 20)) % CIRCLE
        if machine.judge(update_id) is Arrival.NEW:
            assert update_id not in seen
            machine.note(update_id)
            seen.add(update_id)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=40))
def test_a_deadline_stands_exactly_while_something_waits(
    steps: list[tuple[float, bool]],
) -> None:
    machine, now = updates(), 0.0
    for pause, ack in steps:
        now += pause
        machine.expired(now)
        if ack and machine.outstanding:
            machine.acknowledged(list(machine.outstanding)[:1], now)
        else:
            send(machine, now, limit=2)
        assert (machine.deadline() is not None) is bool(machine.outstanding)
