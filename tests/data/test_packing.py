"""Packed windows: every utterance once a pass, one group to a window, room for sound and tokens, the right labels."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attune.audio.context import PackedContext
from attune.data.audit import load_row
from attune.data.module import SpeechDataModule
from attune.data.packing import Share, join_rows, measure_shares, pack
from attune.data.sampling import Draw, TrainingBatches
from attune.errors import InputError
from attune.text.tokens import IGNORED, Tokens

RNG = random.Random(3)
ALONE = {5, 50}
GROUPS = [None if i in ALONE else (f"s{i % 4}", "en", "transcribe") for i in range(120)]
SHARES = [Share(round(RNG.uniform(0.5, 9.0), 2), RNG.randint(3, 90), 440, group) for group in GROUPS]
PACKED = PackedContext(single_share=0.0, grow_share=0.5)


def fill(context: PackedContext, order: list[int] | None = None, seed: int = 0) -> list[tuple[int, ...]]:
    return pack(order or list(range(len(SHARES))), SHARES, context, random.Random(seed), context.room_s())


def test_every_utterance_is_in_one_window() -> None:
    windows = fill(PACKED)
    assert sorted(index for window in windows for index in window) == list(range(len(SHARES)))
    assert len(windows) < 60
    assert windows == fill(PACKED)


def test_a_window_has_room_for_what_is_in_it() -> None:
    for window in fill(PACKED):
        assert PACKED.total_s([SHARES[index].seconds for index in window]) <= 30 - 0.64 + 1e-9
        assert sum(SHARES[index].tokens for index in window) <= 440
        assert len({SHARES[index].group for index in window}) == 1
        assert len(window) == 1 or not ALONE & set(window)


def test_windows_are_of_all_lengths() -> None:
    """What a window may hold is drawn evenly: of many, a third ends below a third of the room and another above two."""
    shares = [Share(0.5, 5, 440, ("s", "en", "transcribe"))] * 6000
    windows = pack(range(6000), shares, PACKED, random.Random(1), PACKED.room_s())
    totals_s = [PACKED.total_s([0.5] * len(window)) for window in windows]
    for third in range(3):
        low, high = (PACKED.room_s() * bound / 3 for bound in (third, third + 1))
        assert sum(low <= total_s < high for total_s in totals_s) / len(totals_s) == pytest.approx(1 / 3, abs=0.05)
    assert max(totals_s) > 28


def test_an_utterance_that_a_pass_holds_twice_is_in_two_windows() -> None:
    windows = fill(PACKED, [1, 1, 1, 9])
    assert Counter(index for window in windows for index in window) == {1: 3, 9: 1}
    assert all(len(set(window)) == len(window) for window in windows)


@pytest.mark.parametrize(("share", "low", "high"), [(0.5, 60, 120), (1.0, 120, 120)])
def test_a_share_stands_alone(share: float, low: int, high: int) -> None:
    alone = [window for window in fill(PackedContext(single_share=share)) if len(window) == 1]
    assert low - 15 <= len(alone) <= high
    assert len(alone) > len([window for window in fill(PACKED) if len(window) == 1])


def make_stream(first: int = 0) -> TrainingBatches:
    durations_s = [share.seconds for share in SHARES]
    batches = TrainingBatches(durations_s, PackedContext(), 6000, seed=5, shares=SHARES)
    batches.first_batch = first
    return batches


@pytest.mark.parametrize("first", [1, 7, 30])
def test_a_packed_stream_goes_on_from_any_batch(first: int) -> None:
    assert list(islice(make_stream(first), 40)) == list(islice(make_stream(), first, first + 40))


def test_batches_of_packed_windows_have_one_length_and_their_budget() -> None:
    seen: Counter[int] = Counter()
    for batch in make_stream()._pass(0):
        assert len({draw.positions for draw in batch}) == 1
        assert len(batch) == 1 or sum(draw.positions for draw in batch) <= 6000
        for draw in batch:
            members = (draw.index, *draw.more)
            total_s = PACKED.total_s([SHARES[index].seconds for index in members])
            assert draw.positions >= min(1500, 50 * total_s + 32)
            seen.update(members)
    assert seen == dict.fromkeys(range(len(SHARES)), 1)


def test_two_processes_share_one_stream() -> None:
    durations_s = [share.seconds for share in SHARES]
    whole = list(islice(make_stream(), 60))
    for rank in range(2):
        batches = TrainingBatches(durations_s, PackedContext(), 6000, seed=5, shares=SHARES, rank=rank, ranks=2)
        assert list(islice(batches, 30)) == whole[rank::2]
        batches.first_batch = 11
        assert list(islice(batches, 19)) == whole[rank::2][11:]


TOTAL = 60  # batches, of which windows grow in the first 30


def make_growing(first: int = 0, **settings: Any) -> TrainingBatches:
    durations_s = [share.seconds for share in SHARES]
    batches = TrainingBatches(durations_s, PACKED, 1500, seed=5, shares=SHARES, total=TOTAL, **settings)
    batches.first_batch = first
    return batches


def measure_sounds(batches: list[list[Draw]]) -> list[float]:
    """Of each batch its longest window with several utterances, in seconds."""
    windows = [[(draw.index, *draw.more) for draw in batch if draw.more] for batch in batches]
    return [max((PACKED.total_s([SHARES[i].seconds for i in w]) for w in each), default=0.0) for each in windows]


def test_windows_grow_along_the_run() -> None:
    batches = list(islice(make_growing(), TOTAL + 40))
    sounds = measure_sounds(batches)
    assert sounds[0] == 0  # single utterances
    assert all(sound <= PACKED.room_s(place / TOTAL) for place, sound in enumerate(sounds))
    tallest = [max(sounds[place : place + 8]) for place in (0, 8, 16, 24, 40)]
    assert tallest == sorted(tallest) and tallest[0] < 8 < tallest[2] < 25 and tallest[4] > 26


def test_a_pass_of_growing_windows_holds_everything_once() -> None:
    for passed in (0, 7, TOTAL):
        draws = [draw for batch in make_growing()._pass(0, passed) for draw in batch]
        assert sorted(i for draw in draws for i in (draw.index, *draw.more)) == list(range(len(SHARES)))


@pytest.mark.parametrize("first", [1, 7, 30])
def test_a_growing_stream_goes_on_from_any_batch_and_is_shared(first: int) -> None:
    whole = list(islice(make_growing(), 100))
    assert list(islice(make_growing(first), 40)) == whole[first : first + 40]
    for rank in range(2):
        assert list(islice(make_growing(first, rank=rank, ranks=2), 15)) == whole[rank::2][first : first + 15]


def test_windows_of_a_plan_are_grown() -> None:
    """It asks for the costliest batch before there is a trainer."""
    assert make_stream()._pass(0) == make_stream()._pass(0, passed=10**6)
    assert max(measure_sounds(make_stream()._pass(0))) > 20


def test_a_run_tells_how_long_it_is(make_data: Callable[..., SpeechDataModule], nano_tokens: Tokens) -> None:
    data = make_data(nano_tokens, PackedContext())
    assert data.training_batches().total is None
    data.trainer = SimpleNamespace(max_steps=50, accumulate_grad_batches=2)  # type: ignore[assignment]
    data.ranks = 3
    assert data.training_batches().total == 300


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_growth_is_a_share(share: float) -> None:
    with pytest.raises(InputError, match="context.grow_share"):
        PackedContext(grow_share=share)


def make_row(index: int, **changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"text": "One two.", "language": "en", "task": "transcribe", "speaker": "a", "prompt": None}
    return row | {"duration_s": 1.0, "segments": [], "id": str(index), "audio": None} | changed


@pytest.mark.parametrize(
    ("row", "timestamps", "group"),
    [
        ({}, False, ("a", "en", "transcribe")),
        ({"speaker": None}, False, (None, "en", "transcribe")),
        ({"text": " "}, False, None),
        ({"prompt": "before"}, False, None),
        ({"segments": [{"start_s": 0.0, "end_s": 1.0, "text": "One two."}]}, False, None),
        ({"segments": [{"start_s": 0.0, "end_s": 1.0, "text": "One two."}]}, True, ("a", "en", "transcribe")),
    ],
)
def test_who_may_share_a_window(row: dict, timestamps: bool, group: tuple | None, nano_tokens: Tokens) -> None:
    class Rows:
        def remove_columns(self, _: str) -> "Rows":
            return self

        def to_list(self) -> list[dict]:
            return [make_row(0, **row)]

    (share,) = measure_shares(Rows(), nano_tokens, PackedContext(timestamps=timestamps))  # type: ignore[arg-type]
    assert share.group == group
    if group:
        assert share.tokens == len(nano_tokens.text("One two.", "en")) + 2 * timestamps


def test_speakers_may_be_mixed(make_data: Callable[..., SpeechDataModule], nano_tokens: Tokens) -> None:
    rows = make_data(nano_tokens).splits["train"]
    groups = [
        {share.group for share in measure_shares(rows, nano_tokens, PackedContext(same_speaker=same))}
        for same in (True, False)
    ]
    assert len(groups[0]) == len(set(rows["speaker"])) and len(groups[1]) == 1


@pytest.mark.parametrize("timestamps", [False, True])
def test_a_joined_window_says_one_after_another(
    timestamps: bool, make_data: Callable[..., SpeechDataModule], nano_tokens: Tokens
) -> None:
    rows = [dict(row) for row in make_data(nano_tokens).splits["train"].select(range(3))]
    context = PackedContext(gap_s=0.5, timestamps=timestamps)
    example = join_rows(rows, 900, nano_tokens, context)
    start, times = 0, []
    for row in rows:
        own = load_row(row)
        assert torch.equal(example.waveform[start : start + len(own)], own)
        assert not example.waveform[start + len(own) : start + len(own) + 8000].any()
        times.append((start / 16_000, (start + len(own)) / 16_000))
        start += len(own) + 8000
    assert len(example.waveform) == start - 8000
    assert example.utterances == 3 and example.reference == " ".join(row["text"] for row in rows)
    taught = [label for label in example.labels if label != IGNORED]
    assert nano_tokens.transcript(taught) == example.reference
    assert taught[-1] == nano_tokens.end_of_text
    stamps = [label for label in taught if label >= nano_tokens.first_timestamp]
    expected = [round(time / 0.02) for pair in times for time in pair] if timestamps else []
    assert len(stamps) == len(expected)
    for stamp, wanted in zip(stamps, expected, strict=True):
        assert abs(stamp - nano_tokens.first_timestamp - wanted) <= 1  # half a step may be rounded either way


def test_a_packed_run_hears_everything_and_scores_single_utterances(
    make_data: Callable[..., SpeechDataModule], nano_tokens: Tokens
) -> None:
    data = make_data(nano_tokens, PackedContext(same_speaker=False, single_share=0.0), batch_window_s=60.0)
    heard: list[str] = []
    for batch in data.train_dataloader():
        heard += [id for ids in batch.ids for id in ids.split("+")]
        assert batch.utterances == sum(len(ids.split("+")) for ids in batch.ids)
        if len(heard) >= 24:
            break
    assert sorted(heard) == sorted(data.splits["train"]["id"])
    (scored,) = {len(batch.packed) for batch in data.panel_dataloader("test")}
    assert scored == 0
