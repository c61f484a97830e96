"""Does an exported model hear what it heard before? The run's test set, by attune and by the format's own program."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import pad

from attune.audio.waveform import SAMPLE_RATE_HZ, WINDOW_S
from attune.data.audit import audit_corpus, load_row
from attune.errors import InputError
from attune.model.decode import cap_tokens, decode
from attune.model.whisper import Whisper
from attune.score.metrics import Prediction
from attune.score.panel import PanelScore, score_panel
from attune.text.tokens import Tokens
from attune.use.formats.base import Runtime

WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
BATCH = 8  # windows of 30 s at a time


@dataclass(frozen=True)
class Parity:
    """What two programs made of the same utterances, both in windows of 30 s and without prompts.

    Args:
        runtime: the other program, with its version.
        own: attune's score of the exported weights.
        other: the program's.
        differing: (attune's transcript, the other one) where they are not the same.
    """

    runtime: str
    own: PanelScore
    other: PanelScore
    differing: list[tuple[str, str]]

    @property
    def points(self) -> float:
        """The other WER less attune's, in percentage points."""
        return 100 * (self.other.wer - self.own.wer)

    def describe(self) -> str:
        """One sentence."""
        count = len(self.differing)
        return (
            f"{self.runtime} on the {self.own.utterances} test utterances ({self.own.words} words): WER "
            f"{100 * self.other.wer:.2f} %, attune {100 * self.own.wer:.2f} %, a difference of {self.points:+.2f} "
            f"points; {count} {'transcript is' if count == 1 else 'transcripts are'} not the same."
        )


def read_test_set(corpus: Any, tokens: Tokens, rules: Any, count: int | None) -> Dataset:
    """The usable test utterances of a run's corpus, or the first `count` of them.

    Raises:
        InputError: the corpus is not where it was.
    """
    split = corpus.splits()["test"]
    if count is not None:
        split = split.select(range(min(count, len(split))))
    return audit_corpus({"test": split}, tokens, rules).splits["test"]


def compare(whisper: Whisper, runtime: Runtime, test: Dataset) -> Parity:
    """Transcribe every utterance with both.

    Args:
        whisper: the exported weights, in evaluation mode.
    """
    started = perf_counter()
    own = transcribe_all(whisper, test)
    between = perf_counter()
    other = list(transcribe_in_runtime(runtime, whisper.tokens, test))
    ended = perf_counter()
    pairs = [(a.hypothesis, b.hypothesis) for a, b in zip(own, other, strict=True)]
    scores = score_panel(own, between - started), score_panel(other, ended - between)
    return Parity(runtime.name, *scores, [pair for pair in pairs if pair[0] != pair[1]])


@torch.no_grad()
def transcribe_all(whisper: Whisper, test: Dataset) -> list[Prediction]:
    """By attune, in Whisper's whole window, as `test@full` is scored."""
    found: list[Prediction] = []
    rows = _rows(test)
    while batch := list(islice(rows, BATCH)):
        waveforms = [load_row(row) for row in batch]
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = torch.stack([pad(waveform, (0, WINDOW_SAMPLES - len(waveform))) for waveform in waveforms])
        states = whisper.encode(padded.to(whisper.network.device))
        tokens = whisper.tokens
        learned = tokens.prompt(None, room=tokens.max_tokens)
        prefixes = [[*learned, *tokens.prefix(row["language"], row["task"])] for row in batch]
        written = decode(whisper, states, prefixes, lengths.to(states.device))
        found += [
            _predict(row, tokens.transcript(ids), len(waveform))
            for row, ids, waveform in zip(batch, written, waveforms, strict=True)
        ]
    return found


def transcribe_in_runtime(runtime: Runtime, tokens: Tokens, test: Dataset) -> Iterator[Prediction]:
    """By another program, one by one, with the cap on what may be written that attune has too."""
    learned = tokens.prompt(None, room=tokens.max_tokens)
    for row in _rows(test):
        waveform = load_row(row)
        prefix = tokens.prefix(row["language"])
        limit = cap_tokens(tokens, [prefix], torch.tensor([len(waveform)]))[0]
        room = tokens.max_tokens - len(learned) - len(prefix) - 1
        language = tokens.language_code(row["language"]) if tokens.is_multilingual else "en"
        text = runtime.transcribe(waveform, language, row["task"], min(limit, room))
        yield _predict(row, text, len(waveform))


def _rows(test: Dataset) -> Iterator[Mapping[str, Any]]:
    yield from test  # type: ignore[misc]


def _predict(row: Mapping[str, Any], text: str, samples: int) -> Prediction:
    return Prediction(row["id"], row["text"], text, row["speaker"], row["language"], samples / SAMPLE_RATE_HZ)


def check(parity: Parity, most: float) -> None:
    """Raises InputError where the two WERs differ by more than `most` percentage points."""
    if not abs(parity.points) > most + 1e-9:  # also where no words were said, and there is no WER
        return
    own, other = parity.differing[0]
    raise InputError(
        f"{parity.describe()} At most {most:g} points are accepted (--max-difference), so nothing was kept. The first "
        f"of them: attune {own!r}, {parity.runtime} {other!r}."
    )
