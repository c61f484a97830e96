"""What a setting's WER costs: against the parameters that learn, the seconds it takes, and what is forgotten for it."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import Bbox

from attune.report.compare import Row
from attune.report.figures import _INK, _MUTED, _STYLE, BLUE, RED

LABEL_WIDTH = 0.08  # of a count under the axis, as a share of it
Point = tuple[float, float, str]  # cost, WER in %, setting
AXES = (
    ("trainable", "Parameters that learn", 1.0),
    ("seconds", "Seconds inside training steps", 1.0),
    ("retention_after", "WER on what should be kept (%)", 100.0),
)
# Of a label from its point, in points: beside it, then above and below, further and further away.
PLACES = [(7 * side, rise) for rise in (0, 9, -9, 18, -18, 28, -28, 40, -40, 54, -54) for side in (1, -1)]


@matplotlib.rc_context(_STYLE)
def plot_trade_offs(rows: Sequence[Row]) -> Figure | None:
    """Target WER of each setting against each of its costs in which they differ; None for fewer than two settings.

    The line is the Pareto front: of the settings on it none is both cheaper and better than another.
    """
    settings = [row for row in rows if row.is_setting and row.wer_after is not None]
    panels = [
        (key, label, scale)
        for key, label, scale in AXES
        if len({cost for cost, _, _ in _find_points(settings, key, scale)}) > 1
    ]
    if len(settings) < 2 or not panels:
        return None
    figure, shared = Figure(figsize=(7.2, 3.6 * len(panels))), find_shared_key([row.setting for row in settings])
    drawn: list[tuple[Axes, list[Point]]] = []
    for axes, (key, label, scale) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        points = [(x, y, name.removeprefix(shared)) for x, y, name in _find_points(settings, key, scale)]
        _draw(axes, points)
        axes.set_title(shared)
        drawn.append((axes, points))
        axes.set_xlabel(label)
        if key == "trainable":
            _scale_counts(axes, [x for x, _, _ in points])
        if key == "retention_after":
            _mark_untouched(axes, settings)
        axes.legend()
    figure.draw_without_rendering()  # from here on it is known what stands where
    for axes, points in drawn:
        _label(axes, points)
    return figure


def find_shared_key(settings: Sequence[str]) -> str:
    """ "finetune=" where each name of a setting begins so: it is said once, and the names are short; else ""."""
    key = settings[0].partition("=")[0] + "="
    return key if all(setting.startswith(key) for setting in settings) else ""


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
    axes.margins(x=0.18, y=0.18)
    axes.set_ylabel("WER on the target (%)")


def _scale_counts(axes: Axes, counts: Sequence[float]) -> None:
    """A logarithmic axis that has 0; ticks at its decades, or at the counts themselves, as far as their labels do not
    meet, where it holds less than two."""
    fewest = max(1.0, min((count for count in counts if count > 0), default=1.0))
    axes.set_xscale("symlog", linthresh=fewest)
    ends = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if tick == 0 or tick >= fewest]
    if sum(ends[0] <= tick <= ends[1] for tick in ticks if tick) < 2:
        ticks = []
        for count in sorted(set(counts)):
            places = [axes.transData.transform((each, 0))[0] for each in (*ticks[-1:], count)]
            ticks += [count] if not ticks or places[1] - places[0] > LABEL_WIDTH * axes.bbox.width else []
    axes.set_xticks(ticks)
    axes.set_xlim(ends)
    spell = EngFormatter(sep="")
    axes.xaxis.set_major_formatter(lambda count, _: spell(float(f"{count:.3g}")))


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Name each point in the first of PLACES that lies inside and covers neither a point nor a name; or else towards
    the middle, where nothing is cut off."""
    front, legend = find_front(points), axes.get_legend()
    centres = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in centres]
    taken += [legend.get_window_extent()] if legend else []
    for point in sorted(points):
        colour = _INK if point in front else _MUTED
        for place in PLACES:
            name, box = _write_name(axes, point, place, colour)
            is_inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            if (
                is_inside
                and axes.bbox.containsy(box.y0)
                and axes.bbox.containsy(box.y1)
                and not box.count_overlaps(taken)
            ):
                break
            name.remove()
        else:
            is_left = axes.transData.transform(point[:2])[0] < (axes.bbox.x0 + axes.bbox.x1) / 2
            box = _write_name(axes, point, PLACES[0 if is_left else 1], colour)[1]
        taken.append(box)


def _write_name(axes: Axes, point: Point, place: tuple[float, float], colour: str) -> tuple[Annotation, Bbox]:
    """A name and the room that it takes, without the line that leads to its point."""
    x, y, setting = point
    name = axes.annotate(
        setting,
        (x, y),
        place,
        textcoords="offset points",
        ha="left" if place[0] > 0 else "right",
        va="center",
        fontsize=8,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": _MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
    )
    name.set_in_layout(False)
    name.get_window_extent()  # moves it to where it belongs
    return name, Text.get_window_extent(name)


def _mark_untouched(axes: Axes, settings: Sequence[Row]) -> None:
    """The model before: where all settings start from the same one."""
    starts = {(row.retention_before, row.wer_before) for row in settings}
    if len(starts) == 1:
        retention, wer = starts.pop()
        if retention is not None and wer is not None:
            axes.plot(100 * retention, 100 * wer, "o", mfc="none", mec=_MUTED, markersize=8, label="untouched")
