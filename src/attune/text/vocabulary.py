"""Terms that a recogniser should know: how they are written, how they sound, what they are worth.

A list is a text file, a table or YAML:

    terms.txt    a term a line; # begins a comment
    terms.csv    term,pronunciation,weight,context     (.tsv with tabs); | stands between several in one cell
    terms.yaml   - Vancomycin
                 - {term: Xeljanz, pronunciation: /ˈzɛldʒænz/, weight: 2, context: [She takes Xeljanz twice daily.]}
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attune.audio.phonemes import translate
from attune.errors import InputError
from attune.text.normalise import normalise
from attune.text.sentences import load_grammar

COLUMNS = ("term", "pronunciation", "weight", "context")
SEPARATOR = "|"


@dataclass(frozen=True)
class Term:
    """One term.

    Args:
        spelling: as it is to be written, in one line.
        pronunciations: as audio/phonemes.py takes them: IPA, ARPAbet, or words that sound alike; none: as it is spelt.
        weight: times the bonus of decoding, above 0.
        contexts: sentences with the term in them, for synthetic speech.
        place: where a person finds it: "terms.csv, line 3".
    """

    spelling: str
    pronunciations: tuple[str, ...] = ()
    weight: float = 1.0
    contexts: tuple[str, ...] = ()
    place: str = ""


def read_terms(file: str) -> list[Term]:
    """The terms of a file.

    Raises:
        InputError: there is no such file, it is empty, or a term in it is wrong; with the line.
    """
    path = Path(file)
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"vocabulary.file={file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"vocabulary.file={file} is not UTF-8: byte {error.start}. Save it as UTF-8.") from None
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows = _read_table(text, file, "\t" if suffix == ".tsv" else ",")
    else:
        rows = _read_yaml(text, file) if suffix in (".yaml", ".yml") else _read_lines(text)
    terms = [make_term(values, f"{file}, line {line}") for line, values in rows]
    return check_terms(terms, file)


def read_grammar(grammar: str, symbols: Sequence[str]) -> list[Term]:
    """The words that some symbols of an embedded grammar may stand for: a trade's terms.

    Raises:
        InputError: there is no such grammar or symbol.
    """
    place = f"the grammar {grammar}"
    words = dict.fromkeys(word for symbol in symbols for word in load_grammar(grammar).words(symbol))
    return check_terms([Term(word, place=place) for word in words], place)


def check_terms(terms: Sequence[Term], source: str) -> list[Term]:
    """The terms, if there are any and each stands once.

    Raises:
        InputError: with both places of a term that stands twice; case does not make two.
    """
    if not terms:
        raise InputError(f"{source} holds no term. Write one a line, or take vocabulary=none.")
    first: dict[str, Term] = {}
    for term in terms:
        other = first.setdefault(normalise(term.spelling), term)
        if other is not term:
            raise InputError(f"{term.place}: {term.spelling!r} stands already in {other.place}. Leave one of them out.")
    return list(terms)


def make_term(values: Mapping[str, Any], place: str) -> Term:
    """A term of a row's values: term, and where given pronunciation, weight and context.

    Raises:
        InputError: one of them is wrong; with the place.
    """
    unknown = sorted(set(map(str, values)) - set(COLUMNS))
    if unknown:
        raise InputError(f"{place}: there is no {unknown[0]!r}. Accepted: {', '.join(COLUMNS)}.")
    spelling = " ".join(str(values.get("term") or "").split())
    if not normalise(spelling):
        raise InputError(f"{place}: the term {spelling!r} has no letter or digit. Write it as it is to be transcribed.")
    pronunciations, contexts = (_read_several(values.get(name)) for name in ("pronunciation", "context"))
    for pronunciation in pronunciations:
        try:
            translate(pronunciation)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
    for context in contexts:
        if spelling.casefold() not in context.casefold():
            raise InputError(f"{place}: the context {context!r} does not hold the term {spelling!r}.")
    return Term(spelling, pronunciations, _read_weight(values.get("weight"), place), contexts, place)


def list_terms(spellings: Sequence[str]) -> str:
    """A prompt that names terms, as nano's pretraining has it: "femur, tibia, ulna."; "" of none."""
    return ", ".join(spellings) + "." if spellings else ""


def _read_lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, {"term": line.strip()}


def _read_table(text: str, file: str, delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    if "term" not in (table.fieldnames or ()):
        raise InputError(
            f"{file}, line 1: there is no column 'term'. The first line names the columns: {delimiter.join(COLUMNS)}."
        )
    try:
        for row in table:
            if None in row or None in row.values():
                raise InputError(f"{file}, line {table.line_num}: it has more or fewer cells than the first line.")
            if any(row.values()):
                yield table.line_num, row
    except csv.Error as error:
        raise InputError(f"{file}, line {table.line_num}: {error}.") from None


def _read_yaml(text: str, file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Entries with their lines, which only the nodes of YAML know."""
    try:
        root, content = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{file}, line {mark.line + 1 if mark else 1}: this is not YAML.") from None
    if content is None:
        return
    if not isinstance(content, list):
        raise InputError(f"{file}: it must be a list of terms, each a text or {{{', '.join(COLUMNS)}}}.")
    for node, entry in zip(root.value, content, strict=True):  # type: ignore[union-attr]
        yield node.start_mark.line + 1, entry if isinstance(entry, dict) else {"term": entry}


def _read_several(value: Any) -> tuple[str, ...]:
    """A cell with | between its parts, or a list."""
    parts = value if isinstance(value, list) else str(value or "").split(SEPARATOR)
    return tuple(text for part in parts if (text := str(part).strip()))


def _read_weight(value: Any, place: str) -> float:
    try:
        weight = float(value) if value not in (None, "") else 1.0
    except (TypeError, ValueError):
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise InputError(f"{place}: the weight {value!r} is no number above 0; 1 is usual, 2 doubles a term's bonus.")
    return weight
