"""The fuzz targets on some hundred inputs each: `make test` has them without atheris."""

import random
from pathlib import Path

import pytest
from fuzz.run import load, targets

INPUTS = 300


def inputs(seeds: list[bytes], dice: random.Random) -> list[bytes]:
    """The seeds, random bytes, and seeds with some bytes changed, cut out, or doubled."""
    made = [b"", *seeds]
    while len(made) < INPUTS:
        if not seeds or dice.random() < 0.3:
            made.append(dice.randbytes(dice.choice([1, 8, 40, 200, 1_500])))
            continue
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) + 1)
            match dice.randrange(4):
                case 0 if at < len(data):
                    data[at] = dice.randrange(256)
                case 1:
                    del data[at : at + dice.randint(1, 9)]
                case 2:
                    data[at:at] = data[at : at + dice.randint(1, 40)]
                case _:
                    data[at:at] = dice.randbytes(dice.randint(1, 4))
        made.append(bytes(data))
    return made


@pytest.mark.parametrize("path", targets(), ids=lambda path: path.stem)
def test_no_input_upsets_a_target(path: Path) -> None:
    target, seeds = load(path)
    for data in inputs(seeds, random.Random(path.stem)):
        try:
            target(data)
        except Exception as error:  # the input is what one wants to know
            error.add_note(f"input: {data.hex()}")
            raise
