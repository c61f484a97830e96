"""Which recordings are listened to before a run begins, how, and what is taken for granted of the others.

Of a corpus of a hundred thousand, decoding all would take minutes before the first step. So of what is learnt at most
`data.listen_up_to` recordings a split are heard: half of them may be those whose sentence is scored too, where a leak
would be, the others are drawn evenly, and every row that looks wrong by itself is heard besides. What is scored is
always heard whole, for a score is of all of it.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import numpy as np
from datasets import Dataset
from jaxtyping import Bool, Float32, Int

from attune.audio.waveform import SHORTEST_S, WINDOW_S, AudioError, measure_seconds
from attune.data.corpora.mapping import let_go
from attune.data.hearing import Heard, listen
from attune.data.leakage import ScoredRecordings
from attune.data.texts import SplitTexts, iterate

THREADS = 4  # libsndfile and torch leave the interpreter's lock while they work
TOGETHER = 16  # utterances that a thread reads at a time
CHUNKS_HELD = 4  # after so many, the pages that they lay in are given back
HEADERS_TOGETHER = 1024
LATE_S = 2e-4  # a header, of a disk that answers late
HEARD_COLUMNS = ["id", "audio", "start_s", "end_s", "place"]
# Without the bytes: a header is asked only of a file, or where nothing else tells.
ROW_COLUMNS = ["audio.path", "start_s", "end_s", "duration_s"]


def choose_heard(rows: int, limit: int | None, suspects: Bool[np.ndarray, "row"] | None) -> Bool[np.ndarray, "row"]:
    """Which rows of a split are listened to: all, or `limit` that are the same in every run on this corpus.

    Args:
        limit: at least 1; None for all.
        suspects: rows that may be recordings that are scored; up to half of the limit is theirs.
    """
    if limit is None or rows <= limit:
        return np.ones(rows, bool)
    chosen = np.zeros(rows, bool)
    if suspects is not None:
        chosen[spread(np.flatnonzero(suspects), limit // 2)] = True
    chosen[spread(np.flatnonzero(~chosen), limit - int(chosen.sum()))] = True
    return chosen


def spread(indices: Int[np.ndarray, "row"], count: int) -> Int[np.ndarray, "drawn"]:
    """One of each of `count` equal stretches, drawn always alike; all, where there are no more."""
    if len(indices) <= count:
        return indices
    edges = np.linspace(0, len(indices), count + 1).astype(int)
    drawn = np.random.default_rng([len(indices), count]).random(count)
    return indices[edges[:-1] + (drawn * np.diff(edges)).astype(int)]


def find_suspects(texts: SplitTexts, scored: Sequence[SplitTexts]) -> Bool[np.ndarray, "row"]:
    """Which rows say a sentence that is scored: a copy of a recording, however encoded, nearly always has its text."""
    sentences = set[int]().union(*(each.sentences for each in scored))
    return np.isin(np.asarray(texts.hashes, np.int64), np.fromiter(sentences, np.int64, len(sentences)))


def expect_durations(dataset: Dataset, wanted: Bool[np.ndarray, "row"]) -> Float32[np.ndarray, "row"]:
    """How long the wanted rows are, in seconds, by themselves or by the headers of their files; 0 for one that must be
    heard, because its file is not there, or is no recording, or has no length that Whisper takes."""
    seconds = np.zeros(len(dataset), np.float32)
    asked: list[tuple[int, str | None, float | None]] = []
    for index, row in enumerate(iterate(dataset.flatten(), ROW_COLUMNS)):
        if not wanted[index]:
            continue
        path, start_s, end_s = row["audio.path"], row["start_s"], row["end_s"]
        # `duration_s` of a row that begins later may be the file's or the utterance's: then the header is asked.
        said_s = end_s - (start_s or 0.0) if end_s is not None else 0.0 if start_s else row["duration_s"]
        if not said_s:
            asked.append((index, path, start_s))
        elif path is None or _holds_something(path):
            seconds[index] = said_s
    chunks = [asked[first : first + HEADERS_TOGETHER] for first in range(0, len(asked), HEADERS_TOGETHER)]
    for chunk, found in zip(chunks, _ask_all(dataset, chunks), strict=True):
        seconds[[index for index, _, _ in chunk]] = found
    return np.where((seconds >= SHORTEST_S) & (seconds <= WINDOW_S), seconds, np.float32(0))


def _ask_all(dataset: Dataset, chunks: Sequence[list[tuple[int, str | None, float | None]]]) -> Iterator[list[float]]:
    """Of each chunk the seconds. Threads wait together for a disk that answers late; where it is fast they would only
    wait for each other."""
    started = time.perf_counter()
    for chunk in chunks[:1]:
        yield _ask(dataset, chunk)
    is_late = time.perf_counter() - started > LATE_S * HEADERS_TOGETHER
    with ThreadPoolExecutor(THREADS if is_late else 1) as pool:
        yield from pool.map(partial(_ask, dataset), chunks[1:])


def _ask(dataset: Dataset, chunk: Sequence[tuple[int, str | None, float | None]]) -> list[float]:
    """Seconds by the headers of some rows; 0 for one that has none."""
    return [_ask_one(dataset, *each) for each in chunk]


def _ask_one(dataset: Dataset, index: int, path: str | None, start_s: float | None) -> float:
    try:
        return measure_seconds(path if path is not None else cast(Any, dataset[index])["audio"]["bytes"], start_s)
    except AudioError:
        return 0.0


def _holds_something(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def hear(
    dataset: Dataset, chosen: Bool[np.ndarray, "row"], scored: ScoredRecordings | None
) -> Iterator[tuple[int, Mapping[str, Any], Heard]]:
    """(index, id and place, what was heard) of the chosen rows, in order.

    Args:
        scored: what they are looked up among; None where they are scored themselves.
    """
    rows, indices = dataset.select_columns(HEARD_COLUMNS), np.flatnonzero(chosen)
    chunks = [indices[first : first + TOGETHER] for first in range(0, len(indices), TOGETHER)]
    with ThreadPoolExecutor(THREADS) as pool:
        # Rows are read in the threads: handed over, the sound of a whole corpus would wait in the pool's queue.
        for number, chunk in enumerate(pool.map(partial(_listen_to, rows, scored), chunks), start=1):
            yield from chunk
            if number % CHUNKS_HELD == 0:
                let_go()
    let_go()


def _listen_to(
    dataset: Dataset, scored: ScoredRecordings | None, chunk: Int[np.ndarray, "row"]
) -> list[tuple[int, Mapping[str, Any], Heard]]:
    first, last = int(chunk[0]), int(chunk[-1]) + 1
    # A slice of a mapped file is no copy, other rows are gathered.
    columns = cast(dict[str, list[Any]], dataset[first:last] if last - first == len(chunk) else dataset[chunk])
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    find = scored.find if scored else None
    named = [{"id": row["id"], "place": row["place"]} for row in rows]
    return [(int(index), name, listen(row, find)) for index, name, row in zip(chunk, named, rows, strict=True)]
