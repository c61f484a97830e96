"""What settings differ by on the same utterances, read from the predictions of their runs, and whether it is chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from pathlib import Path
from statistics import median

import numpy as np

from attune.errors import InputError
from attune.report.compare import Row
from attune.report.predictions import PredictionRow, predictions_path, read_predictions
from attune.report.record import RunRecord
from attune.score.significance import Effect, detectable_difference, holm, matched_pairs, weigh
from attune.score.statistics import choose_units, standard_error
from attune.text.counted import count_of
from attune.text.normalise import normalise

TARGET = "test"
Panels = dict[str, list[PredictionRow]]  # of a run: the utterances that have words, in the order of their ids


@dataclass(frozen=True, kw_only=True)
class PanelRow:
    """One setting on one panel, against the untouched model. Rates are fractions; p_holm is over all such rows.

    The difference is None where no other model was scored before, as in attune evaluate.
    """

    setting: str
    panel: str
    runs: int
    utterances: int
    words: int
    units: str
    wer_before: float
    wer_after: float
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None


@dataclass(frozen=True)
class Differences:
    """The rows with their differences, every panel of every setting, and in words what they rest on."""

    rows: list[Row]
    panels: list[PanelRow]
    notes: list[str]


def read_panels(runs: Sequence[tuple[Path, RunRecord]]) -> dict[str, Panels]:
    """folder -> the predictions of each finished run; a panel whose table is missing or damaged is left out."""
    found: dict[str, Panels] = {}
    for folder, record in runs:
        panels = {name: _read(predictions_path(folder, name)) for name in record.result if record.status == "finished"}
        found[str(folder)] = {name: rows for name, rows in panels.items() if rows}
    return found


def _read(path: Path) -> list[PredictionRow]:
    try:
        return sorted((row for row in read_predictions(path) if row.words), key=lambda row: row.id)
    except InputError:
        return []


def check_comparable(runs: Sequence[tuple[Path, RunRecord]], panels: Mapping[str, Panels]) -> None:
    """Refuse runs whose numbers are of different things.

    Raises:
        InputError: two finished runs were scored on different test sets, or on words of different normalisers.
    """
    finished = [(folder, record) for folder, record in runs if record.status == "finished"]
    named = [(folder, record.normaliser) for folder, record in finished if record.normaliser]
    for folder, normaliser in named[1:]:
        if normaliser != named[0][1]:
            _refuse(named[0][0], folder, f"WER was computed with the normalisers {named[0][1]!r} and {normaliser!r}")
    scored = [(folder, panels[str(folder)][TARGET]) for folder, _ in finished if TARGET in panels[str(folder)]]
    for folder, rows in scored[1:]:
        if difference := _find_difference(scored[0][1], rows):
            _refuse(scored[0][0], folder, difference)


def _find_difference(first: Sequence[PredictionRow], second: Sequence[PredictionRow]) -> str:
    """What differs between two test sets; "" for nothing."""
    one, other = ({row.id: row for row in rows} for rows in (first, second))
    if one.keys() != other.keys():
        odd = min(one.keys() ^ other.keys())
        return (
            f"their test sets have {len(one)} and {len(other)} utterances with words, {len(one.keys() & other.keys())} "
            f"of them in both; {odd!r} is in one alone"
        )
    for identifier, row in one.items():
        if row.reference != other[identifier].reference:
            return (
                f"for utterance {identifier!r} they have {row.reference!r} and {other[identifier].reference!r} as text"
            )
        if row.words != other[identifier].words:
            return (
                f"of the text {row.reference!r} they count {row.words} and {other[identifier].words} words, "
                "by different normalisers"
            )
    return ""


def _refuse(first: Path, second: Path, difference: str) -> None:
    raise InputError(
        f"{first} and {second} cannot stand in one table: {difference}. Give runs of one test set and one normaliser "
        "at a time, as in: attune report RUN RUN --output-dir=DIR"
    )


def add_differences(rows: Sequence[Row], panels: Mapping[str, Panels]) -> Differences:
    """Give each row its differences to the untouched model and to the first setting, on the same utterances.

    A row that stands for a setting (the mean over its seeds, or its only run) has p-values, corrected after Holm: those
    against the untouched model over all settings and panels, those against the first setting over all settings.
    Each single run has the matched-pairs test as well, against the first setting's run of the same seed.

    Args:
        panels: folder -> its predictions, as `read_panels` gives them.
    """
    groups = {row.setting: _find_runs(row.setting, rows, panels) for row in rows}
    measured = [each for setting, runs in groups.items() for each in _measure_setting(setting, runs)]
    corrected = holm([row.p for row, _ in measured])
    table = [replace(row, p_holm=p) for (row, _), p in zip(measured, corrected, strict=True)]
    effects = {row.setting: effect for row, effect in measured if row.panel == TARGET}
    first = next((setting for setting, runs in groups.items() if _of_target(runs)), None)
    leads = {setting: _lead(groups, first, setting) for setting in effects if first and setting != first}
    lead_p = dict(zip(leads, holm([effect.p if effect else None for effect in leads.values()]), strict=True))
    p_holm = {row.setting: row.p_holm for row in table if row.panel == TARGET}
    changed = []
    for row in rows:
        if row.is_setting and row.setting in effects:
            row = _fill(row, "to_untouched", effects[row.setting], p_holm[row.setting])
            row = _fill(row, "to_first", leads.get(row.setting), lead_p.get(row.setting))
        if row.folder and TARGET in panels.get(row.folder, {}):
            row = _match(row, rows, panels, first)
        changed.append(row)
    return Differences(changed, table, _describe(table, [effect for _, effect in measured], list(leads.values())))


def _find_runs(setting: str, rows: Sequence[Row], panels: Mapping[str, Panels]) -> list[Panels]:
    folders = [row.folder for row in rows if row.setting == setting and row.folder and row.runs]
    return [panels[folder] for folder in folders if panels.get(folder)]


def _of_target(runs: Sequence[Panels]) -> list[list[PredictionRow]]:
    return [panels[TARGET] for panels in runs if TARGET in panels]


def _measure_setting(setting: str, runs: Sequence[Panels]) -> list[tuple[PanelRow, Effect]]:
    """The panels that all runs of a setting have, with the effect on each."""
    measured = []
    is_alone = all(row.before == row.after for panels in runs for table in panels.values() for row in table)
    for panel in runs[0] if runs else []:
        tables = [panels[panel] for panels in runs if panel in panels]
        if len(tables) < len(runs) or any(_find_difference(tables[0], table) for table in tables[1:]):
            continue
        effect, units = _weigh([_errors(tables[0], before=True)], [_errors(table) for table in tables], tables[0])
        words = sum(row.words for row in tables[0])
        before = sum(row.errors_before for row in tables[0]) / words
        after = before + effect.value
        if all(row.before == row.after for table in tables for row in table):  # nothing was compared
            effect = replace(effect, p=nan, test_se=nan)
        if is_alone:  # no training, as in attune evaluate: there is no untouched model beside this one
            effect = replace(effect, value=nan, low=nan, high=nan)
        row = PanelRow(
            setting=setting,
            panel=panel,
            runs=len(tables),
            utterances=len(tables[0]),
            words=words,
            units=units,
            wer_before=before,
            wer_after=after,
            difference=_known(effect.value),
            low=_known(effect.low),
            high=_known(effect.high),
            p=_known(effect.p),
        )
        measured.append((row, effect))
    return measured


def _lead(groups: Mapping[str, Sequence[Panels]], first: str | None, setting: str) -> Effect | None:
    """A setting against the first one; None where it has no test set in common with it."""
    ours, theirs = _of_target(groups[first or ""]), _of_target(groups[setting])
    if _find_difference(ours[0], theirs[0]):
        return None
    return _weigh([_errors(table) for table in ours], [_errors(table) for table in theirs], ours[0])[0]


def _weigh(
    ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], table: Sequence[PredictionRow]
) -> tuple[Effect, str]:
    """The effect of theirs less ours, each a list of errors an utterance for every seed, and the unit that was used."""
    words = np.array([row.words for row in table])
    units, name = choose_units([row.speaker for row in table], [row.recording for row in table])
    one, other = np.array(ours), np.array(theirs)
    # Whole numbers: the difference of two means, times both counts of seeds.
    difference = other.sum(axis=0) * len(one) - one.sum(axis=0) * len(other)
    error, count = standard_error(difference, words * len(one) * len(other), units)
    rates = [runs.sum(axis=1) / words.sum() for runs in (one, other)]
    return weigh(
        float(rates[1].mean() - rates[0].mean()), error, count, *(list(map(float, each)) for each in rates)
    ), name


def _errors(table: Sequence[PredictionRow], before: bool = False) -> list[int]:
    return [row.errors_before if before else row.errors_after for row in table]


def _fill(row: Row, name: str, effect: Effect | None, p_holm: float | None) -> Row:
    if effect is None:
        return row
    values = {"": effect.value, "_low": effect.low, "_high": effect.high, "_p": effect.p}
    return replace(
        row, **{f"{name}{end}": _known(value) for end, value in values.items()}, **{f"{name}_p_holm": p_holm}
    )


def _match(row: Row, rows: Sequence[Row], panels: Mapping[str, Panels], first: str | None) -> Row:
    """The matched-pairs tests of one run: against its untouched model, and the first setting's run of the same seed."""
    table = panels[row.folder][TARGET]
    references = [normalise(each.reference, each.language) for each in table]
    after = [normalise(each.after, each.language) for each in table]
    before = [normalise(each.before, each.language) for each in table]
    row = replace(row, to_untouched_mapsswe_p=_known(matched_pairs(references, before, after).p))
    peers = [each.folder for each in rows if each.setting == first and each.seed == row.seed and each.folder]
    peer = next((panels[folder][TARGET] for folder in peers if TARGET in panels.get(folder, {})), None)
    if row.setting == first or peer is None or _find_difference(peer, table):
        return row
    p = matched_pairs(references, [normalise(each.after, each.language) for each in peer], after).p
    return replace(row, to_first_mapsswe_p=_known(p))


