"""Two different transcripts of each utterance, for a person to choose between."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.text.normalise import normalise
from attune.train.objective.hypotheses import FromHypotheses

DRAWN = ("audio", "id", "round", "model", "texts")  # what every row of candidates.jsonl has


@dataclass(frozen=True)
class Wanted:
    """What people are asked about; it stays the same for as long as they are.

    Args:
        model: who writes the transcripts: a run folder, a model folder, a hub name, or 'nano'.
        data: words for train.py that name the corpus; () is the run's own.
        limit: training utterances, drawn by the seed, at least 1.
        samples: tries to draw a transcript that differs from what the model writes by itself, at least 1.
        temperature: that they are drawn at, above 0.
        seed: of the draws, and of which transcript is called A.

    Raises:
        InputError: there are no such settings.
    """

    model: str
    data: Sequence[str] = ()
    limit: int = 100
    samples: int = 8
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1 or self.samples < 1 or not self.temperature > 0:
            raise InputError(
                f"--limit={self.limit} --samples={self.samples} --temperature={self.temperature:g}: accepted are 1 or "
                "more utterances, 1 or more tries, and a temperature above 0."
            )


@torch.no_grad()
def draw_candidates(
    whisper: Whisper, data: SpeechDataModule, wanted: Wanted, round: int, known: Collection[str]
) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """(id, two transcripts) of one training utterance after the other, in an order drawn by the seed.

    The first is what the model writes by itself, the second was drawn. They are None where no try gave another text.

    Args:
        round: another one draws others.
        known: ids that are left out.
    """
    attempts = FromHypotheses(wanted.samples, wanted.temperature, anchor=0.0)
    attempts.seed, attempts.step = wanted.seed, round
    device = next(whisper.parameters()).device
    for batch in data.one_by_one("train", len(data.splits["train"])):
        if batch.ids[0] in known:
            continue
        batch = batch.to(device)
        states = whisper.encode(batch.waveform)
        likeliest = attempts.find(whisper, states, batch, 1).texts[0]
        yield batch.ids[0], choose_two(likeliest, attempts.draw(whisper, states, batch).texts, batch.languages[0])


def choose_two(likeliest: str, drawn: Sequence[str], language: str | None = None) -> tuple[str, str] | None:
    """The likeliest transcript, and the first drawn one that has other words; if none has, one that is written
    otherwise: people may care for capitals and commas too. White space is no difference."""
    first, *others = (" ".join(text.split()) for text in (likeliest, *drawn))
    spoken = (text for text in others if normalise(text, language) != normalise(first, language))
    second = next(spoken, None) or next((text for text in others if text != first), None)
    return None if second is None else (first, second)


def describe_candidate(about: dict[str, Any], round: int, model: str, texts: tuple[str, str] | None) -> dict[str, Any]:
    """A row of candidates.jsonl; `texts` is null where there was nothing to choose."""
    return {**about, "round": round, "model": model, "texts": list(texts) if texts else None}
