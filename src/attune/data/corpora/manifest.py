"""Your own recordings: a JSONL, CSV or TSV file with one utterance a row."""

import base64
import binascii
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from attune.data.corpora.places import Places
from attune.data.corpora.schema import FEATURES, build_dataset, language_code
from attune.data.corpora.split_names import describe_names, find_split
from attune.data.corpora.tables import SUFFIXES, hint_at_column, read_rows
from attune.errors import InputError

OPTIONAL_COLUMNS = ("id", "language", "task", "speaker", "accent", "duration_s", "start_s", "end_s", "prompt", "split")
SHOWN = 3  # places in a message
KNOWN = ("audio", "text", "duration", *OPTIONAL_COLUMNS)
NUMBERS = ("duration_s", "start_s", "end_s")
CALLED = {"replay": "train", "retention_validation": "validation"}  # in a manifest's own column `split`


class ManifestCorpus:
    """Splits from manifest files. Relative audio paths resolve against the manifest's own folder.

    Args:
        train, validation, test: manifest files; `train` may be null where a run learns from synthetic speech alone
            (vocabulary.synthetic=1), `test` may be left out, then the validation file is the test panel too.
        language: Whisper's code or name for rows without a language column.
        retention: NAME -> manifest of what the model should not forget, scored before and after.
        columns: our name -> the file's name for it, where they differ: {"text": "sentence", "audio": "path"}.
        replay_from: manifest of training material of what the model could do before.
        retention_validation: NAME -> manifest that stands to `retention/NAME` as validation to test.
        audio_folders: from which a manifest may name audio, beside its own folder.

    A row needs `audio` (a path; in JSONL also {"bytes": base64}) and `text`. Optional: id, language, task, speaker,
    accent, duration_s, start_s, end_s, prompt, and split: rows that name another split than the wanted one are left out
    (`train` is wanted for replay, `validation` for retention_validation; for retention all rows are). A recording that
    is not there is a row like any other, which the audit sets aside.
    """

    features = FEATURES

    def __init__(
        self,
        train: str | None,
        validation: str,
        test: str | None = None,
        language: str | None = None,
        retention: Mapping[str, str] | None = None,
        columns: Mapping[str, str] | None = None,
        replay_from: str | None = None,
        retention_validation: Mapping[str, str] | None = None,
        audio_folders: Sequence[str] = (),
    ):
        if not validation:
            raise InputError("data.validation is null: there is nothing to choose the best model on. Give it a FILE.")
        files = {"train": train} if train else {}
        files |= {"validation": validation, "test": test or validation}
        files |= {f"retention/{name}": path for name, path in (retention or {}).items()}
        self.files = {split: Path(path) for split, path in files.items()}
        extra = {"replay": replay_from} if replay_from else {}
        extra |= {f"retention_validation/{name}": path for name, path in (retention_validation or {}).items()}
        self.extra_files = {split: Path(path) for split, path in extra.items()}
        self.language = language
        self.audio_folders = list(audio_folders)
        self._places: dict[Path, Places] = {}
        self.columns = {ours: theirs for ours, theirs in (columns or {}).items() if theirs}

    def splits(self) -> dict[str, Dataset]:
        return {split: self._read(split, path) for split, path in self.files.items()}

    def more(self) -> dict[str, Callable[[], Dataset]]:
        return {split: partial(self._read, split, path) for split, path in self.extra_files.items()}

    def _read(self, split: str, path: Path) -> Dataset:
        key = f"data.{'replay_from' if split == 'replay' else split.replace('/', '.')}"
        if not path.is_file():
            where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
            raise InputError(f"{key}: there is no manifest {path}{where}. Give a {', '.join(SUFFIXES)} file.")
        self._places.pop(path, None)
        named: Counter[str | None] = Counter()
        dataset = build_dataset(self._take(split, read_rows(path, key), named, path), self.features)
        self._check_names(named, key, path)
        if len(dataset) == 0:
            others = ", ".join(f"{name!r} in {count} rows" for name, count in named.items() if name)
            raise InputError(
                f"{key}: {path} holds no utterance{' of this split' if path.stat().st_size else ''}."
                + (f" Its column {self._split_column!r} names {others}. {self._advise()}" if others else "")
            )
        self._check_recordings(key, path)
        return dataset

    def _take(
        self, split: str, raws: Iterator[tuple[int, dict[str, Any]]], named: Counter[str | None], path: Path
    ) -> Iterator[dict[str, Any]]:
        """The rows of the split, and what each row names is counted."""
        for line, raw in raws:
            named[self._find_name(raw)] += 1
            if self._takes(split, raw):
                yield self.row(raw, path, line)

    @property
    def _split_column(self) -> str:
        return self.columns.get("split", "split")

    def _find_name(self, raw: Mapping[str, Any]) -> str | None:
        """The split that a row names, None for none."""
        name = raw.get(self._split_column)
        return None if name is None else str(name).strip() or None

    def _check_names(self, named: Counter[str | None], key: str, path: Path) -> None:
        if key.startswith("data.retention."):  # which takes every row
            return
        for name, count in named.items():
            if name and find_split(name) is None and name.split("/")[0] not in (*CALLED, "retention"):
                raise InputError(
                    f"{key}: {count} rows of {path} name the split {name!r} in the column {self._split_column!r}, "
                    f"which is none. {self._advise()}"
                )

    def _advise(self) -> str:
        return (
            f"Accepted are {describe_names()}; a row that names none is of every split. To read the split from another "
            "column, or from one that is not there so that all rows count: data.columns.split=NAME."
        )

    def _check_recordings(self, key: str, path: Path) -> None:
        """Refuse a manifest of which no recording is there, before another one is listened to for an hour."""
        places = self._places.get(path)
        if places and places.looked_for and len(places.missing) == places.looked_for:
            listed = "".join(f"\n  {missing}" for missing in places.missing[:SHOWN])
            raise InputError(
                f"{key}: {places.looked_for} of {places.looked_for} files are missing, the first:{listed}\nRelative "
                f"paths in it are of {path.parent.resolve()}/."
            )

    def row(self, raw: Mapping[str, Any], path: Path, line: int) -> dict[str, Any]:
        """One row of a file -> one of the schema.

        Raises:
            InputError: a column is missing, the audio file may not be named, or a number or a text is none; with the
                row's place.
        """
        place = f"{path}, line {line}"
        audio = self._required(raw, "audio", place)
        row = {
            "id": f"{path.stem}-{line}",
            "audio": self._resolve_audio(audio, path, place),
            "text": read_words(self._required(raw, "text", place, blank=True), "text", place),
            "language": self.language,
            "place": place,
        }
        for name in OPTIONAL_COLUMNS[:-1]:
            value = raw.get(self.columns.get(name, name))
            if value is None and name == "duration_s":
                value = raw.get("duration")
            if value not in (None, ""):
                row[name] = (read_seconds if name in NUMBERS else read_words)(value, name, place)
        if row["language"] is None:
            raise InputError(
                f"{place} has no language. Give data.language=CODE for the whole corpus, or a column 'language'."
            )
        row["language"] = language_code(row["language"])
        return row

    def _takes(self, split: str, raw: Mapping[str, Any]) -> bool:
        """Whether a row of a file is one of the split's."""
        name, room = self._find_name(raw), split.split("/")[0]
        return not name or room == "retention" or name == split or find_split(name) == CALLED.get(room, split)

    def _resolve_audio(self, audio: Any, manifest: Path, place: str) -> dict[str, Any]:
        if isinstance(audio, dict) and isinstance(audio.get("bytes"), str):
            try:
                return {"path": None, "bytes": base64.b64decode(audio["bytes"], validate=True)}
            except binascii.Error as error:
                raise InputError(f"{place}: audio.bytes is not base64: {error}.") from None
        if manifest not in self._places:
            self._places[manifest] = Places(manifest.parent, self.audio_folders)
        return {"path": self._places[manifest].find(str(audio), place), "bytes": None}

    def _required(self, raw: Mapping[str, Any], name: str, place: str, blank: bool = False) -> Any:
        column = self.columns.get(name, name)
        if column in raw and (raw[column] or blank):
            return "" if raw[column] is None else raw[column]
        if column in raw:
            raise InputError(f"{place}: the column {column!r} is empty.")
        free = [str(other) for other in raw if other not in {*KNOWN, *self.columns.values()}]
        hint = hint_at_column(name, column, free)
        raise InputError(f"{place}: there is no column {column!r}. It has: {', '.join(map(str, raw))}.{hint}")


def read_seconds(value: Any, name: str, place: str) -> float:
    """A cell as a number of seconds, 0 or more.

    Raises:
        InputError: it is none.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{place}: {name} is {value!r}; it must be a number of seconds, 0 or more.")
    return seconds


def read_words(value: Any, name: str, place: str) -> str:
    """A cell as text: what is written, or a number (of a speaker, say).

    Raises:
        InputError: it is neither. What a table calls NaN is no text, and must not become the word "nan".
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number or isinstance(value, str)):
        raise InputError(
            f"{place}: {name} is {value!r}; it must be text. "
            + ('An utterance without speech has the text "".' if name == "text" else "Where it is not known: null.")
        )
    return str(value)
