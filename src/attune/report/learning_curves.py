"""The learning curves of a run, read from its metrics.csv."""

import csv
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attune.report.divergence import find_divergence
from attune.report.figures import _MUTED, _PANEL_COLOURS, _STYLE, BLUE, RED, SKY, begin_at_zero

CROSS_ENTROPY = {"unit": "nats per token", "validation_unit": "nats per token", "monitored": "val/wer"}
FEW_POINTS = 10

Curve = tuple[np.ndarray, np.ndarray]  # optimiser steps, values


def read_curves(metrics: Path) -> dict[str, Curve]:
    """Lightning's metrics.csv -> {key: (steps, values)}; its table is sparse, and only what was logged is kept.

    A step is the number of steps taken: Lightning writes how many were taken before, and what is logged at its step 0
    is of the model after one.
    """
    if not metrics.is_file():
        return {}
    points: dict[str, list[tuple[float, float]]] = {}
    with metrics.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for key, cell in row.items():
                if key and cell and row.get("step") and key not in ("step", "epoch"):
                    points.setdefault(key, []).append((float(row["step"] or 0) + 1, float(cell)))
    return {key: _to_curve(values) for key, values in points.items()}


@matplotlib.rc_context(_STYLE)
def plot_learning_curves(metrics: Path, loss: Mapping[str, str] = CROSS_ENTROPY) -> Figure | None:
    """Loss above, validation WER below, against the optimiser's steps; None if the run logged neither. Shaded is where
    the loss falls while the WER rises. Losses of different units have an axis each.

    Args:
        metrics: Lightning's metrics.csv, with the columns step, train/loss, val/loss, val/wer, val/wer/PANEL.
        loss: unit, validation_unit and monitored, as a record has them.
    """
    curves = read_curves(metrics)
    wer = {key: curve for key, curve in curves.items() if key.startswith("val/wer")}
    losses = _part_losses({key: curves[key] for key in ("train/loss", "val/loss") if key in curves}, loss)
    parts = [*losses, *([wer] if wer else [])]
    if not parts:
        return None
    figure = Figure(figsize=(7.2, 2.5 * len(parts)))
    axes = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    for each, part in zip(axes, losses, strict=False):
        _draw_losses(each, part, loss)
    if wer:
        _draw_wer(axes[-1], wer)
    if found := find_divergence(curves, loss.get("monitored")):
        for each in axes:
            each.axvspan(found.first_step, found.last_step, color=RED, alpha=0.08, linewidth=0)
        axes[-1].set_title("shaded: loss falls, WER rises", fontsize=9, color=_MUTED)
    axes[-1].set_xlabel("Optimiser step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _part_losses(losses: dict[str, Curve], loss: Mapping[str, str]) -> list[dict[str, Curve]]:
    """What stands on one axis: both, or each by itself where they are of different units."""
    if loss.get("unit") == loss.get("validation_unit"):
        return [losses] if losses else []
    return [{key: curve} for key, curve in losses.items()]


def _to_curve(points: list[tuple[float, float]]) -> Curve:
    steps, values = np.array(sorted(points, key=lambda point: point[0])).T
    return steps, values


def _draw_losses(axes: Axes, losses: dict[str, Curve], loss: Mapping[str, str]) -> None:
    if "train/loss" in losses:
        steps, values = losses["train/loss"]
        width = max(1, len(values) // 25)
        axes.plot(steps, values, color=SKY, linewidth=0.8, alpha=0.65 if width > 1 else 0)
        label = f"training, mean of {width} points" if width > 1 else "training"
        # A line of one point is none.
        marker = "." if len(values) <= FEW_POINTS else ""
        axes.plot(steps, _smooth(values, width), color=BLUE, marker=marker, label=label)
    if "val/loss" in losses:
        axes.plot(*losses["val/loss"], color=RED, marker="o", markersize=4, label="validation")
    unit = loss.get("unit" if "train/loss" in losses else "validation_unit")
    axes.set_ylabel(f"Loss ({unit})" if unit else "Loss")
    axes.legend()


def _draw_wer(axes: Axes, wer: dict[str, Curve]) -> None:
    """The target's WER in red; dashed, the panels that should not be forgotten."""
    if "val/wer" in wer:
        steps, values = wer["val/wer"]
        axes.plot(steps, 100 * values, color=RED, marker="o", markersize=4, label="target", zorder=3)
    for colour, key in zip(cycle(_PANEL_COLOURS), sorted(wer.keys() - {"val/wer"}), strict=False):
        steps, values = wer[key]
        label = key.removeprefix("val/wer/")
        axes.plot(steps, 100 * values, "--", color=colour, marker="s", markersize=3.5, label=label)
    axes.set_ylabel("Validation WER (%)")
    begin_at_zero(axes)
    axes.legend()


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred running mean; at both ends over the points there are, so that the curve neither lags nor sags."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
