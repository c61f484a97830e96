"""Which utterances stand together: once a pass, one length a batch, a stream that goes on where it stopped."""

import random
from itertools import islice

import pytest

from attune.audio.context import AudioContext, FullContext
from attune.data.sampling import Draw, TrainingBatches, evaluation_batches

DURATIONS_S = [random.Random(0).uniform(0.5, 29.9) for _ in range(200)]


def take(batches: TrainingBatches, count: int) -> list[list[Draw]]:
    return list(islice(iter(batches), count))


def test_every_utterance_once_a_pass() -> None:
    stream = iter(TrainingBatches(DURATIONS_S, AudioContext(), 6000, seed=1))
    for _ in range(2):
        seen: list[int] = []
        while len(seen) < len(DURATIONS_S):
            seen += [draw.index for draw in next(stream)]
        assert sorted(seen) == list(range(len(DURATIONS_S)))


@pytest.mark.parametrize("context", [AudioContext(full_share=0.2), FullContext()])
def test_batches_hold_one_length_and_keep_their_budget(context: AudioContext | FullContext) -> None:
    for batch in take(TrainingBatches(DURATIONS_S, context, 4000, seed=1), 100):
        lengths = {draw.positions for draw in batch}
        assert len(lengths) == 1
        assert len(batch) * lengths.pop() <= 4000


def test_a_window_beyond_the_budget_still_gets_its_batch() -> None:
    assert all(len(batch) == 1 for batch in take(TrainingBatches(DURATIONS_S, FullContext(), 100, seed=1), 20))


def test_the_stream_goes_on_from_any_batch() -> None:
    whole = take(TrainingBatches(DURATIONS_S, AudioContext(), 6000, seed=3), 120)
    for first in (0, 1, 50, 119):
        continued = TrainingBatches(DURATIONS_S, AudioContext(), 6000, seed=3)
        continued.first_batch = first
        assert take(continued, 120 - first) == whole[first:]


def test_seeds_and_passes_differ() -> None:
    one, other = (take(TrainingBatches(DURATIONS_S, AudioContext(), 6000, seed=seed), 200) for seed in (1, 2))
    assert one != other
    assert one[:50] != one[50:100]


def test_short_and_long_batches_are_mixed() -> None:
    lengths = [batch[0].positions for batch in take(TrainingBatches(DURATIONS_S, AudioContext(), 6000, seed=1), 60)]
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)


def test_evaluation_scores_everybody_once_in_a_window_of_his_own() -> None:
    alone = {0: evaluation_batches(DURATIONS_S[:1], AudioContext(), 6000)[0][0].positions}
    draws = [draw for batch in evaluation_batches(DURATIONS_S, AudioContext(), 6000) for draw in batch]
    assert sorted(draw.index for draw in draws) == list(range(len(DURATIONS_S)))
    assert next(draw.positions for draw in draws if draw.index == 0) == alone[0]
