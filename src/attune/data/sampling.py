"""Which utterances stand together in a batch: of one length, at one cost, in an order that can be continued."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attune.audio.context import Context


@dataclass(frozen=True)
class Draw:
    """An utterance's index, and the encoder positions of the window that it gets this time."""

    index: int
    positions: int


class TrainingBatches:
    """An endless stream of batches, each of windows of one length and of at most `batch_positions` in all.

    Each pass over the utterances draws every window anew, groups windows of equal length and shuffles the batches

    across
    lengths. The stream depends on the seed and on how many batches were taken, on nothing else: a run that continues
    sets `first_batch` and gets what the uninterrupted run would have got.

    Args:
        durations_s: of every utterance.
        context: how much of the 30 s window each utterance uses.
        batch_positions: encoder positions a batch (50 a second); a batch holds at least one utterance.
        seed: of the order and of the windows' margins.
    """

    def __init__(self, durations_s: Sequence[float], context: Context, batch_positions: int, seed: int):
        self.durations_s = list(durations_s)
        self.context = context
        self.batch_positions = batch_positions
        self.seed = seed
        self.first_batch = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        skip, number = self.first_batch, 0
        while True:
            batches = self._pass(number)
            yield from batches[skip:]
            skip, number = max(0, skip - len(batches)), number + 1

    def _pass(self, number: int) -> list[list[Draw]]:
        rng = random.Random(f"{self.seed} {number}")
        order = list(range(len(self.durations_s)))
        rng.shuffle(order)
        draws = [Draw(index, self.context.positions(self.durations_s[index], rng)) for index in order]
        batches = group(draws, self.batch_positions)
        rng.shuffle(batches)
        return batches


def evaluation_batches(durations_s: Sequence[float], context: Context, batch_positions: int) -> list[list[Draw]]:
    """Every utterance once, longest first, so that a batch that does not fit in memory is found at once.

    The window depends on the utterance alone: its transcript cannot depend on its neighbours in the batch.
    """
    order = sorted(range(len(durations_s)), key=lambda index: -durations_s[index])
    draws = [Draw(index, context.positions(durations_s[index], None)) for index in order]
    return group(draws, batch_positions)


def group(draws: Sequence[Draw], batch_positions: int) -> list[list[Draw]]:
    """Split into batches of equal windows, in the given order, each as full as the budget allows."""
    lengths: dict[int, list[Draw]] = defaultdict(list)
    for draw in draws:
        lengths[draw.positions].append(draw)
    batches = []
    for positions, members in lengths.items():
        size = max(1, batch_positions // positions)
        batches += [members[i : i + size] for i in range(0, len(members), size)]
    return batches
