"""attune evaluate of a model that train.py cannot load: scored in its own program, with the report of a run."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import GenerationConfig, WhisperTokenizer

from attune.audio.context import FullContext
from attune.data.module import SpeechDataModule
from attune.data.texts import Shared
from attune.errors import InputError
from attune.report.audit_page import leave_audit
from attune.report.finish import (
    describe_run,
    describe_test_set,
    finish_report,
    keep_record,
    print_result,
    start_record,
)
from attune.score.panel import score_panel
from attune.text.tokens import Tokens
from attune.train.loggers import close_wandb, make_loggers
from attune.train.scoring import Scores, find_accents, find_recordings
from attune.use.config import build, build_corpus, open_evaluation, plain
from attune.use.formats.base import Runtime
from attune.use.formats.layout import END
from attune.use.formats.parity import transcribe_in_runtime
from attune.use.formats.registry import FORMATS
from attune.use.screen import make_console, settle_screen


def evaluate(folder: Path, format: str, words: Sequence[str]) -> None:
    """Score every panel of a corpus and leave a run folder.

    Args:
        folder: holds a model of `format`: ctranslate2, ggml or onnx.
        words: of train.py, as attune evaluate makes them.

    Raises:
        InputError: the words, the corpus or the folder are wrong, or the program is not installed.
    """
    settle_screen()
    run = open_evaluation(words, f"{format}-evaluation")
    config, console, context = run.config, make_console(), build(run.config.context)
    if not isinstance(context, FullContext) or config.data.in_context or config.vocabulary:
        raise InputError(
            f"{folder} holds a {format} model, whose program hears each utterance by itself in a window of 30 s. Leave "
            "context=, data.in_context= and vocabulary= out."
        )
    tokens = read_tokens(folder)
    data = SpeechDataModule(
        build_corpus(config.data),
        tokens,
        context,
        max_rejected=config.data.max_rejected,
        workers=0,
        seed=config.seed,
        audit=plain(config.data).get("audit"),
        allow_leakage=True,
    )
    data.prepare()
    runtime = FORMATS[format].open(folder)
    run = run.start()
    leave_audit(run.folder, data.audit, config.name)
    record = start_record(plain(config), {"trainable": 0, "added": 0}, data)
    record.versions |= dict([runtime.name.split(" ")])  # type: ignore[arg-type]
    describe_run(console, record, data, run.folder, rate="none")
    console.print(f"heard by {runtime.name}", highlight=False, markup=False)
    loggers = make_loggers(run.folder, config.name, plain(config), **plain(config.logger))
    with keep_record(record, run.folder):
        scores = score(runtime, data)
        describe_test_set(console, scores.predictions["test"])
        for logger in loggers:
            logger.save()
        shown = finish_report(run.folder, record, scores, scores, data)
    print_result(console, record, run.folder, folder)
    close_wandb(loggers, {"baseline": record.baseline, "result": record.result, "train": record.train}, shown)


def score(runtime: Runtime, data: SpeechDataModule) -> Scores:
    """Transcribe and score every panel, as train/scoring.py does with a Whisper of ours."""
    scores = Scores()
    for panel in data.panels:
        split, started = data.splits[panel], time.perf_counter()
        heard = list(transcribe_in_runtime(runtime, data.tokens, split))
        seconds = time.perf_counter() - started
        recordings, accents = find_recordings(split), find_accents(split)
        predictions = [replace(each, recording=recordings.get(each.id), accent=accents.get(each.id)) for each in heard]
        learnt = data.audit.shared.get(panel, Shared()).ids
        spellings = data.tokens.tokenizer.english_spelling_normalizer
        scores.predictions[panel] = predictions
        scores.panels[panel] = score_panel(predictions, seconds, learnt=learnt, spellings=spellings)
    return scores


def read_tokens(folder: Path) -> Tokens:
    """The tokens of a model folder of any format, from its tokenizer.json.

    Raises:
        InputError: there is none.
    """
    if not (folder / "tokenizer.json").is_file():
        raise InputError(
            f"{folder} has no tokenizer.json, by which the corpus is read. Put that of the model beside it: the "
            "folder that it was converted from, or openai/whisper-... on the hub, has one."
        )
    tokens = Tokens(WhisperTokenizer.from_pretrained(folder))
    declared = None
    if (folder / "generation_config.json").is_file():
        declared = getattr(GenerationConfig.from_pretrained(folder), "is_multilingual", None)
    tokens.is_multilingual = tokens.end_of_text != END[False] if declared is None else bool(declared)
    return tokens
