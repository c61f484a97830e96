"""Score a Whisper on every panel of a corpus, before training and after it."""

import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import lightning as L
from datasets import Dataset
from torch import nn

from attune.audio.context import Context
from attune.data.module import SpeechDataModule
from attune.data.pace import find_paces
from attune.data.texts import Shared
from attune.data.vocabulary import Prompts
from attune.errors import InputError
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper
from attune.score.metrics import Prediction
from attune.score.panel import PanelScore, score_panel
from attune.train.aid import Aid
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
    aid: Aid | None = None,
) -> Scores:
    """Transcribe panels by real decoding and score them.

    Args:
        panels: names of splits.
        context: another one than the run's; the panel is then called `PANEL@NAME`.
        in_context: with the examples of data.in_context before each utterance; the untouched model has none.
        aid: with the help of the run's vocabulary; the untouched model has none.
    """
    scores = Scores()
    finder, frequency = (data.vocabulary.finder, data.vocabulary.frequency) if data.vocabulary else (None, None)
    for panel in panels:
        started = time.perf_counter()
        prompts = _choose_prompts(trainer, module, data, panel, context, aid)
        module.bias = aid.bias if aid else None
        trainer.test(module, data.panel_dataloader(panel, context, in_context, prompts), verbose=False)
        module.bias = None
        seconds = time.perf_counter() - started
        name = f"{panel}@{context.name}" if context else panel
        recordings, accents = find_recordings(data.splits[panel]), find_accents(data.splits[panel])
        predictions = [
            replace(each, recording=recordings.get(each.id), accent=accents.get(each.id)) for each in module.predictions
        ]
        scores.predictions[name] = predictions
        learnt = data.audit.shared.get(panel, Shared()).ids
        spellings = data.tokens.tokenizer.english_spelling_normalizer
        scores.panels[name] = score_panel(
            predictions, seconds, finder=finder, frequency=frequency, learnt=learnt, spellings=spellings
        )
    return scores


def _choose_prompts(
    trainer: L.Trainer,
    module: WhisperModule,
    data: SpeechDataModule,
    panel: str,
    context: Context | None,
    aid: Aid | None,
) -> Prompts | None:
    """The terms before each utterance; where they are those that were almost heard, it is transcribed once for that."""
    if aid is None or not aid.vocabulary.prompt:
        return None
    heard: dict[str, str] = {}
    if aid.needs_first_pass:
        trainer.test(module, data.panel_dataloader(panel, context), verbose=False)
        heard = {each.id: each.hypothesis for each in module.predictions}
    return aid.vocabulary.choose_prompts(data.splits[panel], data.tokens, heard)


def find_recordings(split: Dataset) -> dict[str, str]:
    """id -> the file that the utterance was cut from; {} where every utterance has a file of its own."""
    if all(start_s is None for start_s in split["start_s"]):
        return {}
    rows = split.select_columns(["id", "audio"])
    return {row["id"]: row["audio"]["path"] for row in rows if row["audio"]["path"]}  # type: ignore[index, call-overload]


def find_accents(split: Dataset) -> dict[str, str]:
    """id -> accent, of the utterances of which it is known."""
    return {id: accent for id, accent in zip(split["id"], split["accent"], strict=True) if accent}


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
    theirs.paces = theirs.paces | find_paces(data.splits, theirs)
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
            "Set data.in_context=0, or finetune=ctc finetune.writes=decoder."
        )


def sum_seconds(panels: Mapping[str, PanelScore]) -> dict[str, float | None]:
    """The `evaluate` part of run.json: wall time of scoring, and utterances a second."""
    seconds = sum(panel.seconds for panel in panels.values())
    utterances = sum(panel.utterances for panel in panels.values())
    return {"seconds": seconds, "utterances_per_second": utterances / seconds if seconds else None}
