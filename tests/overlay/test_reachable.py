"""Whether we can be called: asked of others, believed for a while, told in time."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.knocking import Knocked
from overlay.reachable import (
    AGAIN,
    ASKED,
    CHECK,
    GRACE,
    PATIENCE,
    ROUND,
    Action,
    Changed,
    Examine,
    Facts,
    Reach,
    Reachable,
)

YES, NO, ELSEWHERE = Knocked.YES, Knocked.NO, Knocked.ELSEWHERE
SILENT, UNKNOWN, HIDES = Knocked.SILENT, Knocked.UNKNOWN, Knocked.HIDES
HERE = Facts(network=True, direct=True, neighbours=5)


class Around:
    """Neighbours that answer as ``says`` says, after ``takes`` seconds."""

    def __init__(self, *says: Knocked, takes: float = 0.2) -> None:
        self.machine = Reachable()
        self.says: Sequence[Knocked] = says
        self.takes = takes
        self.now = 0.0
        self.changes: list[tuple[float, Reach]] = []
        self.asked: list[tuple[float, int]] = []
        self.events: list[tuple[float, int, Callable[[], list[Action]]]] = []
        self.do(self.machine.start(0.0))

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Changed):
                self.changes.append((self.now, action.reach))
            else:
                self._ask(action)
        waits = self.machine.deadline() is not None
        assert waits  # it always looks again

    def _ask(self, action: Examine) -> None:
        self.asked.append((self.now, action.neighbours))
        count = min(action.neighbours, self.machine.facts.neighbours)
        verdicts = [self.says[n % len(self.says)] for n in range(count)] if self.says else []
        self.events.append(
            (
                self.now + self.takes,
                len(self.asked),
                lambda: self.machine.on_examined(action.round, verdicts, self.now),
            )
        )

    def tell(self, facts: Facts) -> None:
        self.do(self.machine.on_facts(facts, self.now))

    def run(self, seconds: float) -> Reach:
        end = self.now + seconds
        while True:
            deadline = self.machine.deadline()
            at = min([d for d in (deadline, *(e[0] for e in self.events)) if d is not None])
            if at > end:
                break
            self.now = max(self.now, at)
            if self.events and min(self.events)[0] <= self.now:
                event = min(self.events)
                self.events.remove(event)
                self.do(event[2]())
            else:
                self.do(self.machine.on_time(self.now))
        self.now = end
        return self.machine.reach

    def gaps(self) -> list[float]:
        times = [at for at, _ in self.asked]
        return [b - a for a, b in itertools.pairwise(times)]


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ((YES,), Reach.DIRECT),
        ((YES, YES, NO), Reach.DIRECT),  # one may be mistaken
        ((YES, NO, NO), Reach.NONE),
        ((NO,), Reach.NONE),
        ((ELSEWHERE,), Reach.NONE),
        ((HIDES,), Reach.NONE),
        ((YES, HIDES, HIDES), Reach.DIRECT),
        ((UNKNOWN, UNKNOWN, YES), Reach.DIRECT),
        ((SILENT,), Reach.NONE),
        ((UNKNOWN,), Reach.NONE),
    ],
)
def test_what_neighbours_say_is_believed(says: tuple[Knocked, ...], expected: Reach) -> None:
    around = Around(*says)
    around.tell(HERE)
    assert around.run(PATIENCE + 1) is expected


def test_it_is_known_as_soon_as_neighbours_have_answered() -> None:
    around = Around(YES)
    assert around.run(3.0) is Reach.UNKNOWN
    around.tell(HERE)
    assert around.run(0.5) is Reach.DIRECT


def test_without_an_address_of_its_own_nobody_is_asked() -> None:
    around = Around(YES)
    around.tell(replace(HERE, direct=False))
    assert around.run(100) is Reach.NONE
    assert around.asked == []


def test_a_server_makes_callable_at_once() -> None:
    around = Around(NO)
    around.tell(HERE)
    around.run(2)
    around.tell(replace(HERE, through=1))
    assert around.machine.reach is Reach.SERVED
    assert around.run(3600) is Reach.SERVED
    assert around.changes == [(2.0, Reach.SERVED)]


def test_the_loss_of_the_last_server_is_told_unless_another_takes_its_place() -> None:
    around = Around(NO)
    around.tell(replace(HERE, through=1))
    around.run(100)
    around.tell(HERE)
    assert around.run(GRACE - 1) is Reach.SERVED
    around.tell(replace(HERE, through=1))
    assert around.run(100) is Reach.SERVED
    around.tell(HERE)
    assert around.run(GRACE + 0.1) is Reach.NONE


@pytest.mark.parametrize(
    ("says", "takes"), [((NO,), 2.1), ((ELSEWHERE,), 0.2), ((SILENT,), 7.0)], ids=str
)
def test_a_router_that_forgot_us_is_noticed_within_a_minute(
    says: tuple[Knocked, ...], takes: float
) -> None:
    around = Around(YES)
    around.tell(HERE)
    around.run(200)
    for offset in range(40):
        assert around.run(1) is Reach.DIRECT
        other = Around(YES)
        other.tell(HERE)
        other.run(200 + offset)
        other.says, other.takes = says, takes
        assert other.run(59.9) is Reach.NONE


def test_who_is_reached_is_examined_by_one_neighbour_now_and_then() -> None:
    around = Around(YES)
    around.tell(HERE)
    around.run(3600)
    assert around.asked[0][1] == ASKED
    assert {count for _, count in around.asked[1:]} == {1}
    assert min(around.gaps()[1:]) >= CHECK


def test_one_mistaken_neighbour_changes_nothing() -> None:
    around = Around(YES)
    around.tell(HERE)
    around.run(100)
    around.says = (NO, YES, YES)  # the first that is asked
    assert around.run(500) is Reach.DIRECT
    assert around.changes == [(around.changes[0][0], Reach.DIRECT)]


def test_who_is_served_looks_rarely_whether_it_is_reached_now() -> None:
    around = Around(NO)
    around.tell(replace(HERE, through=2))
    around.run(3600)
    assert len(around.asked) <= 3600 / AGAIN + 2
    around.says = (YES,)
    assert around.run(AGAIN + 1) is Reach.DIRECT


def test_who_cannot_be_called_looks_often() -> None:
    around = Around(NO)
    around.tell(HERE)
    around.run(100)
    around.says = (YES,)
    assert around.run(17) is Reach.DIRECT


def test_alone_it_is_told_within_half_a_minute_and_hears_when_somebody_comes() -> None:
    around = Around(YES)
    around.tell(replace(HERE, neighbours=0))
    assert around.run(30) is Reach.NONE
    around.tell(HERE)
    assert around.run(1) is Reach.DIRECT


def test_without_a_network_it_is_told_at_once() -> None:
    around = Around(YES)
    around.tell(HERE)
    around.run(100)
    around.tell(replace(HERE, network=False, direct=False))
    assert around.machine.reach is Reach.NONE
    around.do(around.machine.on_network(around.now))
    around.tell(HERE)
    assert around.run(1) is Reach.DIRECT


def test_after_a_move_what_was_proven_is_proven_anew() -> None:
    around = Around(YES)
    around.tell(HERE)
    around.run(100)
    around.says = (ELSEWHERE,)
    around.do(around.machine.on_network(around.now))
    assert around.machine.proven is None
    around.run(1)
    assert around.machine.proven is False
    assert around.machine.reach is Reach.DIRECT  # servers have their time
    assert around.run(PATIENCE) is Reach.NONE


def test_an_answer_from_before_a_move_counts_for_nothing() -> None:
    around = Around(YES, takes=2.0)
    around.tell(HERE)
    around.run(1)
    around.says = (NO,)
    around.do(around.machine.on_network(around.now))
    around.run(1.5)
    assert around.machine.proven is None
    around.run(1)
    assert around.machine.proven is False


def test_an_examination_that_never_ends_is_given_up() -> None:
    around = Around(YES, takes=1e9)
    around.tell(HERE)
    around.run(100)
    assert len(around.asked) > 2
    assert min(around.gaps()) >= ROUND
    assert around.machine.reach is Reach.NONE


facts = st.builds(
    Facts,
    network=st.sampled_from([True, True, True, False]),
    direct=st.booleans(),
    neighbours=st.integers(0, 5),
    through=st.integers(0, 2),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 90.0),
            facts,
            st.lists(st.sampled_from(list(Knocked)), max_size=3),
            st.floats(0.0, 20.0),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_whatever_happens_it_says_what_is_so_within_a_minute(
    steps: list[tuple[float, Facts, list[Knocked], float, bool]],
) -> None:
    around = Around(YES)
    for seconds, seen, says, takes, moved in steps:
        around.says, around.takes = says, takes
        if moved:
            around.do(around.machine.on_network(around.now))
        around.tell(seen)
        around.run(seconds)
    # each change was a change, and rounds never overlap
    states = [reach for _, reach in around.changes]
    assert all(a is not b for a, b in itertools.pairwise(states))
    around.says, around.takes = (NO,), 2.1
    around.tell(HERE)
    assert around.run(60) is Reach.NONE
    around.tell(replace(HERE, through=1))
    assert around.run(1) is Reach.SERVED
    around.says = (YES,)
    assert around.run(AGAIN + ROUND) is Reach.DIRECT


@pytest.mark.parametrize("gap", [3.0, 15.0, 19.0])
@pytest.mark.parametrize("served", [True, False])
def test_a_network_that_changes_all_the_time_does_not_put_off_the_truth(
    gap: float, served: bool
) -> None:
    """A router that announces ever new prefixes, say: within a minute it is told all the same."""
    around = Around(NO)
    around.tell(replace(HERE, through=int(served)))
    around.run(30)
    assert around.machine.reach is (Reach.SERVED if served else Reach.NONE)
    around = around if served else Around(SILENT)
    around.tell(HERE)
    until = around.now + 60
    while around.now < until:
        around.run(gap)
        around.do(around.machine.on_network(around.now))
    assert around.machine.reach is Reach.NONE
