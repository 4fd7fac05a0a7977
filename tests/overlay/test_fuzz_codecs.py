"""The seeds of the fuzz target are good, so that fuzzing begins behind the first checks."""

import pytest
from fuzz import fuzz_overlay_codecs as target


@pytest.mark.parametrize(("reader", "data"), target.GOOD)
def test_each_reader_takes_its_seed(reader: target.Reader, data: bytes) -> None:
    reader(data)


def test_all_readers_have_a_seed_and_any_reader_takes_any_seed() -> None:
    assert {reader for reader, _ in target.GOOD} == set(target.READERS)
    for seed in target.SEEDS:
        for first in range(len(target.READERS)):
            target.test_one_input(bytes([first]) + seed[1:])
