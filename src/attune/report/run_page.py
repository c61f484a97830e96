"""report.html: one self-contained page of a run, to open, to send and to listen to. It loads nothing from anywhere."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any

import soundfile
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from attune.audio.waveform import SAMPLE_RATE_HZ, encode_wav
from attune.report.divergence import explain_divergence, find_divergence
from attune.report.errors import analyse_errors
from attune.report.figures import read_curves
from attune.report.record import (
    PredictionRow,
    RunRecord,
    compute_change,
    format_interval,
    format_percent,
    is_clear,
    predictions_path,
    read_predictions,
    read_record,
    write_atomically,
)
from attune.report.terms import choose_missed, describe_terms, list_term_panels
from attune.score.metrics import align
from attune.text.normalise import normalise

UTTERANCES_A_KIND = 8
AUDIO_CHARACTERS = 9_000_000  # of players on one page: with figures and texts it stays below 15 MB
NO_CHANGE = 0.0005  # rounds to 0.0 points of WER
Waveforms = Mapping[tuple[str, str], Float[Tensor, "sample"]]  # (panel, utterance id): 16 kHz


@dataclass(frozen=True)
class Difference:
    """A run of words under one operation: equal, substitute (both texts), delete (reference) or insert (hypothesis)."""

    operation: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Card:
    """One utterance on the page. `player` is a data URI; audio that a card above plays is linked, by `heard_at`; what
    has no room on the page any more is `left_out`."""

    row: PredictionRow
    anchor: str
    before: list[Difference]
    after: list[Difference]
    player: str | None
    heard_at: str | None
    left_out: bool = False


def write_run_page(folder: Path, waveforms: Waveforms) -> Path:
    """Write report.html from what lies in a run folder: run.json, predictions/, figures/, config.yaml.

    Args:
        waveforms: audio of the utterances that `choose_shown` chose; one that is missing shows no player.

    Raises:
        InputError: the folder holds no readable run.json, or a predictions table is damaged.
    """
    record = read_record(folder)
    panels = {panel: read_predictions(path) for panel, path in _find_predictions(folder, record)}
    template = Environment(
        loader=PackageLoader("attune", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("run_page.html.j2")
    page = template.render(
        record=record,
        summary=summarise(record),
        scores=[_describe_panel(record, name) for name in _list_panels(record)],
        facts=_list_facts(record),
        remarks=[told for told in (describe_remainder(record), describe_other_rates(record)) if told],
        interpolated=describe_interpolation(record),
        figures=[(path.stem, to_data_uri("image/png", path.read_bytes())) for path in _list_figures(folder)],
        errors=analyse_errors(panels) if panels.get("test") else None,
        divergence=explain_divergence(
            find_divergence(read_curves(folder / "metrics.csv")), str(record.config.get("keep", "best"))
        ),
        terms=list_term_panels(record),
        terms_told=describe_terms(record),
        panels=list(_make_cards(record, panels, waveforms)),
        config=_read_config(folder, record),
        percent=format_percent,
        interval=format_interval,
    )
    return write_atomically(folder / "report.html", page)


def choose_utterances(rows: Sequence[PredictionRow], limit: int = UTTERANCES_A_KIND) -> dict[str, list[PredictionRow]]:
    """The utterances worth hearing: at most `limit` of each kind, the gravest first; one may be of two kinds.

    Returns:
        worst: most word errors after. harmed: most errors gained. improved: most errors lost.
    """

    def take(score: Mapping[str, int]) -> list[PredictionRow]:
        chosen = sorted((row for row in rows if score[row.id] > 0), key=lambda row: (-score[row.id], row.words, row.id))
        return chosen[:limit]

    return {
        "worst": take({row.id: row.errors_after for row in rows}),
        "harmed": take({row.id: row.errors_after - row.errors_before for row in rows}),
        "improved": take({row.id: row.errors_before - row.errors_after for row in rows}),
    }


def choose_shown(record: RunRecord, panel: str, rows: Sequence[PredictionRow]) -> dict[str, list[PredictionRow]]:
    """What `choose_utterances` takes, and in which most terms of the run's vocabulary were missed."""
    return {**choose_utterances(rows), "missed": choose_missed(record, panel, rows)}


def summarise(record: RunRecord) -> str:
    """One sentence: what fine-tuning gained on the target, and what it forgot. What may be chance is called so."""
    means = _name_means(record)
    if not means:
        wer = format_percent(record.result.get("test", {}).get("wer"))
        return f"Nothing was trained: the untouched model has a word error rate of {wer} % on the target."
    change = compute_change(record.baseline.get("test", {}), record.result.get("test", {}))
    if change is None:
        return "The target was not scored both before and after, so nothing can be said about what this run gained."
    before, after = record.baseline["test"], record.result["test"]
    target = f"{means} {_describe_change(change, before['wer'])} on the target"
    doubtful = abs(change) >= NO_CHANGE and not is_clear(before, after)
    doubt = ", a change that the 95 % intervals do not tell from chance" if doubtful else ""
    return f"{target}{doubt}; {_describe_retention(record)}."


