"""Examples in context: training utterances that are heard and read before the utterance that is scored.

    encoder   | audio 1 | pause | audio 2 | pause | utterance | silence
    decoder   <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> text 1 text 2 | hypothesis

The decoder is given the examples' texts behind the task tokens, as if it had written them itself, and goes on with the
utterance. Nothing is trained (Wang et al. 2023, arXiv:2309.07081).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset

from attune.audio.waveform import SAMPLE_RATE_HZ, WINDOW_S
from attune.data.audit import load_row
from attune.data.batch import Example
from attune.data.few_shot import check_per, draw_shots, list_speakers
from attune.errors import InputError
from attune.text.tokens import Tokens

PAUSE_S = 0.5  # between two utterances: long enough to be heard as a break
PER = ("all", "speaker")


@dataclass(frozen=True)
class Shown:
    """One example.

    Args:
        index: in the training split.
        seconds: of the 30 s window that it takes, the pause behind it included.
        ids: of its text.
    """

    index: int
    seconds: float
    ids: tuple[int, ...]


class InContext:
    """Which examples stand before which utterance.

    Args:
        train: where they come from; audited, so that durations are known. Utterances without speech are never shown.
        tokens: of the Whisper that is scored.
        count: examples before each utterance, at least 1.
        per: all: the same ones before every utterance; speaker: of its own speaker, where training has that one.
        seed: of the draw.

    Raises:
        InputError: there are no such settings, or nothing to show.
    """

    def __init__(self, train: Dataset, tokens: Tokens, count: int, per: str = "all", seed: int = 0):
        check_in_context(count, per)
        self.train = train
        self.tokens = tokens
        self.count = count
        rows: list[dict[str, Any]] = train.remove_columns("audio").to_list()  # type: ignore[assignment]
        spoken = [index for index, row in enumerate(rows) if row["text"].strip()]
        if not spoken:
            raise InputError("data.in_context needs training utterances with a text, and there are none.")
        self.everyone = [self._show(spoken[i], rows) for i in draw_shots(["all"] * len(spoken), count, seed)]
        self.of_speaker: dict[str, list[Shown]] = {}
        if per == "speaker":
            names = list_speakers(train, "data.in_context_per")
            speakers = [names[index] for index in spoken]
            for i in draw_shots(speakers, count, seed):
                self.of_speaker.setdefault(speakers[i], []).append(self._show(spoken[i], rows))

    def _show(self, index: int, rows: Sequence[Mapping[str, Any]]) -> Shown:
        row = rows[index]
        ids = tuple(self.tokens.text(row["text"], row["language"]))
        return Shown(index, row["duration_s"] + PAUSE_S, ids)

    def plan(self, scored: Dataset) -> list[list[Shown]]:
        """The examples before each utterance of a split; one that does not fit is left out, and the next one tried."""
        return [self._choose(row) for row in scored.remove_columns("audio").to_list()]  # type: ignore[arg-type]

    def _choose(self, row: Mapping[str, Any]) -> list[Shown]:
        # A prompt and the examples share half of the decoder's positions; the other half is the hypothesis's.
        tokens_left = self.tokens.max_tokens // 2
        tokens_left -= len(self.tokens.prompt(row["prompt"], room=tokens_left))
        seconds_left = WINDOW_S - row["duration_s"]
        chosen: list[Shown] = []
        for shown in self.of_speaker.get(row["speaker"], self.everyone):
            if shown.seconds <= seconds_left and len(shown.ids) <= tokens_left:
                chosen.append(shown)
                seconds_left -= shown.seconds
                tokens_left -= len(shown.ids)
        return chosen

    def put_before(self, example: Example, chosen: Sequence[Shown]) -> Example:
        """The example with others before it, in what scoring reads: its waveform and its prefix."""
        if not chosen:
            return example
        pause = torch.zeros(int(PAUSE_S * SAMPLE_RATE_HZ))
        lead = torch.cat([piece for shown in chosen for piece in (load_row(self.train[shown.index]), pause)])
        return replace(
            example,
            waveform=torch.cat([lead, example.waveform]),
            lead=lead.shape[0],
            prefix=[*example.prefix, *(id for shown in chosen for id in shown.ids)],
        )

    def count_examples(self, panels: Sequence[Dataset]) -> dict[str, int]:
        """The `in_context` part of run.json: asked a sentence, how many utterances, and what was given or left out."""
        given = [len(chosen) for scored in panels for chosen in self.plan(scored)]
        left_out = self.count * len(given) - sum(given)
        return {"examples": self.count, "utterances": len(given), "given": sum(given), "left_out": left_out}


def check_in_context(count: int, per: str) -> None:
    """Refuse what cannot be asked for; 0 examples are none."""
    if not isinstance(count, int) or count < 0:
        raise InputError(f"data.in_context is {count}; accepted: examples before each scored utterance, 0 or more.")
    check_per("data.in_context_per", per, PER)


def sum_seconds(chosen: Sequence[Shown]) -> float:
    """How long the examples of one utterance are, pauses included."""
    return sum(shown.seconds for shown in chosen)
