"""Score a Whisper on every panel of a corpus, before training and after it."""

import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import lightning as L
from torch import nn

from attune.audio.context import Context
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper
from attune.score.metrics import Prediction
from attune.score.panel import PanelScore, score_panel
from attune.train.module import WhisperModule


@dataclass
class Scores:
    """What a model wrote on each panel, and what that is worth."""

    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    panels: dict[str, PanelScore] = field(default_factory=dict)

    def add(self, other: "Scores") -> None:
        self.predictions |= other.predictions
        self.panels |= other.panels

    def select(self, panels: Sequence[str]) -> "Scores":
        return Scores({name: self.predictions[name] for name in panels}, {name: self.panels[name] for name in panels})


def score(
    trainer: L.Trainer,
    module: WhisperModule,
    data: SpeechDataModule,
    panels: Sequence[str],
    context: Context | None = None,
    in_context: bool = False,
) -> Scores:
    """Transcribe panels by real decoding and score them.

    Args:
        panels: names of splits.
        context: another one than the run's; the panel is then called `PANEL@NAME`.
        in_context: with the examples of data.in_context before each utterance; the untouched model has none.
    """
    scores = Scores()
    for panel in panels:
        started = time.perf_counter()
        trainer.test(module, data.panel_dataloader(panel, context, in_context), verbose=False)
        seconds = time.perf_counter() - started
        name = f"{panel}@{context.name}" if context else panel
        scores.predictions[name] = list(module.predictions)
        scores.panels[name] = score_panel(module.predictions, seconds)
    return scores


def score_other(
    trainer: L.Trainer,
    module: WhisperModule,
    whisper: Whisper,
    data: SpeechDataModule,
    panels: Sequence[str],
    context: Context | None = None,
) -> Scores:
    """Score another Whisper than the module's, with its own tokens; the module gets its own back.

    For a language that finetune=new_tokens has given a token, the other one is asked for the relative that it knows.
    """
    kept, tokens = module.whisper, data.tokens
    theirs = copy(whisper.tokens)
    theirs.relatives = tokens.relatives
    module.whisper, data.tokens = whisper, theirs
    try:
        return score(trainer, module, data, panels, context)
    finally:
        module.whisper, data.tokens = kept, tokens


def check_examples(data: SpeechDataModule, network: nn.Module) -> None:
    """Refuse examples in context where no decoder reads their texts.

    Raises:
        InputError: transcripts come from a CTC head.
    """
    if data.examples and find_writer(network) is not None:
        raise InputError(
            f"data.in_context={data.examples} gives the decoder examples to go on from, and here a CTC head writes. "
            "Set data.in_context=0, or finetune.writes=decoder."
        )


def sum_seconds(panels: Mapping[str, PanelScore]) -> dict[str, float | None]:
    """The `evaluate` part of run.json: wall time of scoring, and utterances a second."""
    seconds = sum(panel.seconds for panel in panels.values())
    utterances = sum(panel.utterances for panel in panels.values())
    return {"seconds": seconds, "utterances_per_second": utterances / seconds if seconds else None}
