"""The tables of docs/conformance: every row is whole, and the tests that it names exist.

``python tests/test_conformance.py`` writes the counts into docs/conformance/README.md.
"""

import ast
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "conformance"
README = FOLDER / "README.md"
RFCS = ["7401", "7402", "7343", "8002", "8003", "8004", "8046", "8047", "9028"]
STATUSES = ["done", "in part", "not yet", "left out", "not applicable"]
LEVELS = {
    "MUST", "MUST NOT", "SHALL", "SHOULD", "SHOULD NOT", "REQUIRED", "RECOMMENDED",
    "NOT RECOMMENDED", "MAY", "defines",
}  # fmt: skip
NODE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
BEGIN, END = "<!-- counts -->\n", "<!-- end of counts -->"


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    number: str
    section: str
    level: str
    asked: str
    here: str
    status: str
    shown_by: str

    @property
    def nodes(self) -> list[tuple[str, str]]:
        """(file, test function) of each test named."""
        return NODE.findall(self.shown_by)


def rows_of(text: str) -> list[Row]:
    """Every row of the tables in a page; a line of another form is no row, or an error."""
    found = []
    for line in text.splitlines():
        if not line.startswith(("| 7", "| 8", "| 9")):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        assert len(cells) == 7, line
        found.append(Row(*cells))
    return found


@cache
def rows(rfc: str) -> list[Row]:
    """The rows of one page."""
    return rows_of((FOLDER / f"rfc{rfc}.md").read_text())


@cache
def functions_of(file: str) -> frozenset[str]:
    """The test functions of a file, by its syntax; none if there is no such file."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def faults(rfc: str, table: list[Row]) -> list[str]:
    """What is wrong with a table."""
    wrong = []
    for position, row in enumerate(table, 1):
        if row.number != f"{rfc}-{position}":
            wrong.append(f"{row.number}: this should be number {rfc}-{position}")
        if row.status not in STATUSES:
            wrong.append(f"{row.number}: unknown status {row.status!r}")
        if row.level not in LEVELS:
            wrong.append(f"{row.number}: unknown level {row.level!r}")
        if not (row.section and row.asked and row.here):
            wrong.append(f"{row.number}: an empty cell")
        if row.status in ("done", "in part") and not row.nodes:
            wrong.append(f"{row.number}: {row.status}, but no test shows it")
        named = len(row.shown_by.split("<br>")) if row.shown_by else 0
        if named != len(row.nodes):
            wrong.append(f"{row.number}: not the name of a test in {row.shown_by!r}")
        wrong += [
            f"{row.number}: there is no {file}::{test}"
            for file, test in row.nodes
            if test not in functions_of(file)
        ]
    return wrong


def references(rfc: str, table: list[Row]) -> list[str]:
    """Rows of the same page that are mentioned and don't exist."""
    mentioned = {n for row in table for n in re.findall(rf"\b{rfc}-(\d+)", row.here)}
    return sorted(f"{rfc}-{n}" for n in mentioned if not 1 <= int(n) <= len(table))


def counts() -> str:
    """The table of the summary."""
    lines = [
        "| RFC | " + " | ".join(STATUSES) + " | rows |",
        "|---|" + "---:|" * (1 + len(STATUSES)),
    ]
    total = Counter[str]()
    for rfc in RFCS:
        count = Counter(row.status for row in rows(rfc))
        total += count
        cells = [*(count[status] for status in STATUSES), count.total()]
        lines.append(f"| [{rfc}](rfc{rfc}.md) | " + " | ".join(map(str, cells)) + " |")
    cells = [*(total[status] for status in STATUSES), total.total()]
    return "\n".join([*lines, "| all | " + " | ".join(map(str, cells)) + " |", ""])


@pytest.mark.parametrize("rfc", RFCS)
def test_every_row_is_whole_and_its_tests_exist(rfc: str) -> None:
    assert rows(rfc)
    assert faults(rfc, rows(rfc)) == []
    assert references(rfc, rows(rfc)) == []


def test_the_pages_are_those_of_the_rfcs() -> None:
    assert sorted(path.stem for path in FOLDER.glob("rfc*.md")) == sorted(f"rfc{n}" for n in RFCS)


def test_the_summary_counts_what_the_pages_say() -> None:
    written = README.read_text().partition(BEGIN)[2].partition(END)[0]
    assert written == counts(), "python tests/test_conformance.py writes the counts"


GOOD = (
    "| 9-1 | 1 | MUST | this | that | done | `tests/test_conformance.py::test_bad_rows_are_seen` |"
)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("9-1", "9-2", "should be number"),
        ("done", "perhaps", "unknown status"),
        ("MUST", "WOULD", "unknown level"),
        ("that", "", "an empty cell"),
        ("`tests/test_conformance.py::test_bad_rows_are_seen`", "", "no test shows it"),
        ("test_bad_rows", "test_good_rows", "there is no"),
        ("tests/test_conformance", "tests/test_elsewhere", "there is no"),
        ("::test_bad", "::bad", "not the name of a test"),
    ],
)
def test_bad_rows_are_seen(old: str, new: str, fault: str) -> None:
    def table(line: str) -> list[Row]:
        return [Row(*(cell.strip() for cell in line.strip("|").split("|")))]

    assert faults("9", table(GOOD)) == []
    assert any(fault in found for found in faults("9", table(GOOD.replace(old, new, 1))))


if __name__ == "__main__":
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + counts() + END + rest.partition(END)[2])
