"""Waveform augmentation: batched, seeded, on the device; in training only.

Each is called with (waveform, lengths, generator), changes all rows and hands back new tensors of the same shapes;
`share` is the share of the utterances that it is given. `lengths` count an utterance's real samples:
behind them there is silence before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Protocol

import torch
import torchaudio
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from attune.audio.acoustics import add_at_snr, find_real, make_noise, pass_telephone, reverberate, simulate_rooms
from attune.audio.recordings import Recordings
from attune.errors import InputError

Heard = tuple[Float[Tensor, "batch sample"], Int[Tensor, "batch"]]  # waveform, lengths


class WaveformAugmentation(Protocol):
    @property
    def share(self) -> float: ...

    def __call__(self, waveform: Tensor, lengths: Tensor, generator: torch.Generator) -> Heard: ...


def augment_share(
    augmentation: WaveformAugmentation, waveform: Tensor, lengths: Tensor, generator: torch.Generator
) -> Heard:
    """Give each utterance to the augmentation with the chance `share`; the others, and what was handed in, stay."""
    chosen = torch.rand(len(lengths), generator=generator, device=lengths.device) < augmentation.share
    rows = chosen.nonzero()[:, 0]
    if len(rows) == 0:
        return waveform, lengths
    changed, new_lengths = augmentation(waveform[rows], lengths[rows], generator)
    return waveform.index_copy(0, rows, changed), lengths.index_copy(0, rows, new_lengths)


def draw_uniform(low: float, high: float, count: int, generator: torch.Generator) -> Float[Tensor, "count"]:
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


def check_range(name: str, **ends: float) -> None:
    """Raises InputError where the first end of an augmentation's range lies above the second."""
    (first, low), (second, high) = ends.items()
    if low > high:
        raise InputError(
            f"augment.{name}: {first}={low:g} and {second}={high:g} are no range: {first} must not be above {second}."
        )


@dataclass(frozen=True)
class Speed:
    """Faster and higher, or slower and lower, as a tape is (Ko et al. 2015). An utterance that no longer fits stays.

    Args:
        factors: each utterance draws one; 1.1 makes it a tenth faster. In [0.5, 2].
        share: of the utterances, in [0, 1].
    """

    factors: Sequence[float] = (0.9, 1.0, 1.1)
    share: float = 1.0

    def __post_init__(self) -> None:
        if not self.factors or not all(0.5 <= factor <= 2 for factor in self.factors):
            raise InputError(f"augment.speed.factors={list(self.factors)}: one or more numbers from 0.5 to 2.")

    def __call__(self, waveform: Tensor, lengths: Tensor, generator: torch.Generator) -> Heard:
        samples = waveform.shape[-1]
        drawn = torch.randint(len(self.factors), lengths.shape, generator=generator, device=lengths.device)
        waveform, lengths = waveform.clone(), lengths.clone()
        for index, factor in enumerate(self.factors):
            ratio = Fraction(factor).limit_denominator(100)  # 1.1: 11 samples become 10
            changed = -(-lengths * ratio.denominator // ratio.numerator)  # rounded up, as torchaudio does
            rows = ((drawn == index) & (changed <= samples)).nonzero()[:, 0]
            if ratio == 1 or len(rows) == 0:
                continue
            heard = torchaudio.functional.resample(waveform[rows], ratio.numerator, ratio.denominator)
            heard = pad(heard, (0, samples - heard.shape[-1]))  # a negative pad cuts: the silence at the end
            waveform[rows] = heard * find_real(changed[rows], samples)  # the filter rings on behind the end
            lengths[rows] = changed[rows]
        return waveform, lengths


@dataclass(frozen=True)
class Gain:
    """Louder or quieter, never above full scale.

    Args:
        low_db, high_db: range of the gain.
        share: of the utterances, in [0, 1].
    """

    low_db: float = -12.0
    high_db: float = 6.0
    share: float = 1.0

    def __post_init__(self) -> None:
        check_range("gain", low_db=self.low_db, high_db=self.high_db)

    def __call__(self, waveform: Tensor, lengths: Tensor, generator: torch.Generator) -> Heard:
        gain = 10 ** (draw_uniform(self.low_db, self.high_db, len(lengths), generator) / 20)
        most = 1 / waveform.abs().amax(dim=-1).clamp(min=1e-9)
        return waveform * torch.minimum(gain, most)[:, None], lengths


@dataclass(frozen=True)
class Noise:
    """Noise at a signal-to-noise ratio: recorded, or stationary noise of any colour from white to brown.

    Args:
        low_db, high_db: range of the signal-to-noise ratio.
        folder: of recordings of noise, at any depth; null makes it.
        share: of the utterances, in [0, 1].
    """

    low_db: float = 5.0
    high_db: float = 20.0
    folder: str | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        check_range("noise", low_db=self.low_db, high_db=self.high_db)
        _ = self.recordings  # a wrong folder is said at once

    @cached_property
    def recordings(self) -> Recordings | None:
        return Recordings(self.folder, "augment.noise.folder") if self.folder else None

    def __call__(self, waveform: Tensor, lengths: Tensor, generator: torch.Generator) -> Heard:
        snr_db = draw_uniform(self.low_db, self.high_db, len(lengths), generator)
        if self.recordings:
            drawn = [self.recordings.draw_stretch(waveform.shape[-1], generator) for _ in range(len(lengths))]
            noise = torch.stack(drawn).to(waveform.device)
        else:
            noise = make_noise(draw_uniform(0.0, 2.0, len(lengths), generator), waveform.shape[-1], generator)
        return add_at_snr(waveform, noise, snr_db, lengths), lengths


@dataclass(frozen=True)
class Room:
    """Reverberation: by recorded impulse responses, or by those of statistical rooms (audio/acoustics.py).

    Args:
        shortest_s, longest_s: range of the reverberation time T60 of a simulated room.
        far_db, near_db: range of its direct sound over its tail.
        folder: of recorded impulse responses, at any depth; null simulates them.
        share: of the utterances, in [0, 1].
    """

    shortest_s: float = 0.2
    longest_s: float = 0.8
    far_db: float = -3.0
    near_db: float = 9.0
    folder: str | None = None
    share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.shortest_s <= self.longest_s:
            raise InputError(
                f"augment.room: shortest_s={self.shortest_s:g} and longest_s={self.longest_s:g} are no range of "
                "reverberation times: 0 < shortest_s <= longest_s."
            )
        check_range("room", far_db=self.far_db, near_db=self.near_db)
        _ = self.recordings

    @cached_property
    def recordings(self) -> Recordings | None:
        return Recordings(self.folder, "augment.room.folder") if self.folder else None

    def __call__(self, waveform: Tensor, lengths: Tensor, generator: torch.Generator) -> Heard:
        if self.recordings:
            drawn = [self.recordings.draw_response(generator) for _ in range(len(lengths))]
            longest = max(map(len, drawn))
            response = torch.stack([pad(each, (0, longest - len(each))) for each in drawn]).to(waveform.device)
        else:
            reverberation_s = draw_uniform(self.shortest_s, self.longest_s, len(lengths), generator)
            response = simulate_rooms(
                reverberation_s, draw_uniform(self.far_db, self.near_db, len(lengths), generator), generator
            )
        return reverberate(waveform, response, lengths), lengths


@dataclass(frozen=True)
class Telephone:
    """A narrow-band line with its codec (audio/acoustics.py); `share` of the utterances, in [0, 1]."""

    share: float = 0.1

    def __call__(self, waveform: Tensor, lengths: Tensor, generator: torch.Generator) -> Heard:
        return pass_telephone(waveform, lengths), lengths
