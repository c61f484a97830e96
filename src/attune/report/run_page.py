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
from attune.report.learning_curves import read_curves
from attune.report.predictions import PredictionRow, predictions_path, read_predictions
from attune.report.record import (
    RunRecord,
    compute_change,
    format_interval,
    format_percent,
    is_clear,
    list_panels,
    read_record,
    write_atomically,
)
from attune.report.sentences import (
    describe_interpolation,
    describe_other_rates,
    describe_remainder,
    describe_units,
    format_points,
    summarise,
)
from attune.report.terms import choose_missed, describe_terms, list_term_panels
from attune.score.metrics import align
from attune.text.counted import count_of
from attune.text.normalise import NORMALISER, describe_normalisers, normalise, spells_without_spaces

UTTERANCES_A_KIND = 8
AUDIO_CHARACTERS = 9_000_000  # of players on one page: with figures and texts it stays below 15 MB
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
        scores=[_describe_panel(record, name) for name in list_panels(record)],
        facts=_list_facts(record),
        remarks=[told for told in (describe_remainder(record), describe_other_rates(record)) if told],
        counted=_describe_words(record, panels),
        units=describe_units(record),
        interpolated=describe_interpolation(record),
        figures=[(path.stem, to_data_uri("image/png", path.read_bytes())) for path in _list_figures(folder)],
        errors=analyse_errors(panels) if panels.get("test") else None,
        divergence=explain_divergence(
            find_divergence(read_curves(folder / "metrics.csv"), record.loss.get("monitored")),
            str(record.config.get("keep", "best")),
        ),
        terms=list_term_panels(record),
        terms_told=describe_terms(record),
        panels=list(_make_cards(record, panels, waveforms)),
        config=_read_config(folder, record),
        percent=format_percent,
        interval=format_interval,
        count_of=count_of,
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


def _describe_panel(record: RunRecord, name: str) -> dict[str, Any]:
    before, after = record.baseline.get(name, {}), record.result.get(name, {})
    change, clear = compute_change(before, after), is_clear(before, after)
    return {
        "name": name,
        "before": before,
        "after": after,
        "change": "n/a" if change is None else format_points(change),
        "verdict": "" if change is None or not clear else "better" if change < 0 else "worse",
    }


def _describe_words(record: RunRecord, panels: Mapping[str, Sequence[PredictionRow]]) -> str:
    """What was counted as words; "" where nothing was, or by a normaliser of another attune."""
    languages = {row.language for rows in panels.values() for row in rows}
    return f"{describe_normalisers(languages)}." if languages and record.normaliser == NORMALISER else ""


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
    paths = [(panel, predictions_path(folder, panel)) for panel in list_panels(record)]
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
        before=compute_differences(row.reference, row.before, row.language),
        after=compute_differences(row.reference, row.after, row.language),
        player=player if first == anchor else None,
        heard_at=first if first != anchor else None,
        left_out=left_out,
    )


def compute_differences(reference: str, hypothesis: str, language: str | None = None) -> list[Difference]:
    """The word alignment of two raw texts, normalised as for WER, with neighbours of one operation joined. Where a
    language is written without spaces, each character is a word."""
    pairs = align(normalise(reference, language), normalise(hypothesis, language))
    space = "" if spells_without_spaces(language) else " "
    return [
        Difference(operation, *(space.join(words).strip() for words in list(zip(*run, strict=True))[1:]))
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
