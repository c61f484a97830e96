"""How many encoder positions an utterance gets."""

import math
import random

import pytest

from attune.audio.context import AudioContext, Context, FullContext, PackedContext
from attune.audio.waveform import SAMPLES_PER_POSITION, WINDOW_POSITIONS
from attune.errors import InputError

DURATIONS_S = [0.02, 0.5, 2.3, 3.0, 7.77, 15.0, 27.9, 29.99, 30.0]


@pytest.mark.parametrize("rng", [None, random.Random(0)])
def test_full_is_the_whole_window(rng: random.Random | None) -> None:
    assert [FullContext().positions(duration, rng) for duration in DURATIONS_S] == [1500] * len(DURATIONS_S)


@pytest.mark.parametrize("duration_s", DURATIONS_S)
def test_the_margin_lies_within_its_bounds(duration_s: float) -> None:
    context, rng = AudioContext(), random.Random(1)
    low, high = (max(150, 50 * duration_s + margin) for margin in (32, 64))
    bounds = [min(WINDOW_POSITIONS, 50 * math.ceil(wanted / 50)) for wanted in (low, high)]
    drawn = {context.positions(duration_s, rng) for _ in range(500)}
    assert min(drawn) == bounds[0] and max(drawn) == bounds[1]
    assert all(positions % 50 == 0 for positions in drawn)


@pytest.mark.parametrize("duration_s", DURATIONS_S[:-3])
def test_silence_enough_for_the_mel_follows_the_audio(duration_s: float) -> None:
    context, rng = AudioContext(), random.Random(2)
    shortest = min(context.positions(duration_s, rng) for _ in range(500))
    assert shortest * SAMPLES_PER_POSITION - duration_s * 16_000 >= 200


def test_evaluation_takes_the_middle_margin_and_draws_nothing() -> None:
    context = AudioContext()
    assert [context.positions(duration, None) for duration in (0.1, 2.0, 4.0, 4.4, 5.05, 30.0)] == [
        150,  # the shortest
        150,  # 100 + 48 -> 148
        250,  # 200 + 48 -> 248
        300,  # 220 + 48 -> 268
        350,  # 252 + 48 -> 300, and a little more
        1500,
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin_min": 200}, r"context.margin_min=200 and context.margin_max=64: accepted are 8 <= margin_min"),
        ({"margin_min": 4}, "context.margin_min=4"),
        ({"bucket": 0}, "context.bucket=0: accepted are 1 to 1500 positions"),
        ({"shortest": 1600}, "context.shortest=1600"),
    ],
)
@pytest.mark.parametrize("kind", [AudioContext, PackedContext])
def test_windows_that_are_none_are_refused(kind: type[AudioContext], settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)  # type: ignore[arg-type]


def test_a_bucket_that_does_not_divide_the_window_still_ends_there() -> None:
    context = AudioContext(bucket=64)
    assert context.positions(30.0, None) == 1500
    assert context.positions(2.0, None) % 64 == 0


def test_names() -> None:
    contexts: list[Context] = [FullContext(), AudioContext()]
    assert [context.name for context in contexts] == ["full", "audio"]
