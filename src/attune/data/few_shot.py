"""Few-shot: how many training utterances are used, and which. Drawn before any audio is decoded."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from attune.errors import InputError
from attune.text.normalise import normalise

PER = ("all", "speaker", "label")


@dataclass(frozen=True)
class FewShot:
    """A draw from the training utterances.

    It is made of the rows as they were read: what is broken among the drawn is set aside by the audit, counts toward
    data.max_rejected and is not replaced, so that a draw depends on the seed alone.

    Args:
        shots: utterances to draw, at least 1; None takes all.
        per: what `shots` counts. all: the whole corpus; speaker: each speaker; label: each transcript, compared as for
            WER, without case and punctuation.
        seed: the same one draws the same utterances, and 8 of them are among its 32.

    Raises:
        InputError: there are no such settings.
    """

    shots: int | None
    per: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots is not None and (not isinstance(self.shots, int) or self.shots < 1):
            raise InputError(
                f"data.shots is {self.shots}; accepted: how many training utterances are drawn, 1 or more, or null for "
                "all. To train on none: finetune=none."
            )
        check_per("data.shots_per", self.per, PER)

    def draw(self, train: Dataset) -> tuple[Dataset, str]:
        """What is trained on, and a sentence about it; "" where nothing was asked for.

        Raises:
            InputError: shots are counted by speaker, and an utterance has none.
        """
        if self.shots is None:
            return train, ""
        groups = self._group(train)
        drawn = draw_shots(groups, self.shots, self.seed)
        return train.select(drawn), self._describe(groups, len(drawn))

    def _group(self, train: Dataset) -> list[str]:
        if self.per == "label":
            return [*map(normalise, train["text"], train["language"])]
        if self.per == "speaker":
            return list_speakers(train, "data.shots_per")
        return ["all"] * len(train)

    def _describe(self, groups: Sequence[str], drawn: int) -> str:
        sizes = Counter(groups)
        fewer = sum(size < (self.shots or 0) for size in sizes.values())
        if self.per == "all":
            if fewer:
                return f"few-shot: data.shots={self.shots}, but the corpus has {len(groups)} to train on: all are used"
            return f"few-shot: {drawn} of {len(groups)} training utterances, drawn by seed {self.seed}"
        each = f"{'up to ' if fewer else ''}{self.shots} of each of {len(sizes)} {self.per}s"
        return f"few-shot: {drawn} of {len(groups)} training utterances, drawn by seed {self.seed}: {each}"


def draw_shots(groups: Sequence[str], shots: int, seed: int) -> list[int]:
    """Up to `shots` utterances of each group: their indices, ascending.

    One order of all utterances is shuffled by the seed, and each group gives the first that stand in it: whoever asks
    for more gets what fewer would have been, and others beside.

    Args:
        groups: the group of each utterance.
        shots: of each group, at least 1.
    """
    order = list(range(len(groups)))
    random.Random(f"shots {seed}").shuffle(order)
    taken: Counter[str] = Counter()
    drawn = []
    for index in order:
        if taken[groups[index]] < shots:
            taken[groups[index]] += 1
            drawn.append(index)
    return sorted(drawn)


def check_per(key: str, per: str, accepted: Sequence[str]) -> None:
    if per not in accepted:
        raise InputError(f"{key} is {per!r}; accepted: {', '.join(accepted)}.")


def list_speakers(train: Dataset, key: str) -> list[str]:
    """The speaker of each training utterance.

    Raises:
        InputError: one of them has none; `key` is the setting that asks for them.
    """
    speakers = list(train["speaker"])
    unknown = sum(not speaker for speaker in speakers)
    if unknown:
        raise InputError(
            f"{key}=speaker, but {unknown} of {len(speakers)} training utterances have no speaker. Fill in the column "
            f"'speaker', or set {key}=all."
        )
    return speakers
