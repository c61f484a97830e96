"""Settings beside each other: differences with their intervals, learning curves, and WER by group of utterances."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attune.report.compare import Row
from attune.report.differences import TARGET, Panels
from attune.report.errors import group_utterances
from attune.report.figures import _INK, _MUTED, _PANEL_COLOURS, _STYLE, BLUE, RED, begin_at_zero
from attune.report.learning_curves import Curve, read_curves
from attune.report.predictions import PredictionRow
from attune.report.trade_offs import find_shared_key

COLOURS = (BLUE, RED, *_PANEL_COLOURS)
STYLES = ("-", "--", ":", "-.")
MOST_GROUPS = 12
UNTOUCHED = "untouched"
LEGEND_LETTERS, LEGEND_LINE = 88, 0.17  # in one line of a legend; the height of a line, in inches

Groups = Mapping[str, Mapping[str, tuple[float, float]]]  # group: setting: WER before and after, in %


@matplotlib.rc_context(_STYLE)
def plot_forest(rows: Sequence[Row]) -> Figure | None:
    """Each setting's difference to the untouched model and to the first setting, with 95 % intervals in points of WER.

    None where no difference was paired. An interval that holds 0 is hollow: it may be chance.
    """
    columns = [
        (name, label, [row for row in rows if row.is_setting and getattr(row, name) is not None])
        for name, label in (
            ("to_untouched", "WER less the untouched model's"),
            ("to_first", "WER less the first row's"),
        )
    ]
    columns = [column for column in columns if column[2]]
    if not columns:
        return None
    settings = list(dict.fromkeys(row.setting for _, _, found in columns for row in found))
    figure = Figure(figsize=(4.2 + 3.2 * len(columns), 1.2 + 0.36 * len(settings)))
    for axes, (name, label, found) in zip(
        figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns, strict=True
    ):
        for row in found:
            _draw_difference(axes, settings.index(row.setting), row, name)
        axes.axvline(0, color=_MUTED, linewidth=1.0)
        axes.set_xlabel(f"{label} (points)")
        axes.set_yticks(range(len(settings)), settings)
        axes.set_ylim(len(settings) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
    return figure


def _draw_difference(axes: Axes, height: int, row: Row, name: str) -> None:
    value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
    clear, ends = False, []
    if low is not None and high is not None:
        clear, ends = low > 0 or high < 0, [100 * low, 100 * high]
    colour = _MUTED if not clear else BLUE if value < 0 else RED
    axes.plot(ends, [height] * len(ends), color=colour, linewidth=1.6)
    axes.plot(100 * value, height, "s", color=colour, mfc=colour if clear else "white", markersize=6)


@matplotlib.rc_context(_STYLE)
def plot_curves(rows: Sequence[Row]) -> Figure | None:
    """Validation WER over the optimiser's steps, a line a setting: the mean over its seeds where all validated then."""
    curves: dict[str, list[Curve]] = {}
    for row in rows:
        if row.folder and row.runs and "val/wer" in (found := read_curves(Path(row.folder) / "metrics.csv")):
            curves.setdefault(row.setting, []).append(found["val/wer"])
    if not curves:
        return None
    figure = Figure(figsize=(7.2, 3.9))
    axes = figure.subplots()
    for number, (setting, seeds) in enumerate(curves.items()):
        steps, values = _mean_curve(seeds)
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        axes.plot(
            steps, 100 * values, style, color=COLOURS[number % len(COLOURS)], marker="o", markersize=3, label=setting
        )
    axes.set_xlabel("Optimiser step")
    axes.set_ylabel("Validation WER (%)")
    begin_at_zero(axes)
    _add_legend(figure, *axes.get_legend_handles_labels())
    return figure


def _add_legend(figure: Figure, handles: Sequence[Artist], settings: Sequence[str]) -> None:
    """Below the figure, in as many columns as have room; what all names begin with is said once, above them."""
    shared = find_shared_key([each for each in settings if each != UNTOUCHED])
    labels = [textwrap.fill(setting.removeprefix(shared), LEGEND_LETTERS) for setting in settings]
    for columns in (3, 2, 1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=8, title=shared or None
        )
        if columns == 1 or legend.get_window_extent().width <= 0.97 * figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * ceil(len(labels) / columns))


