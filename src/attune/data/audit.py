"""What is wrong with this corpus: every rejected row, its place and its reason."""

import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, cast

from datasets import Dataset

from attune.audio.waveform import SAMPLE_RATE_HZ, AudioError, compute_fault, load_waveform
from attune.data.corpora.schema import REJECTED, read_segments
from attune.errors import InputError
from attune.text.tokens import SPELT_PER_S, SPOKEN_PER_S, Sequence448, Tokens

PACED = 1000  # utterances of which the pace is taken
THREADS = 4  # libsndfile and torch leave the interpreter's lock while they work


@dataclass(frozen=True)
class Rejection:
    """One row of rejected.csv."""

    split: str
    id: str
    place: str
    reason: str


def check_texts(splits: Mapping[str, Dataset], tokens: Tokens) -> None:
    """Fail, before any weight is loaded, on a text, a language or a task that Whisper cannot hold.

    Raises:
        InputError: with the row's place.
    """
    for dataset in splits.values():
        for row in dataset.remove_columns("audio").to_list():
            try:
                encode_row(row, tokens)
                encode_rejected(row, tokens)
            except InputError as error:
                raise InputError(f"{row['place']}: {error}") from None


def find_pace(dataset: Dataset, tokens: Tokens) -> float:
    """Tokens that a second of speech can need: half as many again as the fastest of a thousand utterances, 12 to 40.

    English needs 12. A script that the vocabulary spells in bytes takes two or three tokens a letter: Russian 30 with
    nano's, Burmese as many with OpenAI's.
    """
    step = max(1, len(dataset) // PACED)
    rows = dataset.select_columns(["text", "language", "duration_s"]).select(range(0, len(dataset), step)).to_list()
    fastest = max(len(tokens.text(row["text"], row["language"])) / row["duration_s"] for row in rows)
    return min(max(1.5 * fastest, SPOKEN_PER_S), SPELT_PER_S)


def encode_row(row: Mapping[str, Any], tokens: Tokens) -> Sequence448:
    """The decoder's input and labels for one row of the schema."""
    return tokens.sequence(row["text"], row["language"], row["task"], row["prompt"], read_segments(row))


def encode_rejected(row: Mapping[str, Any], tokens: Tokens) -> Sequence448 | None:
    """The same for the worse transcript of a pair; None for a row that is none."""
    if row.get(REJECTED) is None:
        return None
    return encode_row({**row, "text": row[REJECTED]}, tokens)


def reject_broken_audio(
    splits: Mapping[str, Dataset], max_rejected: float
) -> tuple[dict[str, Dataset], list[Rejection]]:
    """Decode every utterance once; set aside what cannot be used; fill in `duration_s`.

    Args:
        splits: split name -> dataset of the schema.
        max_rejected: the share of a split's rows, in [0, 1], above which the run must not go on.

    Raises:
        InputError: more than `max_rejected` of a split is unusable, or nothing is left of it.
    """
    kept: dict[str, Dataset] = {}
    rejections: list[Rejection] = []
    for split, dataset in splits.items():
        with ThreadPoolExecutor(THREADS) as pool:
            # Rows are read in the threads: handed over, the sound of a whole corpus would wait in the pool's queue.
            rows = partial(_listen_at, dataset)
            verdicts = list(pool.map(rows, range(len(dataset))))
        bad = [
            _reject(split, row, reason)
            for row, (reason, _) in zip(_places(dataset).to_list(), verdicts, strict=True)
            if reason
        ]
        _check_share(split, len(bad), len(dataset), max_rejected, bad)
        good = [index for index, (reason, _) in enumerate(verdicts) if not reason]
        durations = [verdicts[index][1] for index in good]
        features = dataset.features
        dataset = dataset.select(good) if bad else dataset
        kept[split] = dataset.remove_columns("duration_s").add_column(
            "duration_s", durations, feature=features["duration_s"]
        )
        rejections += bad
    return kept, rejections


def write_rejections(rejections: Sequence[Rejection], path: Path) -> None:
    """rejected.csv: split, id, place, reason. Written even when empty: an empty file is an answer."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Rejection)])
        writer.writerows(astuple(rejection) for rejection in rejections)


def load_row(row: Mapping[str, Any]):
    """The waveform of one row of the schema: mono, 16 kHz, shape (sample,).

    Raises:
        AudioError: it cannot be decoded.
    """
    audio = row["audio"]
    source = audio["path"] if audio["bytes"] is None else audio["bytes"]  # no bytes at all are a file, and a broken one
    return load_waveform(source, row["start_s"], row["end_s"])


def _listen_at(dataset: Dataset, index: int) -> tuple[str | None, float]:
    return _listen(cast(Mapping[str, Any], dataset[index]))


def _listen(row: Mapping[str, Any]) -> tuple[str | None, float]:
    try:
        waveform = load_row(row)
    except AudioError as error:
        return str(error), 0.0
    return compute_fault(waveform), waveform.shape[0] / SAMPLE_RATE_HZ


def _places(dataset: Dataset) -> Dataset:
    return dataset.select_columns(["id", "place"])


def _reject(split: str, row: Mapping[str, Any], reason: str) -> Rejection:
    return Rejection(split, row["id"], row["place"], reason)


def _check_share(split: str, bad: int, rows: int, max_rejected: float, examples: Sequence[Rejection]) -> None:
    if bad > max_rejected * rows or (rows and bad == rows):
        shown = "\n".join(f"  {rejection.place}: {rejection.reason}" for rejection in examples[:5])
        raise InputError(
            f"{bad} of {rows} utterances of {split} cannot be used, more than data.max_rejected={max_rejected:g} "
            f"allows:\n{shown}\nMend or remove them, or raise data.max_rejected."
        )
