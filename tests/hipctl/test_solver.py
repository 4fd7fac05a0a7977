"""Puzzles that are easy, hard, and not worth solving any more."""

import asyncio
import threading

import pytest

from hipctl import puzzle
from hipctl.actions import SolvePuzzle
from hipctl.identity import Hit
from hipctl.solver import INLINE_K, Solver
from sim.loop import simulate

KEY = (Hit.parse("2001:22::1"), Hit.parse("2001:22::2"), 3)


def ask(k: int, deadline: float = 60.0) -> SolvePuzzle:
    return SolvePuzzle(KEY, k, b"prefix", "sha384", 12345, deadline)


@pytest.mark.parametrize("k", [0, 4, INLINE_K, INLINE_K + 2])
def test_what_is_found_solves_the_puzzle(k: int) -> None:
    async def scenario() -> None:
        answers: list[bytes | None] = []
        solver = Solver(lambda asked, answer: answers.append(answer))
        solver.solve(ask(k))
        assert bool(answers) is (k <= INLINE_K)
        for _ in range(200):
            await asyncio.sleep(0)
        (answer,) = answers
        assert answer is not None
        assert puzzle.verify(k, b"prefix", answer, "sha384")

    simulate(scenario)


def test_after_its_deadline_a_hard_puzzle_is_given_up() -> None:
    async def scenario() -> None:
        answers: list[bytes | None] = []
        solver = Solver(lambda asked, answer: answers.append(answer))
        solver.solve(ask(20, deadline=-1.0))
        await asyncio.sleep(1)
        assert answers == [None]

    simulate(scenario)


def test_hard_puzzles_take_turns_and_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[str] = []
    most, slices = 0, 0

    def solve(*_: object) -> None:
        nonlocal most, slices
        at_once.append("")
        most, slices = max(most, len(at_once)), slices + 1
        threading.Event().wait(0.001)
        at_once.pop()

    async def scenario() -> None:
        given_up = asyncio.Event()
        solver = Solver(lambda *_: given_up.set())
        for _ in range(8):
            solver.solve(ask(20, deadline=asyncio.get_running_loop().time() + 0.05))
        await given_up.wait()
        await solver.close()

    monkeypatch.setattr(puzzle, "solve", solve)
    asyncio.run(scenario())
    assert most == 1
    assert slices > 8


def test_closing_gives_up_silently() -> None:
    async def scenario() -> None:
        answers: list[bytes | None] = []
        solver = Solver(lambda asked, answer: answers.append(answer))
        solver.solve(ask(30))
        await solver.close()
        assert answers == []

    simulate(scenario)
