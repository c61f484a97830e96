"""Which utterances stand together in a batch: of one length, at one cost, in an order that can be continued."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from attune.audio.context import Context, PackedContext
from attune.audio.waveform import POSITIONS_PER_S, WINDOW_POSITIONS
from attune.data.packing import Share, pack

LONGER = 1.5  # times its own length: the most that a window is lengthened to fill a batch
SIZES = 8  # steps in which the most that a packed window may hold grows
SHORTEST = 2.0  # batches of each size, or more: fewer would mostly be half empty


@dataclass(frozen=True, slots=True)  # there are as many as rows
class Draw:
    """A window.

    Args:
        index: of the utterance in it.
        positions: encoder positions that the window has this time.
        more: indices of the utterances behind it in the same window (context=packed).
        number: the pass that it is taken in; with cache=encoder, which of the stored draws it is.
    """

    index: int
    positions: int
    more: tuple[int, ...] = ()
    number: int = 0


class TrainingBatches:
    """An endless stream of batches, each of windows of one length and of at most `batch_positions` in all.

    Each pass over the utterances draws every window anew, groups windows of equal length and shuffles the batches
    across lengths. The stream depends on the seed and on how many batches were taken, and where packed windows grow on
    how many the run takes; on nothing else: a run that continues sets `first_batch` and gets what the uninterrupted run
    would have got.

    Args:
        durations_s: of every utterance.
        context: how much of the 30 s window each utterance uses.
        batch_positions: encoder positions a batch (50 a second); a batch holds at least one utterance.
        seed: of the order and of the windows' margins.
        replay_durations_s: of utterances to be replayed; their indices follow those of the training utterances.
        replay: their share of what is heard, in [0, 1): each pass over the training utterances takes the next few.
        weights: of every utterance, how often a pass holds it, on average; None is once.
        shares: of every utterance and of those replayed, at context=packed: they are packed into windows.
        draws: the windows of pass n are those of draw n % draws, the same in every run; None draws them anew.
        rank, ranks: of several processes each takes every `ranks`-th batch of the one stream.
        total: batches of the whole run, by all processes, along which packed windows grow; None: they are grown.
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        context: Context,
        batch_positions: int,
        seed: int,
        replay_durations_s: Sequence[float] = (),
        replay: float = 0.0,
        weights: Sequence[float] | None = None,
        shares: Sequence[Share] = (),
        draws: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        total: int | None = None,
    ):
        self.weights = weights
        self.shares, self.draws = shares, draws
        self.packed = context if isinstance(context, PackedContext) and shares else None
        self.rank, self.ranks = rank, ranks
        self.total = total
        self.durations_s = [*durations_s, *replay_durations_s]
        self.own = len(durations_s)
        self.replayed_a_pass = self.own * replay / (1 - replay)  # a mean: no pass takes part of an utterance
        self.context = context
        self.batch_positions = batch_positions
        self.seed = seed
        self.first_batch = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        skip, number, passed = self.first_batch * self.ranks + self.rank, 0, 0
        while True:
            batches = self._pass(number, passed)
            yield from batches[skip :: self.ranks]
            # What is left to be skipped, or what the last step went beyond the end of this pass.
            taken = len(range(skip, len(batches), self.ranks))
            skip, number = skip + taken * self.ranks - len(batches), number + 1
            passed += len(batches)

    def _pass(self, number: int, passed: int = 0) -> list[list[Draw]]:
        """The batches of pass `number`, before which the stream had `passed`."""
        rng = random.Random(f"{self.seed} {number}")
        own = range(self.own) if self.weights is None else repeat(self.weights, rng)
        order = [*own, *self._replay(number)]
        rng.shuffle(order)
        if self.packed is not None:
            return self._pack(order, self.packed, passed, number, rng)
        return self._batch([(index,) for index in order], number, rng)

    def _pack(
        self, order: Sequence[int], context: PackedContext, passed: int, number: int, rng: random.Random
    ) -> list[list[Draw]]:
        """While windows grow, a stretch of the pass at a time: the most that its windows may hold is one length."""
        batches: list[list[Draw]] = []
        end = 0
        while end < len(order):
            progress = (passed + len(batches)) / self.total if self.total else 1.0
            first, end = end, self._end_stretch(order, end, context) if progress < context.grow_share else len(order)
            windows = pack(order[first:end], self.shares, context, rng, context.room_s(progress))
            batches += self._batch(windows, number, rng)
        return batches

    def _end_stretch(self, order: Sequence[int], first: int, context: PackedContext) -> int:
        """How far those go whose windows may hold as much: to the end, where not half as many would be left."""
        batches = max(SHORTEST, context.grow_share * (self.total or 0) / SIZES)
        wanted_s = batches * self.batch_positions / POSITIONS_PER_S
        sums_s = accumulate(self.durations_s[order[place]] for place in range(first, len(order)))
        end = next((place for place, sum_s in enumerate(sums_s, first + 1) if sum_s >= wanted_s), len(order))
        return end if len(order) - end > (end - first) / 2 else len(order)

    def _batch(self, windows: Sequence[tuple[int, ...]], number: int, rng: random.Random) -> list[list[Draw]]:
        draws = [self._draw(window, number, rng) for window in windows]
        if self.draws is None:  # those of a cache have their windows already
            draws = fill_up(draws, self.batch_positions)
        batches = group(draws, self.batch_positions)
        rng.shuffle(batches)
        return batches

    def _draw(self, window: tuple[int, ...], number: int, rng: random.Random) -> Draw:
        first, more = window[0], window[1:]
        seconds = self.durations_s[first]
        if self.packed is not None:
            seconds = self.packed.total_s([self.durations_s[index] for index in window])
        if self.draws is not None:
            return draw_again(first, seconds, self.context, number % self.draws)
        return Draw(first, self.context.positions(seconds, rng), more, number)

    def _replay(self, number: int) -> list[int]:
        """What pass `number` replays: its stretch of an endless walk, shuffled anew whenever all have been heard."""
        first, end = (round(passes * self.replayed_a_pass) for passes in (number, number + 1))
        size = len(self.durations_s) - self.own
        rounds = range(first // size, -(-end // size)) if end > first else range(0)
        walk = [index for round_ in rounds for index in self._shuffle_replay(round_)]
        skipped = first % size if walk else 0
        return walk[skipped : skipped + end - first]

    def _shuffle_replay(self, round_: int) -> list[int]:
        order = list(range(self.own, len(self.durations_s)))
        random.Random(f"{self.seed} replay {round_}").shuffle(order)
        return order


def fill_up(draws: Sequence[Draw], batch_positions: int) -> list[Draw]:
    """Where windows of one length do not come out even, the rest of them get the next longer one, with more silence
    behind the sound, at most half as long again: a step of three utterances moves the weights as far as one of thirty.
    """
    lengths: dict[int, list[Draw]] = defaultdict(list)
    for draw in draws:
        lengths[draw.positions].append(draw)
    done = lengths.pop(WINDOW_POSITIONS, [])
    rest: list[Draw] = []  # the shortest first
    length = 0
    for positions in sorted(lengths):
        if rest and positions > LONGER * rest[0].positions:
            done += lengthen(rest, length)
            rest = []
        members = [*rest, *lengths[positions]]
        even = len(members) - len(members) % max(1, batch_positions // positions)
        done += lengthen(members[:even], positions)
        rest, length = members[even:], positions
    return done + lengthen(rest, length)


def lengthen(draws: Sequence[Draw], positions: int) -> list[Draw]:
    return [replace(draw, positions=positions) for draw in draws]


def draw_again(index: int, duration_s: float, context: Context, number: int) -> Draw:
    """The window of draw `number` of an utterance: the same whatever the run's seed, so that runs can share what was
    computed from it, and whatever the utterance's place in its corpus."""
    rng = random.Random(f"window {duration_s:.3f} {number}")
    return Draw(index, context.positions(duration_s, rng), number=number)


def repeat(weights: Sequence[float], rng: random.Random) -> list[int]:
    """Each index as often as its weight says: 2.3 is twice, and a third time in three draws of ten."""
    return [index for index, weight in enumerate(weights) for _ in range(int(weight + rng.random()))]


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
    return [batch for members in lengths.values() for batch in _fill(members, batch_positions)]


def _fill(draws: Sequence[Draw], batch_positions: int) -> Iterator[list[Draw]]:
    batch: list[Draw] = []
    free = batch_positions
    for draw in draws:
        if batch and draw.positions > free:
            yield batch
            batch, free = [], batch_positions
        batch.append(draw)
        free -= draw.positions
    if batch:
        yield batch