def describe_remainder(record: RunRecord) -> str:
    """The WER of the test utterances whose sentence is not learnt, beside the whole; "" where no sentence is shared."""
    before, after = (scores.get("test", {}).get("remainder") for scores in (record.baseline, record.result))
    rest = after or before
    if not rest:
        return ""
    whole = (record.result.get("test") or record.baseline["test"])["utterances"]
    shared = f"{whole - rest['utterances']} of the {whole} test utterances have a sentence that is learnt too"
    if not rest["utterances"]:
        return f"{shared}; no other is left to be scored by itself."
    rates = " → ".join(format_percent(each["wer"]) for each in (before, after) if each)
    return f"{shared}; the WER of the other {rest['utterances']} is {rates} %."


def describe_other_rates(record: RunRecord) -> str:
    """The target's WER as other publications count it; "" in records without it."""
    after = record.result.get("test", {})
    if after.get("wer_whisper") is None:
        return ""
    raw, theirs = format_percent(after.get("wer_raw")), format_percent(after["wer_whisper"])
    return f"The same transcripts of the target: {raw} % as written, {theirs} % by Whisper's own normaliser."


def _name_means(record: RunRecord) -> str:
    """What was done to the model between the two scores; "" for nothing."""
    shown = record.in_context.get("examples", 0)
    examples = "one example in context" if shown == 1 else f"{shown} examples in context"
    has_list = bool(record.vocabulary.get("bias") or record.vocabulary.get("prompt"))
    helps = " and ".join([examples] * bool(shown) + ["a list of terms"] * has_list)
    if record.parameters.get("trainable") == 0:
        return f"Without training, {helps}" if helps else ""
    return f"Fine-tuning with {helps}" if helps else "Fine-tuning"


def describe_interpolation(record: RunRecord) -> str:
    """What the kept model has of the whole way's gain and of its forgetting; "" where nothing was interpolated."""
    if not record.interpolation:
        return ""
    points = {point["alpha"]: point["wer"] for point in record.interpolation["points"]}
    start, chosen, end = points[0.0], record.interpolation["chosen"], max(points)
    if any(rate is None for wer in points.values() for rate in wer.values()):
        return f"Kept: {chosen:g} of the way to the trained model."
    gains = [f"{100 * (start['test'] - points[alpha]['test']):.1f}" for alpha in (chosen, end)]
    panels = [name for name in start if name.startswith("retention/")]
    rises = [sum(points[alpha][name] - start[name] for name in panels) / len(panels) for alpha in (chosen, end)]
    return (
        f"Kept: {chosen:g} of the way to the trained model. It has {gains[0]} of the {gains[1]} points that {end:g} of "
        f"the way gains on the target, and changes the WER on retention by {_format_points(rises[0])} instead of "
        f"{_format_points(rises[1])} points."
    )


def _describe_change(change: float, before: float) -> str:
    if abs(change) < NO_CHANGE:
        return "changed nothing"
    verb = "lowered the word error rate by" if change < 0 else "raised the word error rate by"
    relative = f" ({100 * abs(change) / before:.0f} % relative)" if before > 0 else ""
    return f"{verb} {100 * abs(change):.1f} points{relative}"


def _describe_retention(record: RunRecord) -> str:
    changes: dict[str, list[str]] = {"forgot": [], "kept": [], "gained": []}
    for name in _list_panels(record):
        before, after = record.baseline.get(name, {}), record.result.get(name, {})
        change = compute_change(before, after)
        if name.startswith("retention/") and change is not None:
            verdict = "kept" if not is_clear(before, after) else "forgot" if change > 0 else "gained"
            changes[verdict].append(f"“{name.removeprefix('retention/')}” ({_format_points(change)} points)")
    if not any(changes.values()):
        return "no retention panel was scored, so what it forgot is unknown"
    phrases = {"forgot": "forgot some of", "kept": "shows no clear change on", "gained": "also gained on"}
    said = [f"{phrases[verdict]} {', '.join(names)}" for verdict, names in changes.items() if names]
    return f"it {' and '.join(said)}"


def _format_points(change: float) -> str:
    return f"{100 * change:+.1f}".replace("-", "−")


def _list_panels(record: RunRecord) -> list[str]:
    return list(dict.fromkeys([*record.baseline, *record.result]))


def _describe_panel(record: RunRecord, name: str) -> dict[str, Any]:
    before, after = record.baseline.get(name, {}), record.result.get(name, {})
    change, clear = compute_change(before, after), is_clear(before, after)
    return {
        "name": name,
        "before": before,
        "after": after,
        "change": "n/a" if change is None else _format_points(change),
        "verdict": "" if change is None or not clear else "better" if change < 0 else "worse",
    }


