"""The front end is transformers' own, computed elsewhere."""

import pytest
import torch
from transformers import WhisperFeatureExtractor
from whispers import make_sound

from attune.audio.log_mel import SAMPLES_CACHED, LogMel, count_heard
from attune.audio.waveform import SAMPLES_PER_POSITION, WINDOW_POSITIONS


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("length_s", [30.0, 0.03, 1.0, 7.77])
def test_equals_the_feature_extractor(mels: int, length_s: float) -> None:
    sound = make_sound(length_s, seed=3)
    padded = torch.nn.functional.pad(sound, (0, WINDOW_POSITIONS * SAMPLES_PER_POSITION - sound.shape[0]))
    features = WhisperFeatureExtractor(feature_size=mels)(sound.numpy(), sampling_rate=16_000, return_tensors="pt")
    log_mel = LogMel(mels)(padded[None])
    assert log_mel.shape == (1, mels, 3000)
    torch.testing.assert_close(log_mel, features.input_features, atol=1e-5, rtol=0)


def test_rows_of_a_batch_do_not_meet() -> None:
    # The floor is 80 dB below the utterance's own maximum, not below the batch's.
    loud, quiet = make_sound(1.0, 1), 1e-3 * make_sound(1.0, 2)
    log_mel = LogMel(80)
    together = log_mel(torch.stack([loud, quiet]))
    torch.testing.assert_close(together[1:], log_mel(quiet[None]), atol=1e-6, rtol=0)


def test_a_batch_of_many_parts_is_that_of_its_rows() -> None:
    """On a CPU it is computed a few rows at a time."""
    rows = torch.stack([make_sound(1.0, seed) for seed in range(30)])
    assert len(rows) * rows.shape[1] > 2 * SAMPLES_CACHED
    log_mel = LogMel(80)
    alone = torch.cat([log_mel(row[None]) for row in rows])
    torch.testing.assert_close(log_mel(rows), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("heard", [0, 1, 199, 200, 201, 359, 360, 361, 7_777, 31_600, 31_799, 31_800, 32_000])
def test_padding_is_left_out_and_filled_in(heard: int) -> None:
    """To the frame: the last sound is one sample, at whose frames nothing may be cut off."""
    batch = torch.zeros(2, 32_000)
    batch[0, :heard] = make_sound(2.0, seed=7)[:heard]
    batch[:, max(heard - 1, 0)] = 0.5
    expected = LogMel(80)._compute(batch)
    torch.testing.assert_close(LogMel(80)(batch), expected, atol=1e-6, rtol=0)
    assert 2 <= count_heard(batch) <= 2 + (heard + 200) // 160


@pytest.mark.parametrize("positions", [150, 300, 1100])
def test_a_short_window_is_the_beginning_of_the_long_one(positions: int) -> None:
    """If at least 200 zeros follow the audio: half of a frame's window."""
    log_mel = LogMel(80)
    sound = make_sound(positions / 50 - 200 / 16_000, seed=5)
    assert positions * SAMPLES_PER_POSITION - sound.shape[0] == 200
    long = torch.nn.functional.pad(sound, (0, WINDOW_POSITIONS * SAMPLES_PER_POSITION - sound.shape[0]))
    short = log_mel(long[None, : positions * SAMPLES_PER_POSITION])
    torch.testing.assert_close(short, log_mel(long[None])[..., : 2 * positions], atol=1e-6, rtol=0)


def test_without_the_zeros_it_is_not() -> None:
    """So the margin of every context is needed."""
    log_mel, sound = LogMel(80), make_sound(3.0, seed=5)
    long = torch.nn.functional.pad(sound, (0, 27 * 16_000))
    assert (log_mel(sound[None]) - log_mel(long[None])[..., :300]).abs().max() > 1e-3


def test_stays_fp32_under_autocast_and_out_of_checkpoints() -> None:
    log_mel, sound = LogMel(80), make_sound(1.0, seed=1)[None]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(sound), log_mel(sound.clone()))
        assert log_mel(sound).dtype == torch.float32
    torch.testing.assert_close(log_mel(sound.bfloat16()), log_mel(sound), atol=0.2, rtol=0)
    assert not log_mel.state_dict()
