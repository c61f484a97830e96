"""What every corpus reader yields: one schema, whatever the source."""

import atexit
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, Protocol, runtime_checkable

import pyarrow
from datasets import Dataset, DatasetInfo, Features, List, Value
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from attune.data.corpora.mapping import ROWS
from attune.errors import CACHE, InputError, check_writable
from attune.text.tokens import Segment

FEATURES = Features(
    {
        "id": Value("string"),  # unique within the corpus
        # Left as it is on disk; audio/waveform.py decodes it when it is needed. A plain struct and not datasets.Audio,
        # which asks for torchcodec and a system FFmpeg even with decode=False.
        "audio": {"path": Value("string"), "bytes": Value("binary")},
        "text": Value("string"),  # as written; "" is an utterance without speech
        "language": Value("string"),  # Whisper's code
        "task": Value("string"),  # transcribe or translate
        "speaker": Value("string"),  # null where it is not known
        "accent": Value("string"),  # as the corpus calls it; null where it is not known
        "duration_s": Value("float32"),  # null until the audit has decoded it
        "start_s": Value("float32"),  # the part of the file that is the utterance; null for all of it
        "end_s": Value("float32"),
        "prompt": Value("string"),  # what was said before, or a list of terms; null for none
        "segments": List({"start_s": Value("float32"), "end_s": Value("float32"), "text": Value("string")}),
        "place": Value("string"),  # where a person finds this row: "train.jsonl, line 17"
    }
)
# A column that only the training split of a mixture has: how often a pass holds the row, on average; 2.3 is twice, and
# a third time in three passes of ten.
WEIGHT = "weight"
# A column that only the splits of pairs have: a transcript that is worse than `text`, the chosen one; null for no pair.
REJECTED = "rejected"
PAIRED = Features({**FEATURES, REJECTED: Value("string")})
# What is held at a time. The columns of so many rows lie together in the file: who reads texts alone touches few pages
# of the recordings between them.
ROWS_IN_MEMORY = 2000
BYTES_IN_MEMORY = 4 * 2**20
OPTIONAL = {
    "task": "transcribe",
    "speaker": None,
    "accent": None,
    "duration_s": None,
    "start_s": None,
    "end_s": None,
    "prompt": None,
}


class Corpus(Protocol):
    """A named set of splits. The names are the panels of run.json.

    `splits()` has the keys `train`, `validation`, `test`, any number of `test/NAME`: the target under one condition,
    and any number of `retention/NAME`: what the model could do before, and should still do after.
    """

    def splits(self) -> Mapping[str, Dataset]: ...


@runtime_checkable
class OffersMore(Protocol):
    """A corpus with splits that are read, or rendered, only where a run needs them.

    `replay` is training material of what the model could do before. `retention_validation/NAME` stands to
    `retention/NAME` as validation to test: choices are made on it, and no result is reported from it.
    """

    def more(self) -> Mapping[str, Callable[[], Dataset]]:
        """The names of these splits, and how each is read."""
        ...


@dataclass(frozen=True)
class RowStream:
    """Training rows that are kept nowhere.

    Args:
        shards: into how many files or archives they are cut.
        read: the rows of a shard, from its first on, all columns of the schema in each.
    """

    shards: int
    read: Callable[[int], Iterator[Mapping[str, Any]]]


@runtime_checkable
class Streams(Protocol):
    """A corpus whose training split may be streamed; `train` of its splits is a sample then, for the audit."""

    def stream(self) -> RowStream | None:
        """None where it is not."""
        ...


def complete_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """With all columns of the schema."""
    return {**OPTIONAL, "segments": [], **row}


def build_dataset(rows: Iterable[Mapping[str, Any]], features: Features = FEATURES) -> Dataset:
    """Rows with at least id, audio, text, language and place -> a dataset of the schema, or of PAIRED.

    They go through a file that lives as long as this process and is mapped into memory: of a corpus of any size,
    ROWS_IN_MEMORY rows, or as many as BYTES_IN_MEMORY of recordings, are held at a time.
    """
    folder = Path(mkdtemp(prefix="attune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _open(_write(rows, folder / ROWS, features), features)


def keep_dataset(read: Callable[[], Iterable[Mapping[str, Any]]], folder: Path) -> Dataset:
    """The same, in a folder that outlives the process: rows are read where it is not there yet, else it is opened.

    What is written appears whole or not at all; another process may have written the same meanwhile.
    """
    if not folder.is_dir():
        check_writable(folder, CACHE)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as partial:
            ready = Path(partial) / "ready"
            ready.mkdir()
            _write(read(), ready / ROWS)
            try:
                ready.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return _open(folder / ROWS)


def _write(rows: Iterable[Mapping[str, Any]], path: Path, features: Features = FEATURES) -> Path:
    schema = features.arrow_schema
    # The disk takes as long as the rows: one chunk is written while the next is read.
    with pyarrow.ipc.new_stream(str(path), schema) as writer, ThreadPoolExecutor(1) as disk:
        written: Future[None] | None = None
        for chunk in _gather(rows):
            try:
                batch = pyarrow.RecordBatch.from_pylist(chunk, schema=schema)
            except UnicodeEncodeError:
                raise InputError(_name_half(chunk)) from None
            if written:
                written.result()
            written = disk.submit(writer.write_batch, batch)
        if written:
            written.result()
    return path


def _name_half(rows: Iterable[Mapping[str, Any]]) -> str:
    """Where a string stands that is none in UTF-8."""
    for row in rows:
        parts = {f"the text of segment {number}": part["text"] for number, part in enumerate(row["segments"] or [], 1)}
        for name, value in {**row, "audio": row["audio"]["path"], **parts}.items():
            if isinstance(value, str) and value != _show(value):
                return (
                    f"{_show(row['place'])}: {name} is {_show(value)}, with half of a character or a byte of another "
                    "encoding than UTF-8. Write the text anew, or rename the file."
                )
    raise AssertionError("a row could not be written, and all of its strings can be")


def _show(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _gather(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in chunks that are small enough to be held, what is optional filled in."""
    chunk: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        chunk.append(complete_row(row))
        size += len(row["audio"]["bytes"] or b"")
        if len(chunk) >= ROWS_IN_MEMORY or size >= BYTES_IN_MEMORY:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _open(path: Path, features: Features = FEATURES) -> Dataset:
    return Dataset.from_file(str(path), info=DatasetInfo(features=features))


def language_code(language: str) -> str:
    """Whisper's code for a code or an English name: "ja" for "Japanese". What is neither stays as it is."""
    return TO_LANGUAGE_CODE.get(language.lower(), language.lower())


def read_segments(row: Mapping[str, Any]) -> list[Segment]:
    """The timed parts of a row; [] where it has none."""
    return [Segment(part["start_s"], part["end_s"], part["text"]) for part in row["segments"] or []]
