"""A melody to play, and how much of it the other side heard.

The melody is made of short tone bursts of changing pitch: the correlation of one lasting tone with
itself is ambiguous by its period, that of bursts is not.
"""

import wave
from itertools import count, takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

RATE = 8_000  # Hz: what recordings are compared at
WINDOW = 1.0  # seconds
SLIP = 0.1  # seconds a window may drift around the lag of the whole recording
_FULL_SCALE = 32_768.0


def melody(seconds: float, rate: int = RATE, tune: int = 1) -> Samples:
    """Compose tone bursts of 90 to 280 ms between 300 and 1,500 Hz, with short rests.

    Args:
        seconds: length.
        rate: samples a second.
        tune: number of the melody; the same number always gives the same one.

    Returns:
        Samples between -0.5 and 0.5.
    """
    dice = np.random.default_rng(tune)
    out = np.zeros(round(seconds * rate))
    at = 0.0
    while at < seconds:
        length, rest = dice.uniform(0.09, 0.28), dice.uniform(0.01, 0.06)
        pitch, end_pitch = dice.uniform(300, 1_500, 2)
        first, last = int(np.ceil(at * rate)), int(np.ceil((at + length) * rate))
        t = np.arange(first, min(last, len(out))) / rate - at
        phase = 2 * np.pi * (pitch + (end_pitch - pitch) * t / (2 * length)) * t
        out[first : first + len(t)] = 0.5 * np.sin(phase) * np.sin(np.pi * t / length) ** 0.5
        at += length + rest
    return out


def save(path: Path, samples: Samples, rate: int = RATE) -> None:
    """Write 16-bit mono WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())


def load(path: Path) -> Samples:
    """Read 16-bit WAV of any rate and number of channels as mono at ``RATE``.

    A client that was stopped in the middle leaves a header that says too little or nothing; what
    follows the header counts.

    Raises:
        ValueError: no 16-bit PCM WAV.
        OSError: the file can't be read.
    """
    raw = path.read_bytes()
    start = raw.find(b"data")
    if raw[:4] != b"RIFF" or raw[12:16] != b"fmt " or start < 36:
        raise ValueError(f"{path.name} is no WAV file")
    channels = int.from_bytes(raw[22:24], "little")
    rate = int.from_bytes(raw[24:28], "little")
    if int.from_bytes(raw[34:36], "little") != 16 or not channels or not rate:
        raise ValueError(f"{path.name} is not 16-bit PCM")
    body = raw[start + 8 :]
    body = body[: len(body) - len(body) % (2 * channels)]
    mono = np.frombuffer(body, "<i2").reshape(-1, channels).mean(axis=1) / _FULL_SCALE
    return resample(mono, rate)


def resample(samples: Samples, rate: int, to: int = RATE) -> Samples:
    """Change the sampling rate of a whole recording by cutting or padding its spectrum."""
    if rate == to or not len(samples):
        return samples
    length = round(len(samples) * to / rate)
    bins = length // 2 + 1
    spectrum = np.fft.rfft(samples)
    fitted = np.zeros(bins, dtype=complex)
    fitted[: min(bins, len(spectrum))] = spectrum[:bins]
    return np.fft.irfft(fitted, length) * (to / rate)


def audio_ncc(played: Samples, heard: Samples, seconds: float) -> float:
    """Say how much of ``played`` is in ``heard``: 1.0 all of it, 0.0 nothing.

    One lag of the whole recording is removed; then every second of what was played is searched
    for within 100 ms of where it should be, and the median of the normalised cross-correlations
    is the figure. A second that was not heard at all counts as 0.

    Args:
        played: the microphone, from the call's beginning, at ``RATE``; may be longer.
        heard: the loudspeaker, at ``RATE``.
        seconds: how long the call lasted; what was played later doesn't count.
    """
    played = played[: round(seconds * RATE)]
    window, slip = round(WINDOW * RATE), round(SLIP * RATE)
    if len(played) < window or not heard.any():
        return 0.0
    lag = _lag(played, heard)
    margin = max(0, slip - lag)
    padded = np.concatenate([np.zeros(margin), heard, np.zeros(max(0, lag) + len(played) + slip)])
    starts = takewhile(lambda at: at + window <= len(played), count(0, window))
    scores = [
        _best(played[at : at + window], padded[margin + at + lag - slip :][: window + 2 * slip])
        for at in starts
    ]
    return float(np.median(scores))


def _lag(played: Samples, heard: Samples) -> int:
    """How many samples later the same sound stands in ``heard``."""
    size = 1 << (len(played) + len(heard)).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size))
    at = int(np.argmax(np.fft.irfft(spectrum, size)))
    return at if at < len(heard) else at - size


def _best(window: Samples, around: Samples) -> float:
    """The highest normalised cross-correlation of ``window`` with any part of ``around``."""
    energy = np.concatenate([[0.0], np.cumsum(around**2)])
    norms = np.sqrt(np.maximum(energy[len(window) :] - energy[: -len(window)], 0.0))
    norms *= np.sqrt(np.sum(window**2))
    products = np.correlate(around, window, "valid")
    scores = np.divide(products, norms, np.zeros_like(norms), where=norms > 1e-6)
    return max(0.0, float(np.max(scores)))
