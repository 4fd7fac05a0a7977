"""Peers behind NATs that meet through relays: moves, reboots, dead servers, silence, in any order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.nomads import Nomads


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_happens_both_hear_each_other_afterwards_if_they_can(seed: int) -> None:
    world = Nomads(seed)
    for _ in range(40):
        world.step()
    world.settle()


@pytest.mark.parametrize("seed", [116, 149, 159, 172, 230])
def test_what_went_wrong_once(seed: int) -> None:
    world = Nomads(seed)
    for _ in range(60):
        world.step()
    world.settle()
