"""Streamed shards: every row once a pass over all processes and workers, and the same again from any batch on."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from attune.audio.context import AudioContext
from attune.audio.waveform import SAMPLE_RATE_HZ, encode_wav
from attune.data import streaming
from attune.data.batch import Batch
from attune.data.corpora.hub import HubCorpus
from attune.data.corpora.schema import FEATURES, RowStream, complete_row
from attune.data.module import SpeechDataModule
from attune.data.streaming import StreamedBatches, StreamLoader, read_places
from attune.errors import InputError
from attune.text.tokens import Tokens

SIZES = (7, 4, 0, 9, 5)  # rows of each shard
BROKEN = ("row 1-2", "row 3-0")


def make_wav(seconds: float, seed: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    return encode_wav(0.1 * torch.randn(int(seconds * SAMPLE_RATE_HZ), generator=generator))


SOUNDS = {
    f"row {shard}-{row}": make_wav(random.Random(f"{shard} {row}").uniform(0.4, 3.0), 100 * shard + row)
    for shard, size in enumerate(SIZES)
    for row in range(size)
}


def read(shard: int) -> Iterator[Mapping[str, Any]]:
    for row in range(SIZES[shard]):
        id = f"row {shard}-{row}"
        audio = {"path": None, "bytes": b"no sound" if id in BROKEN else SOUNDS[id]}
        yield complete_row({"id": id, "audio": audio, "text": f"It is {row}.", "language": "en", "place": f"at {id}"})


SOURCE = RowStream(len(SIZES), read)


def make_batches(tokens: Tokens, **more: Any) -> StreamedBatches:
    return StreamedBatches(SOURCE, tokens, AudioContext(), batch_positions=400, seed=3, **more)


def load(tokens: Tokens, workers: int = 0, **more: Any) -> StreamLoader:
    return StreamLoader(make_batches(tokens, **more), workers, max_rejected=0.2)


def equal(one: Batch, other: Batch) -> bool:
    return one.ids == other.ids and torch.equal(one.waveform, other.waveform) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7, 16])
def test_every_row_once_a_pass_whoever_reads_it(parts: int, nano_tokens: Tokens) -> None:
    """As many readers as there are shards, fewer, and more; and the next pass has another order."""
    passes: list[list[str]] = [[], []]
    for part in range(parts):
        for place, row in make_batches(nano_tokens)._read(part, parts, streaming.Place()):
            if place.number > 1:
                break
            passes[place.number].append(row["id"])
    expected = [f"row {shard}-{row}" for shard, size in enumerate(SIZES) for row in range(size)]
    assert [sorted(each) for each in passes] == [expected, expected]
    assert parts > 1 or passes[0] != passes[1]


@pytest.mark.parametrize("planned", [6, 1024])
def test_batches_have_one_window_and_leave_out_what_is_broken(
    planned: int, nano_tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PLANNED", planned)
    loader, heard = load(nano_tokens), Counter[str]()
    for batch in loader:
        assert batch.waveform.shape[0] * batch.waveform.shape[1] <= 400 * 320 or len(batch) == 1
        heard.update(batch.ids)
        if sum(heard.values()) >= 200:
            break
    assert heard.keys() == SOUNDS.keys() - {*BROKEN}
    assert max(heard.values()) - min(heard.values()) <= 1
    assert {rejection.id for rejection in loader.rejections} == {*BROKEN}
    assert {rejection.reason for rejection in loader.rejections} == {
        "cannot be decoded: not a file that libsndfile reads"
    }
    assert {rejection.place for rejection in loader.rejections} == {f"at {id}" for id in BROKEN}


@pytest.mark.parametrize(
    ("workers", "taken"),
    [(0, 0), (0, 1), (0, 12), (2, 5), *(pytest.param(2, taken, marks=pytest.mark.slow) for taken in (0, 6, 13))],
)
def test_a_stream_goes_on_from_any_batch(
    workers: int, taken: int, nano_tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer has asked for three batches more than it has trained on when it stops."""
    monkeypatch.setattr(streaming, "PLANNED", 6)
    expected = list(islice(load(nano_tokens, workers), 20))
    stopped = load(nano_tokens, workers)
    for _ in islice(stopped, taken + 3):
        pass
    places = read_places(stopped.state(taken), workers)
    again = islice(load(nano_tokens, workers, places=places, taken=taken), 20 - taken)
    assert all(equal(one, other) for one, other in zip(again, expected[taken:], strict=True))


