"""The measure itself: melodies with known holes."""

import numpy as np
import pytest
from net.gaps import longest_missing, longest_pause

from sipgw.demo.audio import RATE, Samples, melody

PLAYED = melody(8.0, tune=3)


def recording(hole: float, at: float, pad: float) -> Samples:
    """What is recorded when ``hole`` seconds are lost and ``pad`` seconds of silence come."""
    first, after = round(at * RATE), round((at + hole) * RATE)
    late = np.zeros(round(0.3 * RATE))
    return np.concatenate([late, PLAYED[:first], np.zeros(round(pad * RATE)), PLAYED[after:]])


@pytest.mark.parametrize("pad", [0.0, 0.07, 0.4, 1.5])
@pytest.mark.parametrize("hole", [0.1, 0.4, 1.5])
def test_a_hole_is_found_whether_it_is_padded_or_not(hole: float, pad: float) -> None:
    found = longest_missing(PLAYED, recording(hole, 4.0, pad), 1.0, 7.0)
    assert hole - 0.021 <= found <= hole + 0.12  # windows that are cut and rests belong to it


def test_what_is_whole_misses_at_most_a_rest() -> None:
    assert longest_missing(PLAYED, recording(0.0, 4.0, 0.0), 1.0, 7.0) <= 0.08
    assert longest_missing(PLAYED, np.zeros(8 * RATE), 1.0, 7.0) > 5.9


def test_pauses_count_from_the_last_packet_to_the_next() -> None:
    times = [i * 0.02 for i in range(100)] + [3.0 + i * 0.02 for i in range(100)]
    assert longest_pause(times, 1.0, 4.5) == pytest.approx(3.0 - 1.98 - 0.02)
    assert longest_pause(times, 2.5, 4.5) == pytest.approx(3.0 - 2.5 - 0.02)
    assert longest_pause(times, 0.5, 1.5) == pytest.approx(0.0, abs=1e-9)
    assert longest_pause(times[:100], 1.0, 4.5) == pytest.approx(4.5 - 1.98 - 0.02)
