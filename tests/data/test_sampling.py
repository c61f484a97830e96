"""Batches: every utterance once a pass, windows of one length, within the budget, the same again from any batch on."""

import random
from collections import Counter
from itertools import islice

import pytest

from attune.audio.context import AudioContext, Context, FullContext
from attune.data.sampling import Draw, TrainingBatches, evaluation_batches, fill_up, group

RNG = random.Random(0)
DURATIONS_S = [round(RNG.uniform(0.3, 12.0), 2) for _ in range(97)] + [30.0, 29.5, 0.1]
BUDGET = 3000
CONTEXTS = [FullContext(), AudioContext(), AudioContext(bucket=100)]


def take_passes(batches: TrainingBatches, passes: int) -> list[list[list[Draw]]]:
    """The stream cut where every utterance has been seen once."""
    stream, found = iter(batches), []
    for _ in range(passes):
        one: list[list[Draw]] = []
        while sum(map(len, one)) < len(DURATIONS_S):
            one.append(next(stream))
        found.append(one)
    return found


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_utterance_once_a_pass(context: Context) -> None:
    for one in take_passes(TrainingBatches(DURATIONS_S, context, BUDGET, seed=3), 3):
        assert sorted(draw.index for batch in one for draw in batch) == list(range(len(DURATIONS_S)))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("budget", [100, 1500, BUDGET, 6000])
def test_windows_of_one_length_within_the_budget(context: Context, budget: int) -> None:
    for batch in islice(TrainingBatches(DURATIONS_S, context, budget, seed=3), 200):
        assert len({draw.positions for draw in batch}) == 1
        assert len(batch) == 1 or sum(draw.positions for draw in batch) <= budget


def test_batches_are_as_full_as_the_budget_allows() -> None:
    (one,) = take_passes(TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, seed=3), 1)
    room = Counter(batch[0].positions for batch in one if len(batch) < BUDGET // batch[0].positions)
    assert max(room.values()) == 1  # at most one unfilled batch a length


@pytest.mark.parametrize("bucket", [50, 10])
def test_what_does_not_come_out_even_fills_the_next_length(bucket: int) -> None:
    context = AudioContext(bucket=bucket)
    durations_s = [round(RNG.uniform(1.0, 9.0), 2) for _ in range(200)]
    drawn = TrainingBatches(durations_s, context, 6000, seed=3)._pass(0)
    assert sorted(draw.index for batch in drawn for draw in batch) == list(range(200))
    unfilled = [batch for batch in drawn if len(batch) < 6000 // batch[0].positions]
    assert len(unfilled) <= 1
    for draw in (draw for batch in drawn for draw in batch):
        needed = 50 * durations_s[draw.index] + context.margin_min
        assert needed <= draw.positions < 1.5 * max(context.shortest, needed + 32 + bucket) + 1


def test_no_window_is_lengthened_beyond_half_of_itself() -> None:
    draws = [Draw(0, 150), Draw(1, 150), Draw(2, 300), Draw(3, 300), Draw(4, 400), Draw(5, 1500)]
    assert [each.positions for each in sorted(fill_up(draws, 6000), key=lambda each: each.index)] == [
        150, 150, 400, 400, 400, 1500,
    ]  # fmt: skip


def test_windows_do_not_creep_up() -> None:
    """One of each length: no rest is handed on for ever."""
    lengths = list(range(150, 1450, 50))
    drawn = fill_up([Draw(index, positions) for index, positions in enumerate(lengths)], 10**6)
    assert all(draw.positions <= 1.5 * lengths[draw.index] for draw in drawn)
    assert len({draw.positions for draw in drawn}) < 8


def test_stored_windows_are_the_same_in_every_run() -> None:
    def take(seed: int) -> list[list[Draw]]:
        return list(islice(TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, seed, draws=2), 100))

    windows = {(draw.index, draw.number % 2): draw.positions for batch in take(seed=3) for draw in batch}
    assert all(windows[draw.index, draw.number % 2] == draw.positions for batch in take(seed=4) for draw in batch)


@pytest.mark.parametrize("first", [0, 1, 7, 40, 41, 150])
def test_the_stream_goes_on_from_any_batch(first: int) -> None:
    whole = TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, seed=5)
    resumed = TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, seed=5)
    resumed.first_batch = first
    assert list(islice(resumed, 120)) == list(islice(whole, first, first + 120))


