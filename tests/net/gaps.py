"""How long somebody heard nothing of a melody that was played: by recordings and by packets."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from sipgw.demo.audio import RATE, Samples

WINDOW = RATE // 50  # 20 ms, a packet of G.711
LONG = RATE * 2 // 5  # samples that tell where in the recording we are
ALIKE = 0.9  # normalised cross-correlation of what is the same sound
QUIET = 1e-3  # mean square below which a window is a rest and says nothing


def lags(played: Samples, heard: Samples) -> dict[int, tuple[int, int]]:
    """How many samples later than played something is heard -> from where to where in ``played``.

    A client that lost a second may go on at once, with a second of silence, or anything between:
    each makes another lag from there on.
    """
    found: dict[int, tuple[int, int]] = {}
    size = 1 << (len(heard) + LONG).bit_length()
    spectrum = np.fft.rfft(heard, size)
    power = np.concatenate([[0.0], np.cumsum(heard**2)])
    for at in range(0, len(played) - LONG, LONG // 4):
        piece = played[at : at + LONG]
        products = np.fft.irfft(spectrum * np.conj(np.fft.rfft(piece, size)), size)
        ends = np.minimum(np.arange(len(heard)) + LONG, len(heard))
        norms = np.sqrt((power[ends] - power[: len(heard)]) * np.sum(piece**2)) + 1e-9
        scores = products[: len(heard)] / norms
        best = int(np.argmax(scores))
        if scores[best] >= ALIKE:
            first, _ = found.get(best - at, (at, 0))
            found[best - at] = first, at + LONG
    return found


def longest_missing(played: Samples, heard: Samples, first: float, last: float) -> float:
    """Seconds of the longest stretch of ``played`` that is nowhere in ``heard``.

    Looked at in windows of 20 ms; rests between tones count with what surrounds them. A window
    is heard only at a lag that longer pieces beside it have too: one tone is soon like another.

    Args:
        played: at ``RATE``, from its beginning.
        heard: the recording, at ``RATE``.
        first: seconds; what was played before doesn't count.
        last: the same for what was played after.
    """
    known = lags(played, heard)
    longest, since = 0, round(first * RATE)
    for at in range(round(first * RATE), min(round(last * RATE), len(played)) - WINDOW, WINDOW):
        window = played[at : at + WINDOW]
        if np.mean(window**2) < QUIET:
            continue
        near = [lag for lag, (a, b) in known.items() if a - LONG // 4 <= at <= b + LONG // 4]
        if any(_alike(window, heard, at + lag) for lag in near):
            longest, since = max(longest, at - since), at + WINDOW
    end = min(round(last * RATE), len(played))
    return max(longest, end - since - WINDOW) / RATE


def _alike(window: Samples, heard: Samples, at: int) -> bool:
    if at < 0:
        return False
    there = heard[at : at + WINDOW]
    if len(there) < WINDOW:
        return False
    norm = np.sqrt(np.sum(window**2) * np.sum(there**2))
    return bool(norm > 0 and np.sum(window * there) / norm >= ALIKE)


def longest_pause(times: Sequence[float], first: float, last: float) -> float:
    """Seconds of the longest pause between packets beyond the 20 ms that are due.

    Args:
        times: when the packets came, rising.
        first: where to begin to look.
        last: where to end; if nothing came until then, that is a pause too.
    """
    points = [first, *(at for at in times if first <= at <= last), last]
    return max(max(b - a for a, b in pairwise(points)) - 0.02, 0.0)
