"""Late rejections: training utterances that turn out unusable when their turn comes.

They have gone since the run began, or its start did not listen to them (data/listening.py). None is dropped silently:
each is named once in the log, stands in rejected.csv, and counts against data.max_rejected.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from attune.data.findings import Rejection
from attune.data.texts import read_names
from attune.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Late:
    """A row that turned out unusable when its turn came. It goes with a batch from the worker that found it.

    Args:
        index: among the rows that are trained on.
    """

    index: int
    id: str
    place: str
    reason: str


class LateRows:
    """What this process has met so far."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}  # by the index among the rows that are trained on

    def __len__(self) -> int:
        return len(self.reasons)

    def note(self, late: Late, allowed: int) -> None:
        """Count one, and say so the first time.

        Raises:
            InputError: there are more than `allowed`.
        """
        if late.index in self.reasons:
            return
        self.reasons[late.index] = late.reason
        log.warning(
            "attune: %s: %s can no longer be read, or never could (%s); it is set aside, and training goes on.",
            late.place,
            late.id,
            late.reason,
        )
        check_late(len(self), allowed, late)

    def list_rejections(self, rows: Dataset, own: int) -> list[Rejection]:
        """As rows of rejected.csv.

        Args:
            rows: that are trained on; the first `own` of them are the training split's, the others are replayed.
        """
        names = read_names(rows, np.array(list(self.reasons), int))
        return [
            Rejection("train" if index < own else "replay", row["id"], row["place"], f"late: {reason}")
            for (index, reason), row in zip(self.reasons.items(), names, strict=True)
        ]

    def state_dict(self) -> dict[str, str]:
        return {str(index): reason for index, reason in self.reasons.items()}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        self.reasons = {int(index): reason for index, reason in state.items()}


def check_late(count: int, allowed: int, last: Late) -> None:
    """Stop a run that trains on less than it was to.

    Raises:
        InputError: more than `allowed` utterances cannot be used.
    """
    if count > allowed:
        raise InputError(
            f"{count} training utterances can no longer be read, or never could, more than data.max_rejected allows. "
            f"The last is {last.id} ({last.place}: {last.reason}). If the disk has gone and is back: python train.py "
            "resume=RUN. If the corpus is so, `attune audit` lists what is wrong with it."
        )
