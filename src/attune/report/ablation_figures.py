"""The figures of an ablation: the target and what was forgotten by setting; WER over the number of shots."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from attune.report.compare import Row
from attune.report.figures import _INK, _MUTED, _PANEL_COLOURS, _STYLE, BLUE, RED, begin_at_zero

SHOTS = "data.shots="


@matplotlib.rc_context(_STYLE)
def plot_settings(rows: Sequence[Row]) -> Figure | None:
    """Target WER of each setting with its 95 % interval, beside WER on what should be kept; None if no run finished.

    A point is the mean over seeds, a small one a single seed. Hollow is the untouched model; models that were only
    scored have none beside them.
    """
    settings = group_finished(rows)
    if not settings:
        return None
    middles = {setting: _middle(runs, rows) for setting, runs in settings.items()}
    is_kept = any(row.retention_after is not None for row in middles.values())
    is_changed = any(row.trainable or row.wer_before != row.wer_after for row in middles.values())
    figure = Figure(figsize=(9.6 if is_kept else 7.2, 1.3 + 0.42 * len(settings)))
    panels = figure.subplots(1, 1 + is_kept, sharey=True, squeeze=False)[0]
    for height, (setting, runs) in enumerate(settings.items()):
        _draw_target(panels[0], height, middles[setting], runs, is_changed)
        if is_kept:
            _draw_retention(panels[1], height, middles[setting], is_changed)
    panels[0].set_yticks(
        range(len(settings)), [_label(setting, row if is_changed else None) for setting, row in middles.items()]
    )
    panels[0].set_ylim(len(settings) - 0.5, -0.5)  # the first on top
    panels[0].set_xlabel("WER on the target (%), 95 % interval")
    if is_kept:
        panels[1].set_xlabel("WER on what should be kept (%)")
    for axes in panels:
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@matplotlib.rc_context(_STYLE)
def plot_shots(rows: Sequence[Row]) -> Figure | None:
    """Target WER over the number of training utterances, a line for each other setting; None if shots did not vary."""
    lines: dict[str, dict[str, list[Row]]] = {}
    for setting, runs in group_finished(rows).items():
        words = setting.split()
        if any(word.startswith(SHOTS) for word in words) and all(row.train_utterances for row in runs):
            rest = " ".join(word for word in words if not word.startswith(SHOTS))
            lines.setdefault(rest, {})[setting] = runs
    if not lines:
        return None
    figure = Figure(figsize=(7.2, 3.8))
    axes = figure.subplots()
    for colour, (rest, points) in zip((BLUE, *_PANEL_COLOURS) * len(lines), lines.items(), strict=False):
        _draw_line(axes, rest, points, rows, colour)
    _mark_untouched(axes, rows)
    _name_ticks(axes, lines)
    axes.set_xlabel("Training utterances")
    axes.set_ylabel("WER on the target (%)")
    begin_at_zero(axes)
    axes.legend()
    return figure


def group_finished(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """setting: its finished runs, without those whose WER does not exist."""
    settings: dict[str, list[Row]] = {}
    for row in rows:
        if row.runs and not row.is_mean and row.wer_after is not None:
            settings.setdefault(row.setting, []).append(row)
    return settings


def _middle(runs: Sequence[Row], rows: Sequence[Row]) -> Row:
    """The mean over the seeds, or the only run."""
    means = [row for row in rows if row.is_mean and row.setting == runs[0].setting]
    return means[0] if means else runs[0]


def _draw_target(axes: Axes, height: int, middle: Row, runs: Sequence[Row], is_changed: bool) -> None:
    first = height == 0
    if is_changed and middle.wer_before is not None:
        label = "untouched" if first else None
        axes.plot(100 * middle.wer_before, height, "o", mfc="none", mec=_MUTED, label=label)
    axes.errorbar(
        *(100 * (middle.wer_after or 0.0), height),
        xerr=_reach(middle),
        fmt="o",
        color=RED,
        capsize=3,
        label=("fine-tuned" if is_changed else "the model") if first else None,
    )
    if len(runs) > 1:
        rates = [100 * (row.wer_after or 0.0) for row in runs]
        axes.plot(rates, [height] * len(runs), "|", color=_INK, markersize=9, label="each seed" if first else None)


def _draw_retention(axes: Axes, height: int, middle: Row, is_changed: bool) -> None:
    if middle.retention_before is None or middle.retention_after is None:
        return
    before, after = 100 * middle.retention_before, 100 * middle.retention_after
    if is_changed:
        axes.plot([before, after], [height, height], color=BLUE, linewidth=1.2)
        axes.plot(before, height, "o", mfc="white", mec=_MUTED)
    axes.plot(after, height, "o", color=BLUE)


def _draw_line(axes: Axes, rest: str, points: Mapping[str, Sequence[Row]], rows: Sequence[Row], colour: str) -> None:
    middles = sorted((_middle(runs, rows) for runs in points.values()), key=lambda row: row.train_utterances or 0.0)
    counts = [row.train_utterances or 0.0 for row in middles]
    rates = [100 * (row.wer_after or 0.0) for row in middles]
    reach = [[_reach(row)[side][0] for row in middles] for side in (0, 1)]
    axes.errorbar(counts, rates, yerr=reach, fmt="o-", color=colour, capsize=3, label=rest or "95 % interval, mean")
    each = [row for runs in points.values() for row in runs]
    if len(each) > len(middles):
        rates = [100 * (row.wer_after or 0.0) for row in each]
        axes.plot([row.train_utterances or 0.0 for row in each], rates, "_", color=colour, markersize=9)


def _mark_untouched(axes: Axes, rows: Sequence[Row]) -> None:
    before = {round(row.wer_before, 9) for row in rows if row.wer_before is not None}
    if len(before) == 1:
        axes.axhline(100 * before.pop(), color=_MUTED, linestyle=":", linewidth=1.4, label="untouched")


def _name_ticks(axes: Axes, lines: Mapping[str, Mapping[str, Sequence[Row]]]) -> None:
    """A logarithmic axis with a tick at each number of utterances that was tried."""
    runs = [row for points in lines.values() for each in points.values() for row in each]
    counts = sorted({row.train_utterances or 1.0 for row in runs})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _reach(row: Row) -> list[list[float]]:
    """How far the 95 % interval goes to either side, in points, as matplotlib takes it; 0 where there is none."""
    middle = row.wer_after or 0.0
    low, high = (middle if end is None else end for end in (row.wer_low, row.wer_high))
    return [[max(0.0, 100 * (middle - low))], [max(0.0, 100 * (high - middle))]]


def _label(setting: str, row: Row | None) -> str:
    learning = "" if row is None or row.trainable is None else f"\n{row.trainable:,.0f} learn"
    return f"{setting}{learning}"