REPLAYED = [round(RNG.uniform(0.5, 6.0), 2) for _ in range(7)]


def make_replaying(share: float, first_batch: int = 0) -> TrainingBatches:
    batches = TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, 5, REPLAYED, share)
    batches.first_batch = first_batch
    return batches


def list_replayed(share: float, passes: int) -> list[int]:
    """Indices of replayed utterances, in the order of the passes."""
    batches, found = make_replaying(share), []
    for number in range(passes):
        drawn = [draw.index for batch in batches._pass(number) for draw in batch]
        assert sorted(index for index in drawn if index < 100) == list(range(100))  # every own one once
        found += [index for index in drawn if index >= 100]
    return found


@pytest.mark.parametrize(("share", "passes", "expected"), [(0.2, 4, 100), (0.5, 2, 200), (0.01, 99, 100), (0.0, 5, 0)])
def test_the_share_of_replay_is_exact_over_the_passes(share: float, passes: int, expected: int) -> None:
    """r / (100 + r) = share, so r = 100 share / (1 - share) a pass: 25, 100, 100 / 99 and 0."""
    assert len(list_replayed(share, passes)) == expected


def test_replay_hears_everything_once_before_anything_twice() -> None:
    """3 a pass at a share of 3 / 103: the sevenfold of passes hears each of the 7 three times."""
    replayed = list_replayed(3 / 103, 7)
    assert Counter(replayed) == {100 + index: 3 for index in range(7)}
    assert len(set(replayed[:6])) == 6


@pytest.mark.parametrize("first", [1, 40, 150])
def test_a_replaying_stream_goes_on_from_any_batch(first: int) -> None:
    whole = list(islice(make_replaying(0.3), first + 100))
    assert list(islice(make_replaying(0.3, first), 100)) == whole[first:]
    assert list(islice(make_replaying(0.0), 90)) == list(
        islice(TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, seed=5), 90)
    )


def test_passes_and_seeds_differ_and_a_seed_repeats() -> None:
    def stream(seed: int) -> list[list[Draw]]:
        return list(islice(TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, seed), 90))

    assert stream(1) == stream(1) != stream(2)
    first, second = take_passes(TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, 1), 2)
    assert first != second
    windows = [{draw.index: draw.positions for batch in one for draw in batch} for one in (first, second)]
    assert windows[0] != windows[1]  # margins are drawn anew


def test_lengths_are_shuffled() -> None:
    lengths = [batch[0].positions for batch in islice(TrainingBatches(DURATIONS_S, AudioContext(), BUDGET, 1), 40)]
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)


def test_evaluation_sees_every_utterance_once_the_costliest_first() -> None:
    batches = evaluation_batches(DURATIONS_S, AudioContext(), BUDGET)
    assert sorted(draw.index for batch in batches for draw in batch) == list(range(len(DURATIONS_S)))
    lengths = [batch[0].positions for batch in batches]
    assert lengths == sorted(lengths, reverse=True)
    assert batches == evaluation_batches(DURATIONS_S, AudioContext(), BUDGET)


def test_evaluation_windows_do_not_depend_on_neighbours() -> None:
    together = {
        draw.index: draw.positions for batch in evaluation_batches(DURATIONS_S, AudioContext(), 6000) for draw in batch
    }
    for index, duration in enumerate(DURATIONS_S):
        ((alone,),) = evaluation_batches([duration], AudioContext(), 100)
        assert alone.positions == together[index]


def test_grouping_keeps_the_order() -> None:
    draws = [Draw(0, 150), Draw(1, 300), Draw(2, 150), Draw(3, 150), Draw(4, 300)]
    assert group(draws, 300) == [[draws[0], draws[2]], [draws[3]], [draws[1]], [draws[4]]]
