import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import params, puzzle
from sim import vectors

PREFIX = puzzle.prefix(b"\5" * 48, bytes(16), b"\1" * 16)


@pytest.mark.parametrize("name", vectors.NAMES)
def test_golden_solutions_solve_their_puzzles(name: str) -> None:
    i2 = vectors.load(name).packet("I2")
    solution = i2.need(params.Solution)
    right = puzzle.prefix(solution.random_i, i2.sender, i2.receiver)
    swapped = puzzle.prefix(solution.random_i, i2.receiver, i2.sender)
    assert solution.k == 10
    assert puzzle.verify(10, right, solution.answer_j, "sha384")
    assert not puzzle.verify(10, swapped, solution.answer_j, "sha384")


@given(st.integers(0, 10), st.integers(0, 2**400), st.sampled_from(["sha256", "sha384"]))
def test_a_solution_is_found_from_any_start_and_verifies(k: int, start: int, rhash: str) -> None:
    j = puzzle.solve(k, PREFIX, rhash, start)
    assert j is not None
    assert len(j) == hashlib.new(rhash).digest_size
    assert puzzle.verify(k, PREFIX, j, rhash)
    digest = hashlib.new(rhash, PREFIX + j).digest()
    assert bin(int.from_bytes(digest, "big") | 1 << 500)[-k:].count("1") == 0 or k == 0


def test_a_search_in_slices_finds_what_one_search_finds() -> None:
    whole = puzzle.solve(9, PREFIX, "sha384", 77)
    start, found = 77, None
    while found is None:
        found = puzzle.solve(9, PREFIX, "sha384", start, 50)
        start += 50
    assert found == whole
    assert puzzle.solve(40, PREFIX, "sha384", 77, 20) is None


def test_a_wrong_answer_is_seen() -> None:
    wrong = [n.to_bytes(48, "big") for n in range(50)]
    assert not all(puzzle.verify(8, PREFIX, j, "sha384") for j in wrong)
    assert all(puzzle.verify(0, PREFIX, j, "sha384") for j in wrong)
