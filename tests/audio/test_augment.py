"""Augmentations keep shapes and silence, repeat under a seed, and do what their numbers say."""

from pathlib import Path

import pytest
import torch
from whispers import make_sound

from attune.audio.augment import Gain, Noise, Room, Speed, Telephone, WaveformAugmentation, augment_share
from attune.audio.recordings import Recordings
from attune.audio.waveform import encode_wav
from attune.errors import InputError

LENGTHS = torch.tensor([16_000, 9_000, 23_900, 12_345])
SAMPLES = 24_000
ALL: list[WaveformAugmentation] = [
    Speed((0.9, 1.1)), Speed((0.5, 2.0)), Gain(), Noise(share=1.0), Room(share=1.0), Telephone(share=1.0),
]  # fmt: skip


def make_padded() -> torch.Tensor:
    waveform = torch.zeros(4, SAMPLES)
    for row, length in zip(waveform, LENGTHS.tolist(), strict=True):
        row[:length] = make_sound(length / 16_000 + 0.01, seed=length)[:length]
    return waveform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("augmentation", ALL, ids=repr)
def test_shapes_silence_and_seeds(augmentation: WaveformAugmentation) -> None:
    waveform, before = make_padded(), make_padded()
    heard, lengths = augment_share(augmentation, waveform, LENGTHS, seeded(1))
    again, same = augment_share(augmentation, waveform, LENGTHS, seeded(1))
    others = [augment_share(augmentation, waveform, LENGTHS, seeded(seed))[0] for seed in range(2, 8)]
    assert torch.equal(waveform, before)  # what was handed in is as it was
    assert heard.shape == waveform.shape and heard.dtype == torch.float32 and lengths.dtype == LENGTHS.dtype
    assert torch.isfinite(heard).all() and not torch.equal(heard, waveform)
    assert torch.equal(heard, again) and torch.equal(lengths, same)
    if not isinstance(augmentation, Telephone):  # which has nothing to draw
        assert not all(torch.equal(heard, other) for other in others)
    for row, length in zip(heard, lengths.tolist(), strict=True):
        assert 0 < length <= SAMPLES and row[length:].abs().sum() == 0


def test_a_share_of_the_utterances() -> None:
    many, lengths = make_padded().repeat(100, 1), LENGTHS.repeat(100)
    heard, _ = augment_share(Gain(-6.0, -5.0, share=0.25), many, lengths, seeded())
    changed = (heard != many).any(dim=1)
    assert 60 <= int(changed.sum()) <= 140  # of 400; three standard deviations are 26
    for share, wanted in ((0.0, 0), (1.0, 400)):
        heard, _ = augment_share(Gain(-6.0, -5.0, share=share), many, lengths, seeded())
        assert int((heard != many).any(dim=1).sum()) == wanted


def test_speed_moves_a_tone_and_its_end() -> None:
    tone = torch.zeros(1, 32_000)
    tone[0, :16_000] = torch.sin(2 * torch.pi * 1_000 * torch.arange(16_000) / 16_000)
    for factor, length in ((1.1, 14_546), (0.9, 17_778), (0.5, 32_000), (2.0, 8_000)):
        heard, lengths = Speed((factor,))(tone, torch.tensor([16_000]), seeded())
        assert lengths.tolist() == [length]  # 16,000 / factor, rounded up
        loudest = torch.fft.rfft(heard[0, :length]).abs().argmax() * 16_000 / length
        assert float(loudest) == pytest.approx(1_000 * factor, abs=3)


def test_an_utterance_that_would_not_fit_keeps_its_speed() -> None:
    waveform = make_padded()
    heard, lengths = Speed((0.5,))(waveform, LENGTHS, seeded())
    assert lengths.tolist() == [16_000, 18_000, 23_900, 12_345]  # only twice 9,000 is at most 24,000
    assert torch.equal(heard[[0, 2, 3]], waveform[[0, 2, 3]])


def test_gain_stays_in_its_range_and_below_full_scale() -> None:
    waveform = make_padded()
    heard, _ = Gain(-12.0, -6.0)(waveform, LENGTHS, seeded())
    gain_db = 20 * (heard.abs().amax(dim=1) / waveform.abs().amax(dim=1)).log10()
    assert ((gain_db > -12.01) & (gain_db < -5.99)).all() and gain_db.std() > 0
    loud, _ = Gain(30.0, 30.0)(waveform, LENGTHS, seeded())
    assert loud.abs().amax(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)


def test_noise_reaches_its_ratio() -> None:
    waveform = make_padded()
    heard, _ = Noise(7.0, 7.0)(waveform, LENGTHS, seeded())
    for row, clean, length in zip(heard, waveform, LENGTHS.tolist(), strict=True):
        speech, noise = clean[:length].square().mean(), (row - clean)[:length].square().mean()
        assert float(10 * (speech / noise).log10()) == pytest.approx(7.0, abs=0.1)


def test_recorded_noise_and_rooms(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "hum.wav").write_bytes(encode_wav(make_sound(0.3, 1)))  # shorter than the window: repeated
    waveform = make_padded()
    heard, _ = Noise(10.0, 10.0, str(tmp_path), share=1.0)(waveform, LENGTHS, seeded())
    added = heard[0, :16_000] - waveform[0, :16_000]
    torch.testing.assert_close(added[:4_000], added[4_800:8_800], atol=1e-6, rtol=1e-3)  # 0.3 s is 4,800 samples
    click = torch.zeros(4_000)
    click[100], click[500] = 0.8, -0.4
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "click.wav").write_bytes(encode_wav(click))
    wet, _ = Room(folder=str(tmp_path / "room"), share=1.0)(waveform, LENGTHS, seeded())
    by_hand = waveform[0, :16_000].clone()
    by_hand[400:] -= 0.5 * waveform[0, : 16_000 - 400]
    by_hand *= waveform[0].norm() / by_hand.norm()
    torch.testing.assert_close(wet[0, :16_000], by_hand, atol=1e-3, rtol=0)


def test_folders_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"augment.noise.folder=.*no audio"):
        Noise(folder=str(tmp_path))
    with pytest.raises(InputError, match=r"augment.room.folder=nowhere.*no audio"):
        Room(folder="nowhere")
    (tmp_path / "bad.wav").write_bytes(b"RIFFnonsense")
    with pytest.raises(InputError, match=r"bad.wav cannot be decoded"):
        Recordings(str(tmp_path), "augment.noise.folder")


@pytest.mark.parametrize("factors", [(), (0.2,), (1.0, 3.0)])
def test_speeds_that_nobody_has(factors: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"augment.speed.factors"):
        Speed(factors)


def test_a_room_needs_a_reverberation_time() -> None:
    with pytest.raises(InputError, match=r"0 < shortest_s <= longest_s"):
        Room(shortest_s=0.0)
