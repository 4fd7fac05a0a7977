"""Echoes that tell whether a path carries data, and what they leave as it was."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hipctl.flow import Echoing, Flow

looks = st.lists(
    st.tuples(st.floats(0.05, 4.0), st.booleans(), st.booleans()), min_size=1, max_size=60
)


@given(looks)
def test_only_what_was_asked_for_thrice_in_two_seconds_goes_unanswered(
    steps: list[tuple[float, bool, bool]],
) -> None:
    echoing, now = Echoing(), 100.0
    asked: list[float] = []  # echoes since anything was heard, or was concluded
    concluded: list[float] = []
    for pause, heard, doubted in steps:
        now += pause
        if heard:
            asked.clear()
            concluded.clear()
        if echoing.look(heard=heard, doubted=doubted, now=now):
            assert not heard
            assert len(asked) >= 3
            assert now - asked[0] >= 2.0
            concluded.append(now)
            asked.clear()
        assert not (heard and echoing.due)
        if echoing.due:
            assert asked or doubted
            assert not asked or now - asked[-1] >= 0.5
            asked.append(now)
    gaps = [b - a for a, b in pairwise(concluded)]
    assert all(gap >= 2.0 * 2**n for n, gap in enumerate(gaps))


def test_an_echo_does_not_make_a_silent_peer_one_that_was_heard() -> None:
    flow, now, sent, searches = Flow(1.0, 0.0), 0.0, 0, []
    heard_at, waits = 0.0, False
    for step in range(600):
        now, sent = now + 0.2, sent + 10
        if step < 10:
            heard_at = now  # a call, until the peer is on hold
        received = 10 * min(step, 10)
        silent = flow.look(sent, received, heard_at, now, asked=waits)
        if waits:
            waits = False
        elif silent:
            searches.append(now)
            heard_at, waits = now + 0.1, True  # an echo comes
    assert len(searches) < 12


def test_echoes_from_far_away_are_still_echoes_when_they_come_late() -> None:
    echoing, now = Echoing(), 100.0
    came: list[float] = []
    for step in range(30):
        now = 100.0 + step / 10
        heard = any(now - 0.1 < at <= now for at in came)
        assert echoing.awaits(now) or not heard
        echoing.look(heard=heard, doubted=step == 0, now=now)
        if echoing.due:
            came.append(now + 1.2)
    assert len(came) == 3
    assert not echoing.awaits(now + 2.0)
