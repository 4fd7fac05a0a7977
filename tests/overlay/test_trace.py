"""The waterfall: bounded whatever a network says, and readable."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.trace import MAX_TEXT, CallTrace, Mark, TraceRing, printable, waterfall


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ring(clock: Clock, **kwargs: int) -> TraceRing:
    return TraceRing(clock, lambda: 1_700_000_000.0, **kwargs)


def a_call() -> CallTrace:
    steps = [
        (0.0, "invite", "sip:bob@x"),
        (0.004, "resolve", "1 device"),
        (0.012, "exchange", ""),
        (0.013, "forward", ""),
        (0.030, "ringing", ""),
        (8.030, "answer", ""),
        (8.050, "media", ""),
        (38.0, "end", ""),
    ]
    return CallTrace("abc", 1_700_000_000.0, tuple(Mark(*step) for step in steps))


def test_the_first_mark_begins_a_call_and_later_ones_count_from_it() -> None:
    clock = Clock()
    trace = ring(clock)
    trace.mark("a", "invite", "sip:bob@x")
    clock.now += 0.25
    trace.mark("a", "resolve")
    (call,) = trace.calls()
    assert call.marks == (Mark(0.0, "invite", "sip:bob@x"), Mark(0.25, "resolve"))
    assert call.began == 1_700_000_000.0


def test_the_call_marked_longest_ago_is_forgotten_first() -> None:
    trace = ring(Clock(), calls=2)
    for call in ("a", "b", "a", "c"):
        trace.mark(call, "invite")
    assert [c.call for c in trace.calls()] == ["a", "c"]


def test_a_call_keeps_a_bounded_number_of_marks() -> None:
    trace = ring(Clock(), marks=3)
    for _ in range(5):
        trace.mark("a", "invite")
    assert len(trace.calls()[0].marks) == 3
    assert trace.dropped == 2


def test_calls_are_found_by_the_start_of_their_name() -> None:
    trace = ring(Clock())
    for call in ("abc", "abd", "x"):
        trace.mark(call, "invite")
    assert [c.call for c in trace.calls("ab")] == ["abc", "abd"]


def test_text_of_the_network_cannot_drive_a_terminal() -> None:
    trace = ring(Clock())
    trace.mark("a\x1b[2J" + "b" * 1000, "invite", "x\r\ny\u202e")
    (call,) = trace.calls()
    assert call.call.startswith("a?[2J")
    assert len(call.call) == MAX_TEXT
    assert call.marks[0].detail == "x??y?"
    assert all(line.isprintable() for line in waterfall(call))


def test_json_round_trip() -> None:
    call = a_call()
    assert CallTrace.from_json(json.loads(json.dumps(call.to_json()))) == call


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"steps": 5},
        {"call": "a", "began": 0, "steps": []},
        {"call": "a", "began": "x", "steps": []},
        {"call": "a", "began": 0, "steps": [{"step": "a", "ms": float("nan"), "detail": ""}]},
        {"call": "a", "began": 0, "steps": [{"step": "a", "ms": 10**400, "detail": ""}]},
    ],
)
def test_what_is_no_trace_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"mark|no call"):
        CallTrace.from_json(value)


def test_a_waterfall_shows_every_step_with_when_it_was_done_and_how_long_it_took() -> None:
    lines = waterfall(a_call())
    assert lines[0] == "call abc"
    assert [line.split()[0] for line in lines[1:]] == [m.step for m in a_call().marks]
    exchange = lines[3]
    assert "12.0 ms" in exchange
    assert "+8.0" in exchange


def test_waiting_for_a_person_does_not_squeeze_the_other_bars() -> None:
    lines = {line.split()[0]: line for line in waterfall(a_call())[1:]}
    assert lines["ringing"].count("█") >= 10
    assert "█" not in lines["answer"]
    assert "┈" in lines["answer"]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.text(max_size=20), st.text(max_size=200)), min_size=1
    ),
    st.integers(8, 120),
)
def test_any_marks_can_be_drawn(marks: list[tuple[float, str, str]], width: int) -> None:
    call = CallTrace("x", 0.0, tuple(Mark(at, printable(s), printable(d)) for at, s, d in marks))
    lines = waterfall(call, width)
    assert len(lines) == len(marks) + 1
    for line in lines[1:]:
        assert sum(line.count(cell) for cell in "▏▎▍▌▋▊▉█") <= width + sum(
            len(s) + len(d) for _, s, d in marks
        )
