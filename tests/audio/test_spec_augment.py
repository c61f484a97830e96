"""SpecAugment hides what it says, as silence, inside the utterance."""

import pytest
import torch
from whispers import make_sound

from attune.audio.log_mel import LogMel
from attune.audio.spec_augment import SpecAugment, compute_floor

LENGTHS = torch.tensor([32_000, 8_000])  # 200 and 50 frames
MELS, FRAMES = 80, 300


def make_log_mel() -> torch.Tensor:
    """Above its floor everywhere inside the utterance, so that what is hidden is seen."""
    log_mel = torch.linspace(0.1, 0.9, MELS * FRAMES).reshape(1, MELS, FRAMES).repeat(2, 1, 1)
    log_mel[:, 0, 0] = torch.tensor([1.5, 1.0])
    for row, frames in zip(log_mel, (200, 50), strict=True):
        row[:, frames:] = row.max() - 2.0
    return log_mel


def mask(spec_augment: SpecAugment, seed: int = 0) -> torch.Tensor:
    log_mel = make_log_mel()
    before = log_mel.clone()
    hidden = spec_augment(log_mel, LENGTHS, torch.Generator().manual_seed(seed))
    assert torch.equal(log_mel, before)  # on a copy
    return hidden != log_mel


def test_what_is_hidden_is_the_floor() -> None:
    log_mel = make_log_mel()
    assert compute_floor(log_mel).tolist() == pytest.approx([-0.5, -1.0])  # the maximum less 8 decades / 4
    hidden = SpecAugment()(log_mel, LENGTHS, torch.Generator().manual_seed(3))
    for row, changed, floor in zip(hidden, hidden != log_mel, (-0.5, -1.0), strict=True):
        assert changed.any() and row[changed].unique().tolist() == pytest.approx([floor])


def test_the_floor_is_that_of_the_front_end() -> None:
    sound = torch.nn.functional.pad(make_sound(1.0, 1), (0, 16_000))
    log_mel = LogMel(80)(torch.stack([sound, 1e-6 * sound, torch.zeros(32_000)]))
    assert torch.allclose(compute_floor(log_mel), log_mel.amin(dim=(1, 2)), atol=1e-5)


def test_time_masks_lie_inside_the_real_length() -> None:
    for seed in range(50):
        changed = mask(SpecAugment(time_masks=1, time_frames=40, time_share=0.2, mel_masks=0), seed)
        in_time = changed.all(dim=1)
        assert torch.equal(in_time, changed.any(dim=1))  # whole columns
        assert int(in_time[0].sum()) <= 40 and int(in_time[1].sum()) <= 10  # 20 % of 50 frames
        assert not in_time[0, 200:].any() and not in_time[1, 50:].any()
        for row in in_time:
            assert int((row[1:] != row[:-1]).sum()) <= 2  # one stretch
    widths = [int(mask(SpecAugment(1, 40, 1.0, 0), seed).all(dim=1)[0].sum()) for seed in range(300)]
    assert min(widths) == 0 and max(widths) == 40


def test_mel_masks_are_bands() -> None:
    for seed in range(50):
        changed = mask(SpecAugment(time_masks=0, mel_masks=1, mel_channels=12), seed)
        bands = changed.any(dim=2)
        assert (bands.sum(dim=1) <= 12).all()
        assert torch.equal(changed[0, :, :200], bands[0][:, None].expand(MELS, 200))
        assert not changed[0, :, 200:].any() and not changed[1, :, 50:].any()
    reached = torch.stack([mask(SpecAugment(0, mel_masks=2), seed).any(dim=2)[0] for seed in range(500)])
    assert reached.any(dim=0).all()  # no channel is safe


def test_rows_differ_and_a_seed_repeats() -> None:
    spec_augment = SpecAugment(time_masks=2, time_frames=30, time_share=1.0)
    assert torch.equal(mask(spec_augment, 5), mask(spec_augment, 5))
    assert not torch.equal(mask(spec_augment, 5), mask(spec_augment, 6))
    changed = mask(spec_augment, 5)
    assert not torch.equal(changed[0, :, :50], changed[1, :, :50])


def test_no_masks_change_nothing() -> None:
    assert not mask(SpecAugment(time_masks=0, mel_masks=0)).any()