def _known(value: float) -> float | None:
    return value if isfinite(value) else None


def _describe(table: Sequence[PanelRow], effects: Sequence[Effect], leads: Sequence[Effect | None]) -> list[str]:
    """What the differences rest on, and how small a one this test set could have shown."""
    targets = [(row, effect) for row, effect in zip(table, effects, strict=True) if row.panel == TARGET]
    if not targets:
        return ["No run has a table of predictions with words in its test set, so no difference could be paired."]
    row, several = targets[0][0], any(row.runs > 1 for row, _ in targets)
    utterances = count_of(row.utterances, "test utterance")
    units = "" if row.units == "utterance" else f"the {row.units}s of "
    notes = [
        f"Differences are paired, over {units}{utterances} with {row.words:,} {'word' if row.words == 1 else 'words'}."
    ]
    if row.units == "utterance":
        notes.append(
            "Neither ten speakers nor ten recordings are known, so utterances were resampled: intervals and p-values "
            "are for these speakers, and say nothing of others."
        )
    notes.append(
        "Their 95 % intervals hold the noise of the test set and of the seeds."
        if several
        else "One seed a setting: intervals and p-values say nothing of other seeds."
    )
    notes.append(
        f"p after Holm: against the untouched model over {sum(row.p is not None for row in table)} comparisons, the "
        f"first row over {len(leads)}."
    )
    compared = [effect for _, effect in targets if isfinite(effect.p)] or [effect for effect in leads if effect]
    smallest = [detectable_difference(effect.test_se, effect.units) for effect in compared]
    if known := [value for value in smallest if isfinite(value)]:
        notes.append(
            f"Four times of five, this test set shows a difference of {100 * median(known):.1f} points or more (median "
            "over the settings, at the 5 % level, for given models)."
        )
    return notes
