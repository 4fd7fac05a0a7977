"""Moves, rekeys, losses and waits in any order; and a whole day of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.wanderers import Wanderers


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_happens_both_hear_each_other_afterwards(seed: int) -> None:
    world = Wanderers(seed)
    for _ in range(60):
        world.step()
    world.settle()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_day_of_calls_moves_and_loss_holds(seed: int) -> None:
    world = Wanderers(seed)
    end = world.net.now + 24 * 3600
    while world.net.now < end:
        world.step()
        world.net.run(world.net.now + 240 + 120 * world.random.random())
    world.settle()
    assert world.moves > 5


@pytest.mark.parametrize("seed", [184_041_469])
def test_where_something_went_wrong_once_it_does_not_again(seed: int) -> None:
    world = Wanderers(seed)
    for _ in range(60):
        world.step()
    world.settle()