def _mean_curve(seeds: Sequence[Curve]) -> Curve:
    steps = sorted(set.intersection(*(set(map(float, steps)) for steps, _ in seeds)))
    values = [[dict(zip(map(float, each), rates, strict=True))[step] for step in steps] for each, rates in seeds]
    return np.array(steps), np.array(values).reshape(len(seeds), len(steps)).mean(axis=0)


@matplotlib.rc_context(_STYLE)
def plot_groups(rows: Sequence[Row], panels: Mapping[str, Panels]) -> Figure | None:
    """WER of each setting by accent, speaker, condition (SNR), duration and language; None where nothing can be parted.

    Of the first seed of each setting, and of at most 12 groups a kind; the untouched model, where all settings began
    from the same one, is a grey line.
    """
    tables = {row.setting: panels[row.folder] for row in reversed(rows) if row.runs and panels.get(row.folder)}
    tables = {setting: tables[setting] for setting in dict.fromkeys(row.setting for row in rows) if setting in tables}
    by_kind: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}  # kind: Groups
    for setting, found in tables.items():
        for kind, groups in _group(found).items():
            for name, utterances in groups.items():
                by_kind.setdefault(kind, {}).setdefault(name, {})[setting] = _rates(utterances)
    kinds = {kind: groups for kind, groups in by_kind.items() if len(groups) > 1}
    if not kinds:
        return None
    figure = Figure(figsize=(7.2, 3.2 * len(kinds)))
    is_marked = _has_untouched(kinds)
    for axes, (kind, groups) in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds.items(), strict=True):
        _draw_groups(axes, kind, dict(list(groups.items())[:MOST_GROUPS]), list(tables), is_marked)
    _add_legend(figure, *figure.axes[0].get_legend_handles_labels())
    return figure


def _group(panels: Panels) -> dict[str, dict[str, list[PredictionRow]]]:
    """kind: group: utterances, of the target; and the panels test/NAME, which are conditions."""
    kinds = {kind: groups for kind, groups in group_utterances(panels.get(TARGET, [])).items() if kind != "length"}
    conditions = {name.removeprefix("test/"): rows for name, rows in panels.items() if name.startswith("test/")}
    return kinds | ({"condition": conditions} if conditions else {})


def _rates(utterances: Sequence[PredictionRow]) -> tuple[float, float]:
    words = sum(row.words for row in utterances)
    before, after = (
        sum(errors) for errors in zip(*((row.errors_before, row.errors_after) for row in utterances), strict=True)
    )
    return 100 * before / words, 100 * after / words


def _has_untouched(kinds: Mapping[str, Groups]) -> bool:
    """Whether all settings began from one model, and some changed it: evaluated models have nothing before them."""
    rates = [list(settings.values()) for groups in kinds.values() for settings in groups.values()]
    is_shared = all(len({round(before, 9) for before, _ in each}) == 1 for each in rates)
    return is_shared and any(before != after for each in rates for before, after in each)


def _draw_groups(axes: Axes, kind: str, groups: Groups, settings: Sequence[str], is_marked: bool) -> None:
    places = np.arange(len(groups))
    if is_marked:
        untouched = [next(iter(rates.values()))[0] for rates in groups.values()]
        axes.plot(places, untouched, "_", color=_MUTED, markersize=22, label=UNTOUCHED)
    spread = np.linspace(-0.25, 0.25, len(settings)) if len(settings) > 1 else np.zeros(1)
    for shift, colour, setting in zip(spread, cycle(COLOURS), settings, strict=False):
        at = [
            (place + shift, groups[name][setting][1])
            for place, name in zip(places, groups, strict=True)
            if setting in groups[name]
        ]
        is_hollow = settings.index(setting) // len(COLOURS) % 2  # the colours have come round
        face = "white" if is_hollow else colour
        axes.plot([x for x, _ in at], [y for _, y in at], "o", color=colour, mfc=face, markersize=4, label=setting)
    axes.set_xticks(
        places, list(groups), rotation=30 if len(groups) > 5 else 0, ha="right" if len(groups) > 5 else "center"
    )
    axes.set_ylabel("WER (%)")
    begin_at_zero(axes)
    axes.set_title(f"By {kind}")
    axes.grid(axis="x", visible=False)
