"""Any dataset that Hugging Face's `datasets` opens without running code of its author: from the hub or from a disk.

Streamed or not, a split is read once, row by row, into one Arrow file in the cache, as it is: nothing is decoded, and
of a split of any size a few megabytes stand in memory. From there a run draws, sorts by length, audits and resumes as
with every other corpus, so that the two give the same rows, the same batches and the same result. What `streaming`
changes is what comes before: without it the whole dataset is downloaded and kept by `datasets`; with it no file of the
source is kept, and reading stops after `limits`. A shuffle in a window over an endless stream, the other way to do it,
would give batches that depend on the source's order, could not be resumed exactly, and would audit nothing beforehand.

That is for what a disk can hold. `streaming=shards` keeps nothing of the training split but a sample for the audit:
every process and worker reads shards of its own (data/streaming.py), a thousand rows at a time, and can go on from any
batch.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Audio, ClassLabel, Dataset, DatasetBuilder, IterableDataset, load_dataset_builder, load_from_disk
from datasets.config import HF_DATASETS_CACHE
from datasets.exceptions import DatasetsError
from huggingface_hub.constants import HF_HUB_CACHE

from attune.audio.waveform import AudioError, measure_seconds
from attune.data.corpora.manifest import NUMBERS, OPTIONAL_COLUMNS, read_seconds, read_words
from attune.data.corpora.places import Places
from attune.data.corpora.schema import RowStream, complete_row, keep_dataset, language_code
from attune.errors import InputError

FORMAT = 3  # raise it when rows are written otherwise: it is part of the cache's key
SAVED = "dataset_dict.json"  # what save_to_disk leaves
SAMPLE = 1000  # rows of a streamed training split that the audit hears
READ_AT_ONCE = 16
Rows = Dataset | IterableDataset
TOGETHER = 32  # rows that are read at a time


class HubCorpus:
    """Splits of one dataset. Of its columns only those are read that `columns` names, and audio and text.

    Args:
        path: a name on the hub (owner/name), a folder of parquet, arrow or other data files, or one that
            `DatasetDict.save_to_disk` wrote.
        language: Whisper's code or name, unless `columns` has one for it.
        name: of the dataset's configurations, where it has several.
        revision: branch, tag or commit on the hub.
        files: split -> patterns of data files, where their names do not tell.
        train, validation, test: what the dataset calls them. Without streaming also parts: "train[:90%]".
        columns: our name -> the dataset's: {"text": "transcription", "speaker": "speaker_id"}.
        streaming: do not download the source; "shards": nor keep the training split; see above.
        limits: split -> at most so many rows, the first; of a training split that is not kept, those of the sample.
        cache_dir: where the rows are kept; default ATTUNE_CACHE or ~/.cache/attune.
        audio_folders: from which a row may name audio, beside a folder that is the dataset and the places where
            `datasets` keeps what it downloads.
    """

    def __init__(
        self,
        path: str,
        language: str | None = None,
        name: str | None = None,
        revision: str | None = None,
        files: Mapping[str, str | Sequence[str]] | None = None,
        train: str = "train",
        validation: str = "validation",
        test: str = "test",
        columns: Mapping[str, str] | None = None,
        streaming: bool | str = False,
        limits: Mapping[str, int | None] | None = None,
        cache_dir: str | None = None,
        audio_folders: Sequence[str] = (),
    ):
        self.path = path
        self.language = language_code(language) if language else None
        self.name, self.revision = name, revision
        self.files = {split: patterns for split, patterns in (files or {}).items()} or None
        self.names = {"train": train, "validation": validation, "test": test}
        named = {ours: theirs for ours, theirs in (columns or {}).items() if theirs}
        self.columns = {"audio": "audio", "text": "text", **named}
        if streaming not in (True, False, "shards"):
            raise InputError(f"data.streaming={streaming} is not known. Accepted: false, true, shards.")
        self.streaming = streaming
        self.limits = dict(limits or {})
        if streaming == "shards":
            self.limits["train"] = self.limits.get("train") or SAMPLE
        self.cache_dir = Path(cache_dir or os.environ.get("ATTUNE_CACHE") or Path.home() / ".cache" / "attune")
        own = path if Path(path).is_dir() else str(HF_DATASETS_CACHE)
        self.places = Places(own, [str(HF_DATASETS_CACHE), HF_HUB_CACHE, *audio_folders])
        unknown = set(self.columns) - {"audio", "text", *OPTIONAL_COLUMNS[:-1]}
        if unknown:
            raise InputError(
                f"data.columns: there is no {', '.join(sorted(unknown))}; accepted: audio, text, "
                f"{', '.join(OPTIONAL_COLUMNS[:-1])}."
            )
        if self.language is None and "language" not in self.columns:
            raise InputError("data.language: give data.language=CODE, or the column that tells: data.columns.language.")

    def splits(self) -> dict[str, Dataset]:
        try:
            open_split, identity = self._open()
            return {split: self._keep(split, open_split, identity) for split in self.names}
        except ImportError as error:
            raise InputError(
                f"data.path={self.path}: its audio is not in its data files, and to fetch it `datasets` wants {error}. "
                "pip install torchcodec, or unpack the recordings and use data=folder."
            ) from None

    def stream(self) -> RowStream | None:
        """The training split shard by shard, where streaming=shards."""
        if self.streaming != "shards":
            return None
        source = self._select(self._open()[0](self.names["train"]))
        if not isinstance(source, IterableDataset):
            raise InputError(f"data.streaming=shards: {self.path} was written by save_to_disk, and lies here as it is.")
        return RowStream(source.num_shards, partial(self._read_shard, source))

    def _read_shard(self, source: IterableDataset, shard: int) -> Iterator[dict[str, Any]]:
        place, number = f"{self.path}, {self.names['train']}, shard {shard}", 0
        for columns in source.shard(source.num_shards, shard).iter(READ_AT_ONCE):
            for cells in zip(*columns.values(), strict=True):
                raw = dict(zip(columns, cells, strict=True))
                raw = name_classes(raw, source)
                yield complete_row(self._row(raw, f"train-{shard:05d}-{number:07d}", f"{place}, row {number}"))
                number += 1

    def _open(self) -> tuple[Callable[[str], Rows], list[Any]]:
        """How a split is opened, and what tells this state of the source from any other."""
        if Path(self.path, SAVED).is_file():
            saved = load_from_disk(self.path)
            files = sorted(Path(self.path).rglob("*.arrow"))
            state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
            return lambda split: saved[split], state  # type: ignore[return-value]  # a dataset of splits
        try:
            builder = load_dataset_builder(self.path, self.name, data_files=self.files, revision=self.revision)
            if not self.streaming:
                builder.download_and_prepare()
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error.__cause__, ImportError):
                raise error.__cause__ from None
            raise InputError(
                f"data.path={self.path}: {' '.join(str(error).split())} Accepted: owner/name of a dataset on the hub "
                "that runs no code of its own (an older one often has revision=refs/convert/parquet), a folder "
                f"of data files, or one written by save_to_disk. With it: data.name={self.name}, "
                f"data.revision={self.revision}, data.files={self.files}."
            ) from None
        read = builder.as_streaming_dataset if self.streaming else builder.as_dataset
        return lambda split: read(split), identify(builder)  # type: ignore[return-value]  # one split is one dataset

    def _keep(self, split: str, open_split: Callable[[str], Rows], identity: Sequence[Any]) -> Dataset:
        theirs, limit = self.names[split], self.limits.get(split)
        parts = [FORMAT, split, theirs, limit, self.columns, self.language, self.path, *self.places.allowed, *identity]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        dataset = keep_dataset(lambda: self._read(split, open_split), self.cache_dir / "hub" / key)
        if len(dataset) == 0:
            raise InputError(f"data.{split}={theirs}: {self.path} holds no row there (data.limits={self.limits}).")
        return dataset

    def _read(self, split: str, open_split: Callable[[str], Rows]) -> Iterator[dict[str, Any]]:
        theirs = self.names[split]
        try:
            source = open_split(theirs)
        except (KeyError, ValueError) as error:
            raise InputError(f"data.{split}={theirs}: {self.path} has no such split: {error}") from None
        source = self._select(source)
        limit = self.limits.get(split)
        for number, raw in enumerate(islice(_iterate(source, limit), limit)):
            yield self._row(name_classes(raw, source), f"{split}-{number:06d}", f"{self.path}, {theirs}, row {number}")

    def _select(self, source: Rows) -> Rows:
        """The columns that are read, the audio as it is: a path, or the bytes of a file."""
        there = source.column_names or []
        for ours, theirs in self.columns.items():
            if theirs not in there:
                raise InputError(
                    f"data.path={self.path} has no column {theirs!r} for {ours}. It has: "
                    f"{', '.join(there) or 'none that it names beforehand'}. Give data.columns.{ours}=NAME."
                )
        source = source.select_columns(list(dict.fromkeys(self.columns.values())))
        try:
            return source.cast_column(self.columns["audio"], Audio(decode=False))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"data.columns.audio={self.columns['audio']}: this column is no audio: {error}. It must hold audio "
                "files, their bytes or their paths."
            ) from None

    def _row(self, raw: Mapping[str, Any], id: str, place: str) -> dict[str, Any]:
        text = raw[self.columns["text"]]
        row = {
            "id": id,
            "audio": self._audio(raw[self.columns["audio"]], place),
            "text": "" if text is None else read_words(text, "text", place),
            "language": self.language,
            "place": place,
        }
        for ours, theirs in self.columns.items():
            if ours in OPTIONAL_COLUMNS and raw[theirs] not in (None, ""):
                row[ours] = (read_seconds if ours in NUMBERS else read_words)(raw[theirs], ours, place)
        if row["audio"]["bytes"] is not None and "duration_s" not in row:
            row["duration_s"] = _ask(row)
        if row["language"] is None:
            raise InputError(f"{place} has no language in its column {self.columns['language']!r}. Give data.language.")
        row["language"] = language_code(row["language"])
        return row

    def _audio(self, cell: Mapping[str, Any] | None, place: str) -> dict[str, Any]:
        """Bytes where the dataset holds them, else a path; neither is an empty file, for the audit to name."""
        contained, path = (cell["bytes"], cell["path"]) if cell else (None, None)
        if contained is not None or path is None:
            return {"path": None, "bytes": contained or b""}
        if "://" in path:
            raise InputError(f"{place}: its audio lies at {path}, beside the dataset. Give data.streaming=false.")
        return {"path": self.places.check(path, place), "bytes": None}


def _iterate(source: Rows, limit: int | None) -> Iterator[dict[str, Any]]:
    """Row by row, read a few at a time: one by one a hundred thousand would take twice as long."""
    for columns in source.iter(min(TOGETHER, limit or TOGETHER)):
        names, cells = list(columns), zip(*columns.values(), strict=True)  # type: ignore[attr-defined]
        yield from (dict(zip(names, row, strict=True)) for row in cells)


def _ask(row: Mapping[str, Any]) -> float | None:
    """What the header says, while the bytes are at hand: later it would bring them all into memory again."""
    try:
        return measure_seconds(row["audio"]["bytes"], row.get("start_s"), row.get("end_s"))
    except AudioError:
        return None


def name_classes(raw: Mapping[str, Any], source: Rows) -> dict[str, Any]:
    """A row with the names of classes (of words, accents, speakers) where the dataset has their numbers; None for -1,
    its number of no class."""
    classes = {name: of for name, of in (source.features or {}).items() if isinstance(of, ClassLabel)}
    named = {
        name: of.int2str(raw[name]) if raw[name] >= 0 else None for name, of in classes.items() if raw[name] is not None
    }
    return {**raw, **named}


def identify(builder: DatasetBuilder) -> list[Any]:
    """The configuration, and each data file with its commit on the hub or its time of change on a disk."""
    files = {
        str(split): [list(names), getattr(names, "origin_metadata", [])]
        for split, names in (builder.config.data_files or {}).items()
    }
    return [builder.cache_dir, files]
