"""Where nobody speaks, found in made sound of which that is known."""

import pytest
import torch
from torch import Tensor

from attune.audio.pauses import cut_at_pauses, find_pauses, find_quiet_sample
from attune.audio.tape import Tape
from attune.audio.waveform import SAMPLE_RATE_HZ


def make_speech(*parts_s: tuple[float, float], duration_s: float, noise: float = 1e-4) -> Tensor:
    """Noise as loud as speech between the given times, and a quiet room elsewhere."""
    generator = torch.Generator().manual_seed(0)
    waveform = noise * torch.randn(int(duration_s * SAMPLE_RATE_HZ), generator=generator)
    for start_s, end_s in parts_s:
        part = slice(round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ))
        waveform[part] += 0.1 * torch.randn(waveform[part].shape, generator=generator)
    return waveform


@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.02])
def test_pauses_are_found_in_any_room(noise: float) -> None:
    waveform = make_speech((0.5, 2.0), (2.1, 4.0), (4.5, 9.0), duration_s=9.0, noise=noise)
    found = [(begin / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ) for begin, end in find_pauses(waveform)]
    assert found == [pytest.approx(pause, abs=0.03) for pause in [(0.0, 0.5), (4.0, 4.5)]]  # 0.1 s is none


def test_silence_is_a_pause_and_unbroken_sound_has_none() -> None:
    assert find_pauses(torch.zeros(50_000)) == [(0, 50_000)]
    assert find_pauses(make_speech((0, 5), duration_s=5)) == find_pauses(torch.zeros(100)) == []


def test_stretches_hold_all_that_is_said_and_end_in_pauses() -> None:
    spoken_s = [(0.3, 9.0), (9.4, 18.0), (19.0, 28.0), (28.25, 44.0), (95.0, 99.0), (99.5, 120.0), (121.0, 152.0)]
    waveform = make_speech(*spoken_s, duration_s=160.0)
    stretches = list(cut_at_pauses(Tape(waveform.split(50_000))))
    covered = torch.zeros(len(waveform), dtype=torch.bool)
    for start, part in stretches:
        assert len(part) <= 30 * SAMPLE_RATE_HZ and torch.equal(part, waveform[start : start + len(part)])
        assert not covered[start : start + len(part)].any()
        covered[start : start + len(part)] = True
    assert covered[waveform.abs() > 0.01].all()  # nothing that is said is left out
    assert covered.sum() < 115 * SAMPLE_RATE_HZ  # and 51 s of silence are not heard
    starts_s = [start / SAMPLE_RATE_HZ for start, _ in stretches]
    assert starts_s[:3] == [0.0, pytest.approx(18.5, abs=0.05), pytest.approx(94.7, abs=0.05)]


def test_where_nobody_pauses_the_quietest_moment_is_taken() -> None:
    waveform = make_speech((0, 70), duration_s=70)
    starts_s = [start / SAMPLE_RATE_HZ for start, _ in cut_at_pauses(Tape([waveform]))]
    assert len(starts_s) == 3 and all(24 < b - a <= 30 for a, b in zip(starts_s, starts_s[1:], strict=False))
    shorter = list(cut_at_pauses(Tape([waveform]), longest_s=10.0))
    assert max(len(part) for _, part in shorter) <= 10 * SAMPLE_RATE_HZ
    assert sum(len(part) for _, part in shorter) == len(waveform)


def test_the_quietest_moment_is_found_in_the_last_seconds() -> None:
    waveform = make_speech((0, 30), duration_s=30)
    for start_s in (10.0, 27.0):
        waveform[int(start_s * SAMPLE_RATE_HZ) : int((start_s + 0.3) * SAMPLE_RATE_HZ)] = 0.0
    assert find_quiet_sample(waveform) / SAMPLE_RATE_HZ == pytest.approx(27.15, abs=0.06)
