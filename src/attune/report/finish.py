"""The beginning and the end of a run, as a person meets them: what will happen, what came of it, where it lies."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.text import Text
from torch import Tensor

from attune.data.module import SpeechDataModule
from attune.model.save import explain_additions
from attune.report.audit_page import describe_audit, summarise_audit
from attune.report.figures import plot_error_types, plot_interpolation, plot_log_mel, save_figures
from attune.report.learning_curves import CROSS_ENTROPY, plot_learning_curves
from attune.report.predictions import predictions_path, read_predictions, write_predictions
from attune.report.record import RunRecord, collect_git, collect_versions, result_table, write_record
from attune.report.run_page import choose_shown, write_run_page
from attune.report.sentences import describe_interpolation, describe_other_rates, describe_remainder, summarise
from attune.report.terms import describe_list, describe_terms
from attune.score.metrics import Prediction
from attune.score.panel import count_errors
from attune.score.significance import detectable_difference
from attune.score.statistics import choose_units, standard_error
from attune.text.counted import count_of
from attune.text.normalise import NORMALISER, describe_normalisers
from attune.train.callbacks.checkpoints import find_monitored
from attune.train.objective.preparation import describe_loss
from attune.train.scoring import Scores, sum_seconds

Waveforms = dict[tuple[str, str], Float[Tensor, "sample"]]


def start_record(
    config: Mapping[str, Any], parameters: dict[str, int], data: SpeechDataModule, objective: object = None
) -> RunRecord:
    """What is known before the first step; without an objective none is taken."""
    return RunRecord(
        name=config["name"],
        seed=config["seed"],
        config=dict(config),
        git=collect_git(Path.cwd()),
        versions=collect_versions(),
        parameters=parameters,
        context=data.context.name,
        loss=describe_loss(objective) | {"monitored": find_monitored(objective)} if objective else {},
        normaliser=NORMALISER,
        vocabulary=data.vocabulary.describe(data.tokens) if data.vocabulary else {},
        splits={name: measure_split(split) for name, split in data.splits.items()},
        in_context=data.in_context.count_examples([data.splits[p] for p in data.panels]) if data.in_context else {},
        audit=summarise_audit(data.audit),
        rejected=count_reasons(data),
    )


def count_reasons(data: SpeechDataModule) -> dict[str, int]:
    """reason: rows that were set aside for it so far."""
    return dict(Counter(each.reason.split(": ")[each.reason.startswith("late: ")] for each in data.list_rejections()))


def measure_split(split: Dataset) -> dict[str, float]:
    """How much a split holds, as run.json says it."""
    return {"utterances": len(split), "minutes": sum(split["duration_s"]) / 60}


@contextmanager
def keep_record(record: RunRecord, folder: Path) -> Iterator[None]:
    """run.json exists from the first moment and says how the run ended, however it ended. Of several processes the
    first writes it."""
    write = rank_zero_only(write_record)
    write(record, folder)
    try:
        yield
        record.status = "finished"
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        record.status = "interrupted" if interrupted else "failed"
        record.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        write(record, folder)


def describe_run(console: Console, record: RunRecord, data: SpeechDataModule, folder: Path, rate: str) -> None:
    """What is about to be done, in four lines."""
    counts = ", ".join(f"{name} {split['utterances']} ({_format_time(split)})" for name, split in record.splits.items())
    learning = record.parameters
    tell = partial(console.print, highlight=False, markup=False)  # a folder, a name or a term may hold brackets
    tell(Text.assemble((record.name, "bold"), f"  seed {record.seed}, context {record.context}, in {folder}"))
    tell(f"utterances: {counts}")
    told, *doubts = describe_audit(data.audit)
    tell(f"{told}; see {folder / 'audit.html'}")
    for doubt in doubts:
        tell(doubt, style="yellow")
    tell(describe_normalisers(data.languages))
    if data.drawn:
        tell(data.drawn)
    if record.vocabulary:
        tell(describe_list(record.vocabulary))
    if record.in_context:
        tell(_describe_examples(record.in_context))
    if data.rejections:
        utterances = "utterance" if len(data.rejections) == 1 else "utterances"
        tell(f"set aside: {len(data.rejections)} unusable {utterances}, see {folder / 'rejected.csv'}", style="yellow")
    if not learning["trainable"]:
        known = f" of {learning['total']:,}" if "total" in learning else ""  # other programs do not tell
        tell(f"parameters: none{known} learn, and no step is taken")
        return
    tell(
        f"parameters: {learning['trainable']:,} of {learning['total']:,} learn, {learning['added']:,} added; "
        f"peak learning rate {rate}",
    )


def _format_time(split: Mapping[str, float]) -> str:
    minutes = split["minutes"]
    return f"{minutes / 60:.2f} h" if minutes >= 30 else f"{minutes:.1f} min"


def _describe_examples(counts: Mapping[str, int]) -> str:
    wanted = counts["examples"] * counts["utterances"]
    fitting = f"; {counts['left_out']} of {wanted} do not fit, and are left out" if counts["left_out"] else ""
    shown = count_of(counts["examples"], "training utterance")
    return f"in context: {shown} before each that is scored, in the result{fitting}"


def describe_test_set(console: Console, predictions: Sequence[Prediction]) -> None:
    """How small a difference the test set can show, said before anything is trained: a larger one may be needed first.

    A difference of two models is taken to be as noisy as the rate of the untouched one: so it is where the errors of
    the two correlate by a half. The table of an ablation measures it.
    """
    counts = [(each, count_errors(each)) for each in predictions]
    spoken = [(each, count) for each, count in counts if count.words]
    if len(spoken) < 2:
        return
    units, name = choose_units([each.speaker for each, _ in spoken], [each.recording for each, _ in spoken])
    error, known = standard_error([count.total for _, count in spoken], [count.words for _, count in spoken], units)
    words = sum(count.words for _, count in spoken)
    console.print(
        f"test set: {words:,} words of {known} {name}s; it shows differences in WER from about "
        f"{100 * detectable_difference(error, known):.1f} points (four times of five, at the 5 % level)",
        highlight=False,
    )


def finish_report(
    folder: Path, record: RunRecord, untouched: Scores, tuned: Scores, data: SpeechDataModule
) -> list[tuple[str, str, str, str, Tensor]]:
    """Write predictions, figures and report.html; return (id, reference, before, after, waveform) of the shown ones."""
    record.baseline = {name: asdict(panel) for name, panel in untouched.panels.items()}
    record.result = {name: asdict(panel) for name, panel in tuned.panels.items()}
    record.evaluate = sum_seconds(tuned.panels)
    record.rejected = count_reasons(data)
    for panel, predictions in tuned.predictions.items():
        write_predictions(folder, panel, untouched.predictions[panel], predictions)
    record.status = "finished"  # the page below says so; a fault in drawing it turns it back
    waveforms = _collect_waveforms(folder, record, data)
    write_record(record, folder)
    _draw(folder, record, waveforms)
    write_run_page(folder, waveforms)
    rows = {row.id: row for row in read_predictions(predictions_path(folder, "test"))}
    shown = [(rows[id], waveform) for (panel, id), waveform in waveforms.items() if panel == "test"]
    return [(row.id, row.reference, row.before, row.after, waveform) for row, waveform in shown]


def print_result(console: Console, record: RunRecord, folder: Path, foreign: Path | None = None) -> None:
    """One table, one sentence, and where to look; `foreign` is a model of another program, of which no copy is kept."""
    console.print(result_table(record))
    tell = partial(console.print, highlight=False, markup=False)
    tell(summarise(record))
    for told in (describe_remainder(record), describe_other_rates(record)):
        if told:
            tell(told)
    if told := describe_terms(record):
        tell(told)
    if record.interpolation:
        tell(describe_interpolation(record))
    model = foreign or folder / "model"
    tell(f"report: {folder / 'report.html'}   model: {model}", soft_wrap=True)
    if foreign is None and (explained := explain_additions(folder / "model")):
        tell(explained, style="yellow", soft_wrap=True)


def _collect_waveforms(folder: Path, record: RunRecord, data: SpeechDataModule) -> Waveforms:
    """The audio of exactly the utterances that the page shows."""
    waveforms: Waveforms = {}
    for panel in record.result:
        chosen = choose_shown(record, panel, read_predictions(predictions_path(folder, panel)))
        for row in (row for rows in chosen.values() for row in rows):
            waveforms[panel, row.id] = data.waveform(panel.split("@")[0], row.id)
    return waveforms


def _draw(folder: Path, record: RunRecord, waveforms: Waveforms) -> None:
    rows = {row.id: row for row in read_predictions(predictions_path(folder, "test"))}
    figures = {
        "learning_curves": plot_learning_curves(folder / "metrics.csv", record.loss or CROSS_ENTROPY),
        "error_types": plot_error_types(record),
        "interpolation": plot_interpolation(record),
    }
    first = next(((id, waveform) for (panel, id), waveform in waveforms.items() if panel == "test"), None)
    if first:
        row = rows[first[0]]
        figures["log_mel"] = plot_log_mel(first[1], row.reference, row.after)
    save_figures(folder, figures)
