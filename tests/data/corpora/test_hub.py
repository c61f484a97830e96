"""Datasets of Hugging Face's kind from a disk, streamed and not: the same rows, the same batches."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value
from recordings import prepare
from whispers import make_sound

from attune.audio.context import AudioContext
from attune.audio.waveform import encode_wav
from attune.data.corpora.hub import HubCorpus
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.tokens import Tokens

FEATURES = Features({"id": Value("int32"), "audio": Audio(), "transcription": Value("string"), "who": Value("string")})
COLUMNS = {"text": "transcription", "speaker": "who"}


def make_rows(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": 7,  # FLEURS repeats them
            "audio": {"bytes": encode_wav(make_sound(1.0 + 0.1 * number, number)), "path": f"{number}.wav"},
            "transcription": f"{split} {number} نعم",
            "who": f"speaker{number % 2}",
        }
        for number in range(count)
    ]


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as the hub keeps them: the features stand in the schema, two files make a split."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "theirs")
    folder = tmp_path / "source"
    folder.mkdir()
    for split, count in {"train": 8, "validation": 2, "test": 3}.items():
        rows = make_rows(split, count)
        halves = [rows[: count // 2], rows[count // 2 :]]
        for number, half in enumerate(halves):
            table = pyarrow.Table.from_pylist(half, schema=FEATURES.arrow_schema)
            pyarrow.parquet.write_table(table, folder / f"{split}-{number:05d}-of-00002.parquet")
    return folder


def open_hub(path: Path, cache: Path, **more: Any) -> HubCorpus:
    return HubCorpus(str(path), **{"language": "ar", "columns": COLUMNS, "cache_dir": str(cache), **more})


def contents(splits: Mapping[str, Dataset]) -> dict[str, list[dict[str, Any]]]:
    return {split: list(rows) for split, rows in splits.items()}


def test_parquet_trains_streamed_and_not_with_the_same_result(
    parquet: Path, tmp_path: Path, nano_tokens: Tokens
) -> None:
    (data, batch), (streamed, same) = (
        prepare(open_hub(parquet, tmp_path / str(streaming), streaming=streaming), nano_tokens)
        for streaming in (False, True)
    )
    assert contents(data.splits) == contents(streamed.splits)
    assert [len(rows) for rows in data.splits.values()] == [8, 2, 3]
    assert batch.ids == same.ids and torch.equal(batch.waveform, same.waveform)
    row = data.splits["train"][5]
    assert (row["id"], row["text"], row["speaker"]) == ("train-000005", "train 5 نعم", "speaker1")
    assert (row["language"], row["place"]) == ("ar", f"{parquet}, train, row 5")
    reader = open_hub(parquet, tmp_path / "True", streaming=True)
    resumed = SpeechDataModule(reader, nano_tokens, AudioContext(), allow_leakage=True)
    resumed.prepare()
    resumed.load_state_dict({"batches_taken": 2})
    expected = [batch.ids for batch in islice(data.train_dataloader(), 2, 4)]
    assert [batch.ids for batch in islice(resumed.train_dataloader(), 2)] == expected


def test_a_stream_stops_at_its_limit_and_is_read_once(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = (open_hub(parquet, tmp_path, streaming=True, limits={"train": 3}) for _ in range(2))
    assert len(first.splits()["train"]) == 3
    assert not list((tmp_path / "theirs").rglob("*.arrow"))  # no file of the source was kept
    monkeypatch.setattr(HubCorpus, "_read", lambda *_: pytest.fail("the rows were read again"))
    assert list(again.splits()["train"]["id"]) == [f"train-{number:06d}" for number in range(3)]


def test_a_changed_file_is_another_source(parquet: Path, tmp_path: Path) -> None:
    assert len(open_hub(parquet, tmp_path, streaming=True).splits()["train"]) == 8
    table = pyarrow.Table.from_pylist(make_rows("new", 1), schema=FEATURES.arrow_schema)
    pyarrow.parquet.write_table(table, parquet / "train-00000-of-00002.parquet")
    assert len(open_hub(parquet, tmp_path, streaming=True).splits()["train"]) == 5


@pytest.mark.parametrize("streaming", [False, True])
def test_patterns_and_other_names(streaming: bool, parquet: Path, tmp_path: Path) -> None:
    files = {"fit": "train-*.parquet", "score": "test-*.parquet"}
    names = {"train": "fit", "validation": "score", "test": "score"}
    splits = open_hub(parquet, tmp_path, streaming=streaming, files=files, **names).splits()
    assert [len(rows) for rows in splits.values()] == [8, 3, 3]
    assert splits["validation"]["id"][0] == "validation-000000"


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    plain = Features({**FEATURES, "audio": {"path": Value("string"), "bytes": Value("binary")}})
    names = ("train", "validation", "test")
    DatasetDict({split: Dataset.from_list(make_rows(split, 2), features=plain) for split in names}).save_to_disk(
        str(tmp_path / "saved")
    )
    splits = open_hub(tmp_path / "saved", tmp_path / "cache").splits()
    assert [row["text"] for row in splits["test"]] == ["test 0 نعم", "test 1 نعم"]
    assert splits["test"][0]["audio"]["bytes"] == make_rows("test", 1)[0]["audio"]["bytes"]


@pytest.mark.parametrize("streaming", [False, True, "shards"])
def test_classes_have_names(streaming: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of words and accents a dataset may keep the numbers."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "theirs")
    word = ClassLabel(names=["yes", "no"])
    features = Features({"audio": Audio(), "label": word, "accent": word, "both": {"en": Value("string")}})
    rows = [{"audio": row["audio"], "label": number % 2, "accent": -1, "both": {"en": "x"}} for number, row in
            enumerate(make_rows("train", 4))]  # fmt: skip
    for split in ("train", "validation", "test"):
        (tmp_path / "source").mkdir(exist_ok=True)
        table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
        pyarrow.parquet.write_table(table, tmp_path / "source" / f"{split}-00000-of-00001.parquet")
    columns = {"text": "label", "accent": "accent"}
    corpus = open_hub(tmp_path / "source", tmp_path / "cache", columns=columns, streaming=streaming)
    train = corpus.splits()["train"]
    assert (list(train["text"]), set(train["accent"])) == (["yes", "no", "yes", "no"], {None})
    if stream := corpus.stream():
        assert [row["text"] for row in stream.read(0)] == ["yes", "no", "yes", "no"]
    with pytest.raises(InputError, match=r"row 0: text is \{'en': 'x'\}; it must be text"):
        open_hub(tmp_path / "source", tmp_path / "cache", columns={"text": "both"}, streaming=streaming).splits()


def test_a_row_without_audio_or_text(parquet: Path, tmp_path: Path, nano_tokens: Tokens) -> None:
    rows = make_rows("train", 6)
    rows[2]["audio"], rows[4]["transcription"] = None, None
    table = pyarrow.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    pyarrow.parquet.write_table(table, parquet / "train-00001-of-00002.parquet")
    data, _ = prepare(open_hub(parquet, tmp_path), nano_tokens, max_rejected=0.2)
    assert [rejection.place for rejection in data.rejections] == [f"{parquet}, train, row 6"]
    assert "its 0 bytes are not a file" in data.rejections[0].reason
    assert list(data.splits["train"]["text"]).count("") == 1  # an utterance without speech


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {}}, r"has no column 'text' for text. It has: id, audio, transcription, who. Give data.colum"),
        ({"columns": {"txt": "transcription"}}, r"data.columns: there is no txt; accepted: audio, text, id, language"),
        ({"test": "eval"}, r"data.test=eval: .* has no such split: "),
        ({"language": None}, r"data.language: give data.language=CODE, or the column"),
        ({"columns": {**COLUMNS, "start_s": "who"}}, r"train, row 0: start_s is 'speaker0'; it must be a number"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_said(settings: dict[str, Any], message: str, streaming: bool, parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        open_hub(parquet, tmp_path, streaming=streaming, **settings).splits()


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"data.path=.*empty: .* Accepted: owner/name of a dataset on the hub"):
        open_hub(tmp_path / "empty", tmp_path).splits()