def _list_facts(record: RunRecord) -> list[tuple[str, str]]:
    """(name, value with its unit) of everything that was measured; what was not is left out."""
    total = record.parameters.get("total")
    share = f" ({record.parameters['trainable'] / total:.1%})" if total and "trainable" in record.parameters else ""
    candidates: list[tuple[str, str, float | None]] = [
        ("Parameters", "{:,.0f}", total),
        ("Trainable", "{:,.0f}" + share, record.parameters.get("trainable")),
        ("Added", "{:,.0f}", record.parameters.get("added")),
        ("Optimiser steps", "{:,.0f}", record.train.get("steps")),
        ("Training time", "{:,.0f} s", record.train.get("seconds")),
        ("First step after", "{:,.1f} s", record.train.get("first_step_after_s")),
        ("Training speed", "{:,.1f} utterances/s", record.train.get("utterances_per_second")),
        ("Audio per second", "{:,.0f} s", record.train.get("audio_seconds_per_second")),
        ("Peak memory", "{:,.2f} GB", record.train.get("peak_memory_gb")),
        ("Energy", "{:,.1f} kJ", record.train.get("energy_kj")),
        ("Model FLOPs utilisation", "{:.1%}", record.train.get("mfu")),
        ("Scoring time", "{:,.0f} s", record.evaluate.get("seconds")),
        ("Scoring speed", "{:,.1f} utterances/s", record.evaluate.get("utterances_per_second")),
    ]
    return [(name, unit.format(value)) for name, unit, value in candidates if value is not None]


def _list_figures(folder: Path) -> list[Path]:
    return sorted((folder / "figures").glob("*.png"), key=lambda path: (path.stem != "learning_curves", path.stem))


def _read_config(folder: Path, record: RunRecord) -> str:
    path = folder / "config.yaml"
    if path.is_file():
        return path.read_text("utf-8")
    return json.dumps(record.config, indent=2, ensure_ascii=False)


def _find_predictions(folder: Path, record: RunRecord) -> list[tuple[str, Path]]:
    paths = [(panel, predictions_path(folder, panel)) for panel in _list_panels(record)]
    return [(panel, path) for panel, path in paths if path.is_file()]


def _make_cards(
    record: RunRecord, panels: Mapping[str, Sequence[PredictionRow]], waveforms: Waveforms
) -> Iterable[tuple[str, list[tuple[str, list[Card]]]]]:
    """(panel, [(kind, cards)]) for each panel that has predictions."""
    heard: dict[str, str] = {}  # audio: the anchor of the card that plays it
    numbers = count()
    for panel, utterances in panels.items():
        kinds = choose_shown(record, panel, utterances)
        yield (
            panel,
            [
                (kind, [_make_card(f"u{next(numbers)}", row, waveforms.get((panel, row.id)), heard) for row in rows])
                for kind, rows in kinds.items()
                if rows
            ],
        )


def _make_card(
    anchor: str, row: PredictionRow, waveform: Float[Tensor, "sample"] | None, heard: dict[str, str]
) -> Card:
    player = None if waveform is None else encode_audio(waveform)
    left_out = player is not None and player not in heard and sum(map(len, heard)) + len(player) > AUDIO_CHARACTERS
    player = None if left_out else player
    first = heard.setdefault(player, anchor) if player else anchor
    return Card(
        row=row,
        anchor=anchor,
        before=compute_differences(row.reference, row.before),
        after=compute_differences(row.reference, row.after),
        player=player if first == anchor else None,
        heard_at=first if first != anchor else None,
        left_out=left_out,
    )


def compute_differences(reference: str, hypothesis: str) -> list[Difference]:
    """The word alignment of two raw texts, normalised as for WER, with neighbours of one operation joined."""
    pairs = align(normalise(reference), normalise(hypothesis))
    return [
        Difference(operation, *(" ".join(words).strip() for words in list(zip(*run, strict=True))[1:]))
        for operation, run in ((operation, list(run)) for operation, run in groupby(pairs, key=lambda pair: pair[0]))
    ]


def encode_audio(waveform: Float[Tensor, "sample"]) -> str:
    """A data URI of MP3 at 16 kHz: about 6 kB a second, and every browser plays it.

    Ogg is as small, but silent in Safari before 18; FLAC plays everywhere at three times the size. A libsndfile that
    was built without MP3 gives WAV.
    """
    if "MP3" not in soundfile.available_formats():
        return to_data_uri("audio/wav", encode_wav(waveform.cpu()))
    buffer = io.BytesIO()
    samples = waveform.detach().float().cpu().clamp(-1, 1).numpy()
    # On libsndfile's scale from 0 (best) to 1 (smallest); 0.7 gives some 45 kbit/s.
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="MP3", bitrate_mode="VARIABLE", compression_level=0.7)
    return to_data_uri("audio/mpeg", buffer.getvalue())


def to_data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
