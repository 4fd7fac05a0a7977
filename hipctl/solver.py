"""Shell: solves puzzles, easy ones at once and hard ones beside the loop, one slice at a time.

Hashing holds the interpreter's lock: several threads of it would starve the loop, and with it
every call, as long as strangers' puzzles last.
"""

import asyncio
from collections.abc import Callable

from hipctl import puzzle
from hipctl.actions import SolvePuzzle

INLINE_K = 12  # bits; a puzzle this hard or less costs some milliseconds
SLICE = 1 << 15  # hashes between two looks at the deadline

OnSolved = Callable[[SolvePuzzle, bytes | None], None]


class Solver:
    """Answers every SolvePuzzle with one call of ``on_solved``, None when it took too long."""

    def __init__(self, on_solved: OnSolved) -> None:
        self._on_solved = on_solved
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    def solve(self, ask: SolvePuzzle) -> None:
        """Solve it now, or begin to; the engine bounds how many run."""
        if ask.k <= INLINE_K:
            self._on_solved(ask, puzzle.solve(ask.k, ask.prefix, ask.rhash, ask.start))
        else:
            task = self._loop.create_task(self._solve_slowly(ask))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is being solved."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _solve_slowly(self, ask: SolvePuzzle) -> None:
        start, answer = ask.start, None
        while answer is None and self._loop.time() < ask.deadline:
            async with self._turn:
                answer = await self._loop.run_in_executor(
                    None, puzzle.solve, ask.k, ask.prefix, ask.rhash, start, SLICE
                )
            start += SLICE
        self._on_solved(ask, answer)
