"""Your own recordings: a JSONL, CSV or TSV file with one utterance a row."""

import base64
import binascii
import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset

from attune.data.corpora.places import Places
from attune.data.corpora.schema import FEATURES, build_dataset, language_code
from attune.errors import InputError

OPTIONAL_COLUMNS = ("id", "language", "task", "speaker", "accent", "duration_s", "start_s", "end_s", "prompt", "split")
NUMBERS = ("duration_s", "start_s", "end_s")
SUFFIXES = (".jsonl", ".csv", ".tsv")
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
    (`train` is wanted for replay, `validation` for retention_validation; for retention all rows are).
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
            raise InputError(f"{key}: there is no manifest {path}. Give a {', '.join(SUFFIXES)} file.")
        rows = (self.row(raw, path, line) for line, raw in read_rows(path, key) if self._takes(split, raw))
        dataset = build_dataset(rows, self.features)
        if len(dataset) == 0:
            raise InputError(f"{key}: {path} holds no utterance{' of this split' if path.stat().st_size else ''}.")
        return dataset

    def row(self, raw: Mapping[str, Any], path: Path, line: int) -> dict[str, Any]:
        """One row of a file -> one of the schema.

        Raises:
            InputError: a column or the audio file is missing, the file may not be named, or a number or a text is none;
                with the row's place.
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
        return _is_of(split, raw, self.columns)

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
        taken = {"audio", "text", *OPTIONAL_COLUMNS, *self.columns.values()}
        free = [str(other) for other in raw if other not in taken]
        near = get_close_matches(column, free, n=1, cutoff=0.4) or free[:1]
        hint = f" If it is {near[0]!r} here: data.columns.{name}={near[0]}" if near else ""
        raise InputError(f"{place}: there is no column {column!r}. It has: {', '.join(map(str, raw))}.{hint}")


def read_rows(path: Path, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a JSONL, CSV or TSV file, in the file's order."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{key}: {path} ends in {path.suffix!r}. Accepted: {', '.join(SUFFIXES)}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".jsonl":
                for line, text in enumerate(file, start=1):
                    if text.strip():
                        yield line, _parse_json(text, path, line)
            else:
                yield from _read_table(file, path)
    except UnicodeDecodeError as error:
        raise InputError(f"{key}: {path} cannot be read: {error}. It must be text in UTF-8.") from None


def _read_table(file: TextIO, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """CSV with its quotes. In TSV a quote is a letter like any other, except around a whole field: an opening one that
    is never closed would otherwise swallow the rows behind it."""
    is_csv = path.suffix == ".csv"
    quoting = csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE
    reader = csv.DictReader(file, delimiter="," if is_csv else "\t", quoting=quoting, strict=True)
    try:
        for row in reader:
            _check_fields(row, f"{path}, line {reader.line_num}")
            plain = {_unquote(str(name)): _unquote(field) for name, field in row.items()}
            yield reader.line_num, dict(row) if is_csv else plain
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num + 1} cannot be read: {error}. A field that begins with a double quote ends "
            'with one, and a quote inside it is doubled: "She said ""no"".".'
        ) from None


def _check_fields(row: Mapping[Any, Any], place: str) -> None:
    if None in row:
        raise InputError(
            f"{place} has more fields than the first line has columns: {row[None]} are left over. Put a field that "
            "holds the delimiter in double quotes, or use JSONL."
        )
    missing = [name for name, field in row.items() if field is None]
    if missing:
        raise InputError(
            f"{place} has fewer fields than the first line has columns: {', '.join(missing)} are missing. A field that "
            "is empty has its delimiter all the same."
        )


def _unquote(field: Any) -> Any:
    """A field that a CSV writer put in quotes, without them."""
    if field is None or not (len(field) >= 2 and field[0] == field[-1] == '"'):
        return field
    inner = field[1:-1].replace('""', "")
    return field if '"' in inner else field[1:-1].replace('""', '"')


def _parse_json(text: str, path: Path, line: int) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {line} is not JSON: {error.msg} at column {error.colno}.") from None
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {line} is a JSON {type(row).__name__}; each line must be an object.")
    return row


def _is_of(split: str, raw: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
    named = raw.get(columns.get("split", "split"))
    room = split.split("/")[0]
    return not named or room == "retention" or named in (split, CALLED.get(room, split))


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
