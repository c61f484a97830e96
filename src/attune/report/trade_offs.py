"""What a setting's WER costs: against the parameters that learn, the seconds it takes, and what is forgotten for it."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attune.report.compare import Row
from attune.report.figures import _INK, _MUTED, _STYLE, BLUE, RED

Point = tuple[float, float, str]  # cost, WER in %, setting
AXES = (
    ("trainable", "Parameters that learn", 1.0),
    ("seconds", "Seconds inside training steps", 1.0),
    ("retention_after", "WER on what should be kept (%)", 100.0),
)


@matplotlib.rc_context(_STYLE)
def plot_trade_offs(rows: Sequence[Row]) -> Figure | None:
    """Target WER of each setting against each of its costs that was measured; None for fewer than two settings.

    The line is the Pareto front: of the settings on it none is both cheaper and better than another.
    """
    settings = [row for row in rows if row.is_setting and row.wer_after is not None]
    panels = [(key, label, scale) for key, label, scale in AXES if len(_find_points(settings, key, scale)) > 1]
    if len(settings) < 2 or not panels:
        return None
    figure = Figure(figsize=(7.2, 3.6 * len(panels)))
    for axes, (key, label, scale) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        points = _find_points(settings, key, scale)
        _draw(axes, points)
        axes.set_xlabel(label)
        if key == "trainable":
            axes.set_xscale("symlog", linthresh=max(1.0, min((x for x, _, _ in points if x > 0), default=1.0)))
        if key == "retention_after":
            _mark_untouched(axes, settings)
        axes.legend()
    return figure


def find_front(points: Sequence[Point]) -> list[Point]:
    """The points that none is better than: from the cheapest on, each with a lower WER than all that cost less."""
    front: list[Point] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _find_points(settings: Sequence[Row], key: str, scale: float) -> list[Point]:
    values = [(getattr(row, key), row.wer_after, row.setting) for row in settings]
    return [(scale * cost, 100 * wer, setting) for cost, wer, setting in values if cost is not None and wer is not None]


def _draw(axes: Axes, points: Sequence[Point]) -> None:
    front = find_front(points)
    axes.plot([x for x, _, _ in front], [y for _, y, _ in front], color=RED, linewidth=1.2, label="Pareto front")
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o", color=BLUE, markersize=6, label="_settings")
    for number, (x, y, setting) in enumerate(sorted(points)):
        offset = (6, 5 if number % 2 else -11)  # neighbours on both sides
        axes.annotate(
            setting,
            (x, y),
            offset,
            textcoords="offset points",
            fontsize=8,
            color=_INK if (x, y, setting) in front else _MUTED,
        )
    axes.margins(x=0.18, y=0.18)
    axes.set_ylabel("WER on the target (%)")


def _mark_untouched(axes: Axes, settings: Sequence[Row]) -> None:
    """The model before: where all settings start from the same one."""
    starts = {(row.retention_before, row.wer_before) for row in settings}
    if len(starts) == 1:
        retention, wer = starts.pop()
        if retention is not None and wer is not None:
            axes.plot(100 * retention, 100 * wer, "o", mfc="none", mec=_MUTED, markersize=8, label="untouched")
