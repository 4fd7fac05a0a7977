from hypothesis import given
from hypothesis import strategies as st

from hipctl.load import SECONDS, Load


def steady(rate: float, seconds: float, calm: float = 10.0) -> Load:
    load = Load(calm)
    for n in range(int(rate * seconds)):
        load.add(1.0, n / rate)
    return load


def test_what_is_calm_costs_nothing() -> None:
    assert Load(10.0).bits(0.0) == 0
    assert steady(9.0, 60.0).bits(60.0) == 0


def test_each_doubling_costs_one_bit() -> None:
    bits = [steady(rate, 60.0).bits(60.0) for rate in (15, 30, 60, 120, 240)]
    assert bits == [1, 2, 3, 4, 5]


def test_it_is_forgotten() -> None:
    load = steady(240.0, 60.0)
    assert load.bits(60.0 + SECONDS) == 4
    assert load.bits(60.0 + 5 * SECONDS) == 0


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 1e6)), max_size=50))
def test_no_order_of_times_upsets_it(steps: list[tuple[float, float]]) -> None:
    load = Load(1.0)
    for work, at in steps:
        load.add(work, at)
        assert 0 <= load.bits(at) <= sum(w for w, _ in steps) + 1
