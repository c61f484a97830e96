"""A short window that hears as 30 s do: a few positions of silence stand for all of it.

Whisper was pretrained on windows of 30 s. Behind a short utterance every query meets some thirteen hundred positions of
silence there, and a few dozen where the window was cut: other sums, and another hearing. But silence differs from place
to place by its positional embedding alone, and what attention sums over it is told well by a few of its places:

    sum over p of exp(q k_p) v_p  =~  sum over m of n_m exp(q k_m) v_m = sum over m of exp(q k_m + log n_m) v_m,

m in the middle of each of as many equal stretches as the window has positions of silence, n_m positions in the stretch.
So the silence of a cut window is given places all over 30 s, and the logarithms go into every attention to it, the
decoder's too, as a mask: what merged tokens are weighed by elsewhere (proportional attention; Bolya et al. 2023,
arXiv:2210.09461). docs/speed.md has how near it comes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attune.audio.waveform import SAMPLES_PER_POSITION, WINDOW_POSITIONS

EDGE = 2  # positions behind that of the last sample which still hear it


class Spread(NamedTuple):
    """Where the positions of each window stand in 30 s, and the logarithm of how many each stands for."""

    places: Int[Tensor, "batch position"]
    log_counts: Float[Tensor, "batch position"]


def spread_silence(waveform: Float[Tensor, "batch sample"]) -> Spread:
    """Spread the zeros behind the sound of each window over the rest of 30 s. The last position is the last there too:
    the convolutions hear its edge."""
    positions = waveform.shape[1] // SAMPLES_PER_POSITION
    order = torch.arange(positions, device=waveform.device)
    ends = find_ends(waveform)[:, None]
    last = WINDOW_POSITIONS - 1
    each = (last - ends) / (positions - 1 - ends).clamp(min=1)
    is_silence = (order >= ends) & (order < positions - 1)
    places = torch.where(is_silence, (ends + (order - ends + 0.5) * each).long(), order)
    places[:, -1] = torch.where(ends[:, 0] < positions, last, places[:, -1])
    return Spread(places, torch.where(is_silence, each.log(), 0.0))


def find_ends(waveform: Float[Tensor, "batch sample"]) -> Int[Tensor, "batch"]:
    """Of each window the first position, of 20 ms, that hears nothing but zeros up to the end."""
    samples = torch.arange(1, waveform.shape[1] + 1, device=waveform.device, dtype=torch.int32)
    heard = ((waveform != 0) * samples).amax(dim=1)
    return heard.long() // SAMPLES_PER_POSITION + 1 + EDGE


def split_states(
    states: Float[Tensor, "batch position told"], width: int
) -> tuple[Float[Tensor, "batch position width"], Float[Tensor, "batch 1 1 position"] | None]:
    """Encoder states, and the mask for attention to them; None where every position stands for itself."""
    if states.shape[-1] == width:
        return states, None
    return states[..., :width].contiguous(), states[..., width].detach()[:, None, None]  # kernels want none that learns
