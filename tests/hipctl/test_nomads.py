"""Peers behind NATs that meet through relays: moves, reboots, dead servers, silence, at random."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.nomads import Nomads


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_happens_both_hear_each_other_afterwards_if_they_can(seed: int) -> None:
    world = Nomads(seed)
    for _ in range(30):
        world.step()
    world.settle()


@pytest.mark.parametrize("seed", [116, 149, 159, 230])
def test_where_something_went_wrong_once_it_does_not_again(seed: int) -> None:
    world = Nomads(seed)
    for _ in range(60):
        world.step()
    world.settle()
