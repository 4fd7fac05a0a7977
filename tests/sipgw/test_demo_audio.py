from pathlib import Path

import numpy as np
import pytest

from sipgw.demo.audio import RATE, audio_ncc, load, melody, resample, save

SECONDS = 8.0
PLAYED = melody(30)


def test_what_was_heard_as_played_is_1() -> None:
    assert audio_ncc(PLAYED, PLAYED[: 8 * RATE], SECONDS) == pytest.approx(1.0)


def test_silence_and_nothing_are_0() -> None:
    assert audio_ncc(PLAYED, np.zeros(8 * RATE), SECONDS) == 0.0
    assert audio_ncc(PLAYED, np.zeros(0), SECONDS) == 0.0


def test_noise_is_low() -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, 8 * RATE)
    assert audio_ncc(PLAYED, noise, SECONDS) < 0.3


def test_another_melody_is_low() -> None:
    assert audio_ncc(PLAYED, melody(8, tune=2), SECONDS) < 0.5


@pytest.mark.parametrize("lag", [-300, -1, 120, 4_000])
def test_one_lag_of_the_whole_recording_does_not_matter(lag: int) -> None:
    whole = np.concatenate([np.zeros(max(0, lag)), PLAYED[max(0, -lag) : 8 * RATE]])
    assert audio_ncc(PLAYED, whole, SECONDS) > 0.99


def test_a_softer_recording_is_as_good() -> None:
    assert audio_ncc(PLAYED, PLAYED[: 8 * RATE] * 0.05, SECONDS) == pytest.approx(1.0)


def test_a_slip_of_50_ms_in_the_middle_is_forgiven() -> None:
    heard = np.concatenate([PLAYED[: 3 * RATE], np.zeros(400), PLAYED[3 * RATE : 8 * RATE]])
    assert audio_ncc(PLAYED, heard, SECONDS) > 0.99


def test_a_slip_of_300_ms_in_the_middle_is_not() -> None:
    heard = np.concatenate([PLAYED[: 4 * RATE], np.zeros(2_400), PLAYED[4 * RATE : 8 * RATE]])
    assert audio_ncc(PLAYED, heard, SECONDS) < 0.95


def test_a_fifth_of_the_packets_lost_is_heard() -> None:
    frames = PLAYED[: 8 * RATE].copy().reshape(-1, 160)
    frames[np.random.default_rng(3).random(len(frames)) < 0.2] = 0
    assert 0.5 < audio_ncc(PLAYED, frames.ravel(), SECONDS) < 0.93


def test_a_call_of_which_the_half_is_missing_is_not_good() -> None:
    assert audio_ncc(PLAYED, PLAYED[: 3 * RATE], SECONDS) < 0.2


def test_what_was_played_after_the_call_does_not_count() -> None:
    assert audio_ncc(PLAYED, PLAYED[: 2 * RATE], 2.0) == pytest.approx(1.0)


def test_a_melody_is_the_same_every_time() -> None:
    assert np.array_equal(melody(3), melody(3))
    assert not np.array_equal(melody(3), melody(3, tune=2))


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_a_wav_file_of_any_rate_is_read_at_8_khz(tmp_path: Path, rate: int) -> None:
    save(tmp_path / "a.wav", melody(3, rate), rate)
    assert audio_ncc(melody(3), load(tmp_path / "a.wav"), 3) > 0.99


def test_a_wav_file_whose_header_was_never_finished_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save(path, melody(3))
    raw = bytearray(path.read_bytes())
    raw[40:44] = bytes(4)
    path.write_bytes(raw)
    assert audio_ncc(melody(3), load(path), 3) > 0.99


def test_no_wav_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no such thing" * 9)
    with pytest.raises(ValueError, match="no WAV"):
        load(tmp_path / "a.wav")


def test_resampling_keeps_the_sound() -> None:
    back = resample(resample(PLAYED, RATE, 48_000), 48_000)
    assert audio_ncc(PLAYED, back, SECONDS) > 0.999
