"""Through whom we enter, and who is looked for again."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import Hit
from overlay.seeds import FIXED_BATCH, LOST_BATCH, LOST_EVERY, MAX_LOST, MAX_SEEDS, Seeds


def hit(number: int) -> Hit:
    return Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big"))


def contacts(first: int, count: int) -> list[tuple[Hit, bytes]]:
    return [(hit(first + n), b"at %d" % n) for n in range(count)]


def test_each_try_greets_seeds_and_everybody_has_its_turn() -> None:
    seeds = Seeds()
    seeds.begin(contacts(0, 2), contacts(0, 100), hit(1))
    assert len(seeds) == 99
    turns = [seeds.turn() for _ in range(10)]
    assert all(turn[0] == hit(0) for turn in turns)
    assert {found for turn in turns for found in turn} == {hit(n) for n in range(100)} - {hit(1)}


def test_nobody_has_no_turn() -> None:
    seeds = Seeds()
    assert seeds.turn() == []
    assert seeds.lost(0.0) == []
    assert not seeds.find(hit(1))


def test_whoever_was_lost_last_is_looked_for_first_a_few_at_a_time() -> None:
    seeds = Seeds()
    seeds.begin(contacts(0, 1), contacts(1, 9), hit(99))
    seeds.lose(hit(77))  # no seed
    for n in (1, 2, 3):
        seeds.lose(hit(n))
    assert seeds.lost(0.0) == [hit(3), hit(2)]
    assert seeds.lost(LOST_EVERY - 1) == []
    assert seeds.lost(LOST_EVERY) == [hit(1), hit(3)]
    assert seeds.find(hit(2))
    assert not seeds.find(hit(2))


@settings(max_examples=20)
@given(st.lists(st.integers(0, 600), max_size=700))
def test_whoever_comes_and_goes_the_lists_stay_short_and_the_profile_in_force(
    numbers: list[int],
) -> None:
    seeds = Seeds()
    seeds.begin(contacts(0, FIXED_BATCH), (), hit(9_999))
    for n in range(FIXED_BATCH):
        seeds.lose(hit(n))
    for n in numbers:
        seeds.meet(hit(n), b"here")
        seeds.lose(hit(n))
    assert len(seeds) <= MAX_SEEDS + FIXED_BATCH
    lost = {found for turn in range(400) for found in seeds.lost(turn * LOST_EVERY)}
    assert {hit(n) for n in range(FIXED_BATCH)} <= lost
    assert len(lost) <= MAX_LOST + FIXED_BATCH
    assert LOST_BATCH <= FIXED_BATCH
