"""Tables as people write them: JSONL, CSV or TSV -> rows, and what is said about a file that is no such table."""

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TextIO

from attune.errors import InputError

SUFFIXES = (".jsonl", ".csv", ".tsv")
# What tables call our columns where the name is not near to ours.
OFTEN = {
    "audio": ("path", "file_name", "filename", "file", "wav", "audio_path", "audio_filepath", "recording"),
    "text": ("sentence", "transcript", "transcription", "utterance", "words"),
}


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
        with path.open("rb") as file:
            is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        wrong = "this is UTF-16" if is_utf16 else error
        mend = " Save it as UTF-8." if is_utf16 else ""
        raise InputError(f"{key}: {path} cannot be read: {wrong}. It must be text in UTF-8.{mend}") from None


def _read_table(file: TextIO, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """CSV with its quotes. In TSV a quote is a letter like any other, except around a whole field: an opening one that
    is never closed would otherwise swallow the rows behind it."""
    is_csv = path.suffix == ".csv"
    quoting = csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE
    delimiter = "," if is_csv else "\t"
    reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=is_csv)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        _check_delimiter(reader.fieldnames, path)
        for row in reader:
            _check_fields(row, f"{path}, line {reader.line_num}")
            plain = {_unquote(str(name)): _unquote(field) for name, field in row.items()}
            yield reader.line_num, dict(row) if is_csv else plain
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num + 1} cannot be read: {error}. A field that begins with a double quote ends "
            'with one, and a quote inside it is doubled: "She said ""no"".".'
        ) from None


def _check_delimiter(names: Sequence[str], path: Path) -> None:
    """A manifest has two columns at least: one alone is several, divided by something else."""
    others = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
    found = next((mark for mark in others if len(names) == 1 and mark in names[0]), None)
    if found:
        right = {"\t": "Name it .tsv.", ",": "Name it .csv."}.get(found, "Save it with commas, or as JSONL.")
        raise InputError(
            f"{path}: the first line, {names[0]!r}, is divided by {others[found]}, and a {path.suffix} is divided by "
            f"{'commas' if path.suffix == '.csv' else 'tabs'}. {right}"
        )


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


def hint_at_column(name: str, column: str, free: Sequence[str]) -> str:
    """What to do about a column that is missing; "" where nobody can tell.

    Args:
        name: ours; `column`: what it is called in this file, as far as we know.
        free: columns of the file that have no meaning yet.
    """
    lower = {other.lower(): other for other in free}
    often = [lower[other] for other in OFTEN.get(name, ()) if other in lower]
    near = often or [lower[other] for other in get_close_matches(column.lower(), lower, n=1, cutoff=0.6)]
    if near:
        return f" If it is {near[0]!r} here: data.columns.{name}={near[0]}"
    if any(re.search(r"\.[a-z0-9]{2,4}$", other) for other in lower):
        return " That looks like a row: the first line of a CSV or TSV names the columns."
    return ""
