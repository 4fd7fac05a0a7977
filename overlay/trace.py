"""The marks of recent calls, and the waterfall that ``p2psip trace`` draws from them."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

MAX_CALLS: Final = 64  # remembered
MAX_MARKS: Final = 64  # of one call: a call that is re-invited for hours must not grow for ever
MAX_TEXT: Final = 120  # characters of a Call-ID, a step or a detail: they come from the network
MAX_SECONDS: Final = 1e9  # of a call
BAR_WIDTH: Final = 40  # columns

_WAITS: Final = frozenset({"answer", "end"})  # a person decides how long these take
_CELLS: Final = "▏▎▍▌▋▊▉█"  # eighths of a column


@dataclass(frozen=True, slots=True)
class Mark:
    """One step of a call, at the moment it was done.

    Attributes:
        at: seconds since the call's first mark.
        step: see overlay.services.Trace.
        detail: a few words, or empty.
    """

    at: float
    step: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CallTrace:
    """One call, whole.

    Attributes:
        call: what names it, usually the Call-ID.
        began: Unix seconds of the first mark.
        marks: in the order in which they happened, at least one.
    """

    call: str
    began: float
    marks: tuple[Mark, ...]

    def to_json(self) -> dict[str, Any]:
        """The form that ``p2psip trace --json`` prints; times in milliseconds."""
        steps = [
            {"step": m.step, "ms": round(m.at * 1000, 3), "detail": m.detail} for m in self.marks
        ]
        return {"call": self.call, "began": round(self.began, 3), "steps": steps}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            marks = tuple(
                Mark(float(s["ms"]) / 1000, str(s["step"]), str(s["detail"]))
                for s in value["steps"]
            )
            call = cls(str(value["call"]), float(value["began"]), marks)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no call's trace: {error!r}") from None
        if not call.marks:
            raise ValueError("a call has at least one mark")
        if not all(0 <= mark.at < MAX_SECONDS for mark in call.marks):
            raise ValueError("no call's trace: a time beyond reason")
        return call


class TraceRing:
    """Remembers the latest calls; implements overlay.services.Trace.

    Args:
        now: seconds on a monotonic clock.
        wall: Unix seconds.
        calls: how many are remembered; the one that was marked longest ago goes first.
        marks: how many marks a call keeps; later ones are counted in ``dropped`` only.
    """

    def __init__(
        self,
        now: Callable[[], float],
        wall: Callable[[], float],
        *,
        calls: int = MAX_CALLS,
        marks: int = MAX_MARKS,
    ) -> None:
        self._now, self._wall = now, wall
        self._max_calls, self._max_marks = calls, marks
        self._calls: OrderedDict[str, tuple[float, float, list[Mark]]] = OrderedDict()
        self.dropped = 0

    def mark(self, call: str, step: str, detail: str = "") -> None:
        """Note that ``step`` of ``call`` happened now; the first mark of a call begins it."""
        call, now = printable(call), self._now()
        if call not in self._calls:
            self._calls[call] = (now, self._wall(), [])
            if len(self._calls) > self._max_calls:
                self._calls.popitem(last=False)
        began, _, marks = self._calls[call]
        self._calls.move_to_end(call)
        if len(marks) >= self._max_marks:
            self.dropped += 1
            return
        marks.append(Mark(now - began, printable(step), printable(detail)))

    def calls(self, prefix: str = "") -> list[CallTrace]:
        """The remembered calls whose name starts with ``prefix``, the latest last."""
        return [
            CallTrace(call, wall, tuple(marks))
            for call, (_, wall, marks) in self._calls.items()
            if call.startswith(prefix)
        ]


def printable(text: str) -> str:
    """Cut to a bounded length and hide what could drive a terminal."""
    text = text[:MAX_TEXT]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)


def waterfall(call: CallTrace, width: int = BAR_WIDTH) -> list[str]:
    """Draw one call: a line a step, with when it was done, how long it took, and a bar.

    What waits for a person (ringing until answered, the talk itself) is shown as a dotted line
    and left out of the scale, which would otherwise hide everything that the peer does.

    Args:
        call: the call to draw.
        width: columns for the bars.
    """
    took = _durations(call.marks)
    scale = sum(s for m, s in zip(call.marks, took, strict=True) if m.step not in _WAITS)
    names = max(len(m.step) for m in call.marks)
    lines = [f"call {call.call}"]
    at = 0.0
    for mark, seconds in zip(call.marks, took, strict=True):
        if mark.step in _WAITS:
            bar = " " * int(at / scale * width if scale else 0) + "┈┈"
        else:
            bar = _bar(at, seconds, scale, width)
            at += seconds
        when = f"{mark.at * 1000:>11,.1f} ms  {seconds * 1000:>+11,.1f}"
        lines.append(f"  {mark.step:<{names}} {when}  {bar:<{width}}  {mark.detail}".rstrip())
    return lines


def _durations(marks: Sequence[Mark]) -> list[float]:
    """How long each step took: since the mark before it."""
    return [max(0.0, m.at - before) for m, before in zip(marks, _shifted(marks), strict=True)]


def _shifted(marks: Sequence[Mark]) -> list[float]:
    return [0.0, *(m.at for m in marks[:-1])]


def _bar(start: float, seconds: float, scale: float, width: int) -> str:
    """A bar of ``seconds`` that begins at ``start`` on a scale of ``scale`` seconds."""
    if not scale:
        return _CELLS[0]
    first = min(int(start / scale * width), width - 1)
    eighths = max(1, round(seconds / scale * width * 8))
    whole, part = divmod(min(eighths, (width - first) * 8), 8)
    return " " * first + "█" * whole + (_CELLS[part - 1] if part else "")
