"""Draws docs/hip-states.md from the table of states: python tests/draw_states.py writes it."""

from collections import defaultdict
from pathlib import Path

from hipctl.state import State, Timer
from hipctl.transitions import TABLE, Ask, Drop, Input, Rule

PAGE = Path(__file__).parent.parent / "docs" / "hip-states.md"

_HEAD = """\
# The states of an association

Drawn from `hipctl/transitions.py` by `python tests/draw_states.py`; a test compares the two. The
states are those of RFC 7401 §4.4.2. An arrow says which input may lead there, once it has been
checked; whatever is refused leads nowhere.
"""


def name(asked: Input) -> str:
    """An input in words."""
    if isinstance(asked, Timer):
        return f"time: {asked.value}"
    return asked.value if isinstance(asked, Ask) else asked.name


def diagram() -> str:
    """The arrows, as a mermaid diagram."""
    arrows: defaultdict[tuple[State, State], list[str]] = defaultdict(list)
    for (state, asked), cell in TABLE.items():
        if isinstance(cell, Rule):
            for to in sorted(cell.to - {state}, key=list(State).index):
                arrows[state, to].append(name(asked).replace(":", ","))
    lines = ["stateDiagram-v2", "    [*] --> UNASSOCIATED"]
    lines += [f'    state "{state.value}" as {state.name}' for state in State]
    lines += [
        f"    {state.name} --> {to.name} : {'; '.join(asked)}"
        for (state, to), asked in arrows.items()
    ]
    lines.append("    E_FAILED --> [*]")
    return "\n".join(lines)


def table() -> str:
    """Every cell."""
    inputs = list(dict.fromkeys(asked for _, asked in TABLE))
    lines = ["| input | " + " | ".join(state.value for state in State) + " |"]
    lines.append("|---" * (len(State) + 1) + "|")
    for asked in inputs:
        cells = [TABLE[state, asked] for state in State]
        words = [f"*{c.name.lower()}*" if isinstance(c, Drop) else c.does for c in cells]
        lines.append(f"| {name(asked)} | " + " | ".join(words) + " |")
    return "\n".join(lines)


def page() -> str:
    """All of it."""
    reasons = "\n".join(f"- *{drop.name.lower()}*: {drop.value}" for drop in Drop)
    return (
        f"{_HEAD}\n```mermaid\n{diagram()}\n```\n\n"
        f"Every cell; what is in italics does nothing, and counts a packet:\n\n{reasons}\n\n"
        f"{table()}\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page())
