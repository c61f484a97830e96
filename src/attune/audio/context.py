"""How much of Whisper's 30 s window is computed.

Whisper was pretrained on windows padded to 30 s (1500 encoder positions). A three-second clip then costs ten times its
own length. A context says how many positions a batch really gets. It stands in this room, and not beside the model,
because it is the collator that pads the waveform, to exactly `positions * 320` samples.

What stands behind the audio is silence, which Whisper knows from its pretraining, and from which it hears that the
utterance has ended. In a window that was cut some of it stands for all of it up to 30 s, so that the model hears
what it would hear there (model/silence.py). Nothing else is masked: all windows of a batch have one length, which the
utterance alone decides, so that no padding depends on the neighbours.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from attune.audio.waveform import POSITIONS_PER_S, WINDOW_POSITIONS, WINDOW_S
from attune.errors import InputError

LEAST_MARGIN = 8  # positions: with fewer the model hears otherwise than at 30 s
ALONE = 1 / 3  # of the time in which windows grow, before they begin to


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

    positions = clamp(50 * duration_s + U[margin_min, margin_max], shortest, 1500). The margin stands for all the
    silence up to 30 s (model/silence.py): the more of it, the nearer it comes. docs/speed.md has how near.

    Args:
        margin_min, margin_max: encoder positions (50 a second) of silence after the audio; evaluation uses the middle.
        shortest: the smallest window, in positions.
        bucket: windows are multiples of this many positions, so that few shapes occur.

    Raises:
        InputError: one of them is no such number.
    """

    margin_min: int = 32
    margin_max: int = 64
    shortest: int = 150
    bucket: int = 50
    name: str = "audio"

    def __post_init__(self) -> None:
        if not LEAST_MARGIN <= self.margin_min <= self.margin_max <= WINDOW_POSITIONS:
            raise InputError(
                f"context.margin_min={self.margin_min} and context.margin_max={self.margin_max}: accepted are "
                f"{LEAST_MARGIN} <= margin_min <= margin_max <= {WINDOW_POSITIONS} positions, of 20 ms."
            )
        for key in ("shortest", "bucket"):
            if not 1 <= getattr(self, key) <= WINDOW_POSITIONS:
                raise InputError(
                    f"context.{key}={getattr(self, key)}: accepted are 1 to {WINDOW_POSITIONS} positions, of 20 ms."
                )

    def positions(self, duration_s: float, rng: random.Random | None) -> int:
        low, high = self.margin_min, self.margin_max
        margin = (low + high) / 2 if rng is None else rng.uniform(low, high)
        wanted = max(self.shortest, POSITIONS_PER_S * duration_s + margin)
        return min(WINDOW_POSITIONS, self.bucket * math.ceil(wanted / self.bucket))


@dataclass(frozen=True)
class PackedContext(AudioContext):
    """Training utterances share a window of up to 30 s, that which Whisper knows; what is scored has one of its own.

    A window is filled with utterances of one language and task, of one speaker where speakers are known, and its
    transcript is theirs, one after another. How much it may hold is drawn evenly up to 30 s, so that the end of the
    speech is heard anywhere, and it is cut to its audio like any other window (`AudioContext`). A share of the training
    utterances stands alone, because it is alone that utterances are decoded and scored.

    Windows grow: a run begins with single utterances, and the most that a window may hold rises to 30 s (a curriculum:
    Bengio et al. 2009, Curriculum Learning). A model that cannot follow a long window yet learns nothing from one; what
    it learnt in a short one carries it on (docs/speed.md).

    Args:
        gap_s: silence between two utterances of a window.
        single_share: the share of the training utterances that stands alone, in [0, 1].
        grow_share: the share of the run in which the longest windows grow up to 30 s, in [0, 1]: its first third with
            utterances alone, then evenly. 0: windows of any length up to 30 s from the start.
        same_speaker: False lets any speakers share a window, as in a conversation.
        timestamps: teach when each utterance begins and ends. Utterances with times of their own bring those.
    """

    gap_s: float = 0.2
    single_share: float = 0.5
    grow_share: float = 1.0
    same_speaker: bool = True
    timestamps: bool = False
    name: str = "packed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.single_share <= 1 or not 0 <= self.gap_s <= 5:
            raise InputError(
                f"context.single_share={self.single_share:g} and context.gap_s={self.gap_s:g}: accepted are a share in "
                "[0, 1] and a silence from 0 to 5 s."
            )
        if not 0 <= self.grow_share <= 1:
            raise InputError(
                f"context.grow_share={self.grow_share:g}: accepted is the share of the run in which windows grow, in "
                "[0, 1]."
            )

    def room_s(self, progress: float = 1.0) -> float:
        """What utterances of one window and the silence between them may take together at most, `progress` of the run
        being over. The smallest margin stays free."""
        room_s = WINDOW_S - self.margin_min / POSITIONS_PER_S
        if progress >= self.grow_share:
            return room_s
        return room_s * max(0.0, (progress / self.grow_share - ALONE) / (1 - ALONE))

    def total_s(self, durations_s: Sequence[float]) -> float:
        """How long some utterances are in one window."""
        return sum(durations_s) + self.gap_s * (len(durations_s) - 1)
