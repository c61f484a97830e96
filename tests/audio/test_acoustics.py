"""Noise, rooms and telephone lines, held against numbers worked out by hand."""

import math

import pytest
import torch
from whispers import make_sound

from attune.audio.acoustics import (
    add_at_snr,
    compute_power,
    find_real,
    make_noise,
    pass_telephone,
    reverberate,
    simulate_rooms,
)

LENGTHS = torch.tensor([16_000, 9_600])


def make_padded(samples: int = 24_000) -> torch.Tensor:
    waveform = torch.zeros(2, samples)
    for row, length in zip(waveform, LENGTHS.tolist(), strict=True):
        row[:length] = make_sound(length / 16_000 + 0.01, seed=length)[:length]
    return waveform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_tone(hz: float, samples: int = 16_000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hz * torch.arange(samples) / 16_000)[None]


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_the_signal_to_noise_ratio_is_reached(colour: float) -> None:
    waveform, wanted = make_padded(), torch.tensor([0.0, 17.5])
    noisy = add_at_snr(waveform, make_noise(torch.full((2,), colour), 24_000, seeded()), wanted, LENGTHS)
    added = noisy - waveform
    for row in range(2):
        speech, noise = (each[row, : LENGTHS[row]].square().mean() for each in (waveform, added))
        assert 10 * math.log10(speech / noise) == pytest.approx(float(wanted[row]), abs=0.1)
        assert added[row, LENGTHS[row] :].abs().max() == 0


def test_the_colour_of_noise_is_its_slope() -> None:
    """An octave higher is 3 dB quieter in pink noise and 6 dB in brown."""
    noise = make_noise(torch.tensor([0.0, 1.0, 2.0]), 160_000, seeded())
    assert noise.square().mean(dim=-1).tolist() == pytest.approx([1.0] * 3, rel=1e-4)
    power = torch.fft.rfft(noise).abs().square()  # a bin is 0.1 Hz
    low, high = power[:, 9_000:11_000].mean(dim=-1), power[:, 18_000:22_000].mean(dim=-1)
    assert (10 * (high / low).log10()).tolist() == pytest.approx([0.0, -3.01, -6.02], abs=0.5)


def test_power_counts_real_samples_only() -> None:
    waveform = torch.tensor([[1.0, -1.0, 3.0, 0.0], [2.0, 7.0, 7.0, 7.0]])
    assert compute_power(waveform, torch.tensor([2, 1])).tolist() == [1.0, 4.0]
    assert find_real(torch.tensor([2, 1]), 3).tolist() == [[True, True, False], [True, False, False]]


def test_a_room_dies_away_in_its_reverberation_time() -> None:
    wanted_s, direct_db = torch.tensor([0.4, 0.8]), torch.tensor([6.0, -3.0])
    response = simulate_rooms(wanted_s, direct_db, seeded())
    assert response.shape == (2, 12_800)
    assert response[:, 0].tolist() == [1.0, 1.0]
    assert response[:, 1:64].abs().max() == 0  # no surface is nearer than 4 ms
    tail = response[:, 64:].square()
    assert (-10 * tail.sum(dim=-1).log10()).tolist() == pytest.approx(direct_db.tolist(), abs=1e-3)
    for row, time_s in zip(tail, wanted_s.tolist(), strict=True):
        early, later = row[:800].sum(), row[1_600:2_400].sum()  # 0.1 s apart: 60 dB * 0.1 / T60
        assert 10 * math.log10(early / later) == pytest.approx(6.0 / time_s, abs=1.5)


def test_reverberation_keeps_power_and_length_and_delays_nothing() -> None:
    waveform = make_padded()
    echo = torch.zeros(2, 800)
    echo[:, 0], echo[:, 400] = 1.0, 0.5
    wet = reverberate(waveform, echo, LENGTHS)
    assert wet.shape == waveform.shape
    assert torch.allclose(compute_power(wet, LENGTHS), compute_power(waveform, LENGTHS), rtol=1e-4)
    by_hand = waveform.clone()
    by_hand[:, 400:] += 0.5 * waveform[:, :-400]
    by_hand *= find_real(LENGTHS, 24_000)
    by_hand *= (compute_power(waveform, LENGTHS) / compute_power(by_hand, LENGTHS)).sqrt()[:, None]
    torch.testing.assert_close(wet, by_hand, atol=1e-4, rtol=0)
    assert wet[1, 9_600:].abs().max() == 0


@pytest.mark.parametrize(
    ("hz", "loss_db"), [(50, 55), (150, 20), (300, 3), (1_000, 0), (2_000, 0), (3_400, 3), (5_000, 40)]
)
def test_a_telephone_passes_its_band(hz: float, loss_db: float) -> None:
    """Butterworth: 3 dB at the edges; order 4 falls by 24 dB an octave."""
    tone, whole = make_tone(hz), torch.tensor([16_000])
    gain_db = 10 * float((compute_power(pass_telephone(tone, whole), whole) / compute_power(tone, whole)).log10())
    if loss_db <= 3:
        assert gain_db == pytest.approx(-loss_db, abs=0.7)
    else:
        assert gain_db < -loss_db


def test_a_telephone_has_256_levels_and_leaves_silence_silent() -> None:
    heard = pass_telephone(make_padded(), LENGTHS)
    assert heard.shape == (2, 24_000) and heard.abs().max() <= 1.05
    assert heard[0, 16_000:].abs().max() == 0 and heard[1, 9_600:].abs().max() == 0
    assert pass_telephone(torch.zeros(1, 16_000), torch.tensor([16_000])).abs().max() < 1e-3
    odd = pass_telephone(make_tone(440, 15_999), torch.tensor([15_999]))
    assert odd.shape == (1, 15_999)
