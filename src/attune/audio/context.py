"""How much of Whisper's 30 s window is used.

Whisper was pretrained on windows padded to 30 s (1500 encoder positions). A three-second clip then costs ten times its
own length. A context says how many positions a batch really gets. It stands in this room, and not beside the model,
because it is the collator that pads the waveform, to exactly `positions * 320` samples.
"""

import math
import random
from dataclasses import dataclass
from typing import Protocol

from attune.audio.waveform import POSITIONS_PER_S, WINDOW_POSITIONS


class Context(Protocol):
    """`name` is written into run.json; `buckets` are the only lengths, in encoder positions, that ever occur."""

    @property
    def name(self) -> str: ...

    def positions(self, duration_s: float, rng: random.Random | None) -> int:
        """Encoder positions for one utterance; `rng` draws the training margin, None asks for the evaluation margin."""
        ...


@dataclass(frozen=True)
class FullContext:
    """The whole 30 s window, as pretrained, whatever the utterance's length."""

    name: str = "full"

    def positions(self, duration_s: float, rng: random.Random | None) -> int:
        return WINDOW_POSITIONS


@dataclass(frozen=True)
class AudioContext:
    """The audio plus a margin of silence, rounded up to a bucket.

    positions = clamp(50 * duration_s + U[margin_min, margin_max], shortest, 1500). The margin is what lets the model
    hear that the utterance has ended: an exact cut loses the last words. A share of the training utterances keeps the
    whole window, so that the exported model still works where other programs pad to 30 s.

    Args:
        margin_min, margin_max: encoder positions (50 a second) of silence after the audio; evaluation uses the middle.
        shortest: the smallest window, in positions.
        full_share: the share of training utterances that keep all 1500 positions, in [0, 1]. Few of them fill a batch:
            2 % of the utterances are a tenth of the batches.
        bucket: windows are multiples of this many positions, so that few shapes occur.
    """

    margin_min: int = 32
    margin_max: int = 128
    shortest: int = 150
    full_share: float = 0.02
    bucket: int = 50
    name: str = "audio"

    def positions(self, duration_s: float, rng: random.Random | None) -> int:
        if rng is not None and rng.random() < self.full_share:
            return WINDOW_POSITIONS
        low, high = self.margin_min, self.margin_max
        margin = (low + high) / 2 if rng is None else rng.uniform(low, high)
        wanted = max(self.shortest, POSITIONS_PER_S * duration_s + margin)
        return min(WINDOW_POSITIONS, self.bucket * math.ceil(wanted / self.bucket))