def test_two_processes_read_different_rows(nano_tokens: Tokens) -> None:
    first, second = (
        {id for batch in islice(load(nano_tokens, rank=rank, ranks=2), 4) for id in batch.ids} for rank in (0, 1)
    )
    assert first and second and not first & second


def test_another_number_of_workers_cannot_go_on(nano_tokens: Tokens) -> None:
    with pytest.raises(InputError, match=r"streamed with data.workers=2, and now has 3.*workers: 2 under data"):
        read_places({"workers": 2, "places": {}}, 3)


def test_shards_without_a_row_are_an_error(nano_tokens: Tokens) -> None:
    empty = replace(make_batches(nano_tokens), source=RowStream(3, lambda shard: iter(())))
    with pytest.raises(InputError, match="in 3 shards there was no training utterance"):
        next(iter(empty))


def test_too_much_that_is_broken_ends_the_run(nano_tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PLANNED", 20)
    loader = StreamLoader(make_batches(nano_tokens), 0, max_rejected=0.01)
    with pytest.raises(
        InputError, match=r"of \d+ streamed utterances cannot be used, more than data.max_rejected=0.01"
    ):
        for _ in islice(loader, 100):
            pass


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Three shards of training utterances, one of validation and of test."""
    folder = tmp_path / "source"
    folder.mkdir()
    counts = {"train-00000-of-00003": 5, "train-00001-of-00003": 3, "train-00002-of-00003": 4}
    for name, count in {**counts, "validation": 2, "test": 2}.items():
        rows = [
            complete_row(
                {"id": f"{name}{row}", "audio": {"path": None, "bytes": make_wav(1.0, hash((name, row)) % 10**6)},
                 "text": f"{name} {row}", "language": "en", "place": ""}
            )
            for row in range(count)
        ]  # fmt: skip
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows, schema=FEATURES.arrow_schema), folder / f"{name}.parquet"
        )
    return folder


def open_corpus(folder: Path, cache: Path, **more: Any) -> HubCorpus:
    return HubCorpus(str(folder), "en", streaming="shards", cache_dir=str(cache), **more)


def test_a_sample_is_audited_and_everything_is_heard(parquet: Path, tmp_path: Path, nano_tokens: Tokens) -> None:
    corpus = open_corpus(parquet, tmp_path, limits={"train": 4})
    data = SpeechDataModule(corpus, nano_tokens, AudioContext(), batch_window_s=4.0)
    data.prepare()
    assert len(data.splits["train"]) == 4 and "training streams 3 shards" in data.drawn
    loader = data.train_dataloader()
    ids = {id for batch in islice(loader, 20) for id in batch.ids}
    counts = enumerate((5, 3, 4))
    assert ids == {f"train-{shard:05d}-{row:07d}" for shard, count in counts for row in range(count)}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"shots": 2}, "data.streaming=shards and data.shots=2: training utterances are met one by one"),
        ({"in_context": 1}, "data.in_context=1"),
    ],
)
def test_what_asks_for_all_rows_is_refused(
    settings: dict[str, int], told: str, parquet: Path, tmp_path: Path, nano_tokens: Tokens
) -> None:
    data = SpeechDataModule(open_corpus(parquet, tmp_path), nano_tokens, AudioContext(), **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=told):
        data.prepare()


def test_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="data.streaming=yes is not known. Accepted: false, true, shards"):
        HubCorpus("owner/name", "en", streaming="yes")
