"""Few peers, each asleep most of the time, none always on: whoever is awake can be called.

Short runs for CI, with the figures printed; ``tests/soak/sleepers.py`` runs as long as you like.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import pytest
from scenarios.sleepers import Outcome, Plan, World, family, percentile, run

from overlay.hiding import UNSTEADY
from sim.loop import simulate
from sim.nats import Kind

SIZES = [2, 3, 5, 8]
SUCCESS, CALLABLE, TOLD = 0.999, 5.0, 30.0  # what issue 4 asks for
CALLS, WAKES = 100, 15  # that a run must have measured, or it shows nothing
MINUTES = {2: 90, 3: 85, 5: 40, 8: 20}  # virtual ones, for 5 to 12 seconds of real time each
PUBLIC = {2: 80, 3: 70, 5: 16, 8: 13}  # all can be reached: that many call sooner
SYMMETRIC = {3: 85, 5: 40, 8: 15}
SELDOM = {3: 10, 5: 10, 8: 3}  # wakes while one is awake who can be reached: of many few
EVERY = {2: 3.0, 3: 2.0, 5: 1.5, 8: 1.0}  # seconds between two calls

pytestmark = pytest.mark.slow


def plan(kinds: Sequence[Kind], minutes: Mapping[int, int] = MINUTES, **more: Any) -> Plan:
    size = len(kinds)
    return Plan(kinds=tuple(kinds), seconds=60 * minutes[size], every=EVERY[size], **more)


def measured(plan: Plan) -> Outcome:
    outcome = simulate(lambda: run(plan))
    sys.stdout.write("\n".join([str(outcome), *outcome.ladders[:1], ""]))
    return outcome


def check(outcome: Outcome, wakes: int = WAKES) -> None:
    assert outcome.tried() >= CALLS
    assert outcome.success() >= SUCCESS
    for found in (outcome.called_after, outcome.calls_after):
        assert len(found) >= wakes
        assert sum(seconds > CALLABLE for seconds in found) <= len(found) // 20  # p95


@pytest.mark.parametrize("size", PUBLIC)
def test_public_peers_that_sleep_call_each_other(size: int) -> None:
    check(measured(plan((Kind.PUBLIC,) * size, PUBLIC)))


@pytest.mark.parametrize("size", PUBLIC)
def test_public_peers_that_end_and_start_again_call_each_other(size: int) -> None:
    check(measured(plan((Kind.PUBLIC,) * size, PUBLIC, quits=1.0)))


@pytest.mark.parametrize("size", SIZES)
def test_a_family_behind_nats_of_which_one_maps_ports_call_each_other(size: int) -> None:
    outcome = measured(plan(family(size)))
    check(outcome)
    if size > 2:  # while that one sleeps, too
        assert outcome.tried(reachable=False) >= CALLS // 2
        assert outcome.success(reachable=False) >= SUCCESS


@pytest.mark.parametrize("size", SIZES[1:])  # of two who are awake one is that one
def test_so_do_few_who_are_no_contacts_while_one_whom_they_reach_is_awake(size: int) -> None:
    check(measured(plan(family(size), acquainted=False)), SELDOM[size])


def test_a_family_whose_programs_end_and_start_again_call_each_other_while_its_relay_is_away() -> (
    None
):
    outcome = measured(Plan(kinds=family(5), seconds=3_600, quits=1.0))
    check(outcome)
    assert outcome.tried(reachable=False) >= CALLS // 2
    assert outcome.success(reachable=False) >= SUCCESS


def test_few_who_are_no_contacts_find_each_other_when_their_relay_has_been_away_before() -> None:
    outcome = measured(Plan(kinds=family(5), seconds=7_200, acquainted=False))
    assert outcome.success() >= 0.99  # a relay may fall asleep just when somebody calls
    late = sum(when > UNSTEADY for when, *_ in outcome.failures)
    assert late <= len(outcome.failures) // 20  # they had not met before, now nearly all have


@pytest.mark.parametrize("size", SYMMETRIC)
def test_so_does_a_family_with_symmetric_nats(size: int) -> None:
    check(measured(plan(family(size, symmetric=True), SYMMETRIC)), SELDOM[size])


ALONE = [Kind.PORT_RESTRICTED, Kind.SYMMETRIC, Kind.DOUBLE]


@pytest.mark.parametrize("kind", ALONE)
def test_two_whom_nobody_can_reach_are_told_what_is_missing(kind: Kind) -> None:
    async def main() -> list[str]:
        async with World(Plan(kinds=(kind, kind), forming=TOLD, seconds=0, asleep=0)) as world:
            await world.measure()
            return [sleeper.told() for sleeper in world.sleepers]

    assert all(simulate(main))


@pytest.mark.parametrize("kind", ALONE)
def test_so_are_two_who_wake_elsewhere_while_those_sleep_who_can_be_reached(kind: Kind) -> None:
    async def main() -> list[str]:
        kinds = (Kind.MAPPED, kind, kind)
        async with World(Plan(kinds=kinds, seconds=0, asleep=0)) as world:
            await world.measure()
            assert not any(sleeper.told() for sleeper in world.sleepers)
            for sleeper in world.sleepers:
                sleeper.machine.sleep()
            await asyncio.sleep(600)
            both = world.sleepers[1:]
            for sleeper in both:
                sleeper.machine.move(world.internet.place(kind))
                sleeper.machine.wake()
            await asyncio.sleep(TOLD)
            return [sleeper.told() for sleeper in both]

    assert all(simulate(main))


def test_public_peers_are_told_that_nothing_is_missing() -> None:
    async def main() -> list[str]:
        kinds = (Kind.PUBLIC, Kind.PUBLIC)
        async with World(Plan(kinds=kinds, forming=TOLD, seconds=0, asleep=0)) as world:
            await world.measure()
            return [sleeper.told() for sleeper in world.sleepers]

    assert simulate(main) == ["", ""]


def test_figures_are_of_calls_that_nobody_slept_through() -> None:
    outcome = Outcome(Plan(kinds=family(2)), called_after=[0.1 * n for n in range(100)])
    outcome.calls[True] = Counter(succeeded=998, failed=2, interrupted=50)
    assert outcome.success() == 0.998
    assert isnan(outcome.success(reachable=False))  # of nothing there is no share
    assert percentile(outcome.called_after, 95) == pytest.approx(9.5)
    assert percentile([1.0], 95) == 1.0
    assert "99.80%" in str(outcome)


def test_the_same_seed_gives_the_same_run() -> None:
    plan = Plan(kinds=family(3), seconds=120)
    one, other = (simulate(lambda: run(plan)) for _ in range(2))
    assert str(one) == str(other)
