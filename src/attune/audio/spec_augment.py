"""SpecAugment on a log-mel: stretches of time and bands of frequency become silence. In training only."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attune.audio.waveform import HOP_SAMPLES
from attune.errors import InputError, is_whole

DYNAMIC_RANGE = 2.0  # of a log-mel: 8 decades of power, divided by 4 (audio/log_mel.py)
DIGITAL_SILENCE = (-10.0 + 4.0) / 4.0  # the log-mel of zeros


@dataclass(frozen=True)
class SpecAugment:
    """Stretches of time and bands of frequency are hidden (Park et al. 2019), inside the utterance's real length.

    What is hidden becomes the utterance's own floor: 0 would be no silence in a log-mel. Widths are drawn from 0 to the
    widest, places anywhere.

    Args:
        time_masks, mel_masks: how many of each.
        time_frames: the widest stretch, in frames of 10 ms ...
        time_share: ... and never more than this share of the utterance, in [0, 1].
        mel_channels: the widest band.
    """

    time_masks: int = 2
    time_frames: int = 50
    time_share: float = 0.2
    mel_masks: int = 2
    mel_channels: int = 15

    def __post_init__(self) -> None:
        for name in ("time_masks", "time_frames", "mel_masks", "mel_channels"):
            count = getattr(self, name)
            if not is_whole(count) or count < 0:
                raise InputError(f"augment.spec_augment.{name}={count}: accepted are whole numbers, 0 and more.")
        if not 0 <= self.time_share <= 1:
            raise InputError(
                f"augment.spec_augment.time_share={self.time_share:g} is no share of an utterance: it must be in "
                "[0, 1]."
            )

    def __call__(
        self, log_mel: Float[Tensor, "batch mel frame"], lengths: Int[Tensor, "batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch mel frame"]:
        _, mels, frames = log_mel.shape
        real = (-(-lengths // HOP_SAMPLES)).clamp(max=frames)
        widest = (real * self.time_share).clamp(max=self.time_frames)
        in_time = _draw_masks(self.time_masks, widest, real, frames, generator)
        all_mels = torch.full_like(real, mels)
        in_mel = _draw_masks(self.mel_masks, all_mels.clamp(max=self.mel_channels), all_mels, mels, generator)
        is_real = torch.arange(frames, device=real.device) < real[:, None]
        hidden = (in_time[:, None, :] | in_mel[:, :, None]) & is_real[:, None, :]
        return torch.where(hidden, compute_floor(log_mel)[:, None, None], log_mel)


def compute_floor(log_mel: Float[Tensor, "batch mel frame"]) -> Float[Tensor, "batch"]:
    """What silence is in each utterance's log-mel: 80 dB below its loudest, but not below digital silence."""
    return (log_mel.amax(dim=(-2, -1)) - DYNAMIC_RANGE).clamp(min=DIGITAL_SILENCE)


def _draw_masks(masks: int, widest: Tensor, room: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(batch, size), true where one of `masks` stretches lies: each at most `widest` wide, all of it inside `room`."""
    shape = (len(room), masks)
    width = (torch.rand(shape, generator=generator, device=room.device) * (widest.floor()[:, None] + 1)).floor()
    first = (torch.rand(shape, generator=generator, device=room.device) * (room[:, None] - width + 1)).floor()
    place = torch.arange(size, device=room.device)
    return ((place >= first[..., None]) & (place < (first + width)[..., None])).any(dim=1)
