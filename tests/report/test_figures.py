"""Figures show the run's numbers, with a unit on every axis."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from attune.report.figures import (
    plot_error_types,
    plot_interpolation,
    plot_log_mel,
    save_figures,
)
from attune.report.learning_curves import plot_learning_curves, read_curves
from attune.report.record import RunRecord
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.objective.dpo import Dpo
from attune.train.objective.mwer import Mwer
from attune.train.objective.preparation import describe_loss
from attune.train.objective.reward_model import RewardModel


def draw_lines(figure: Figure, axes: int) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(np.atleast_1d(line.get_xdata())), list(np.atleast_1d(line.get_ydata())))
        for line in figure.axes[axes].lines
    }


def test_curves_are_read_from_a_sparse_table(metrics: Path) -> None:
    curves = read_curves(metrics)
    assert curves["val/wer"][0].tolist() == [60, 120, 180, 240, 300]  # steps taken, as the console counts them
    assert curves["val/wer"][1][0] == pytest.approx(0.42 * 0.993**60 + 0.08)
    assert curves["train/loss"][0].tolist() == list(range(1, 301))
    assert read_curves(metrics.parent / "nowhere.csv") == {}


def test_learning_curves_hold_the_logged_values(metrics: Path) -> None:
    figure = plot_learning_curves(metrics)
    assert figure is not None
    assert [axes.get_ylabel() for axes in figure.axes] == ["Loss (nats per token)", "Validation WER (%)"]
    assert figure.axes[1].get_xlabel() == "Optimiser step"
    steps, wer = draw_lines(figure, 1)["target"]
    assert steps == [60, 120, 180, 240, 300]
    assert wer == pytest.approx(100 * read_curves(metrics)["val/wer"][1])
    assert draw_lines(figure, 1)["us"][1][-1] == pytest.approx(25.0)


def test_the_running_mean_keeps_a_constant_loss(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n" + "".join(f"{step},1.5\n" for step in range(1, 101)))
    figure = plot_learning_curves(path, {"unit": "per utterance", "validation_unit": "per utterance"})
    assert figure is not None
    assert draw_lines(figure, 0)["training, mean of 4 points"][1] == pytest.approx([1.5] * 100)
    assert len(figure.axes) == 1  # nothing was validated: no empty panel
    assert figure.axes[0].get_ylabel() == "Loss (per utterance)"


def test_losses_of_different_kinds_have_an_axis_each(tmp_path: Path) -> None:
    """Drawn hypotheses learn by the utterance and are validated by the token; one logged point is a point."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,val/loss,val/wer\n2,,7.2,1.5\n4,0.45,,\n5,,6.6,1.6\n")
    figure = plot_learning_curves(path, describe_loss(Mwer()))
    assert figure is not None
    labels = ["Loss (per utterance)", "Loss (nats per token)", "Validation WER (%)"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels
    assert draw_lines(figure, 0)["training"] == ([5], [0.45]) and figure.axes[0].lines[-1].get_marker() == "."
    assert draw_lines(figure, 1)["validation"] == ([3, 6], [7.2, 6.6])
    assert figure.axes[2].get_ylim() == (0, pytest.approx(1.08 * 160))  # no curve runs along the upper edge


@pytest.mark.parametrize(
    ("objective", "units"),
    [
        (CrossEntropy(), ("nats per token", "nats per token")),
        (Dpo(), ("nats per utterance", "nats per utterance")),
        (RewardModel(), ("nats per utterance", "nats per utterance")),
        (object(), ("", "")),
    ],
)
def test_an_objective_tells_what_its_loss_is(objective: object, units: tuple[str, str]) -> None:
    assert tuple(describe_loss(objective).values()) == units


def test_what_is_not_judged_by_the_wer_has_no_shaded_part(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,val/loss,val/wer\n9,1.5,0.2\n19,1.0,0.3\n")
    for monitored, title in (("val/wer", "shaded: loss falls, WER rises"), ("val/loss", "")):
        figure = plot_learning_curves(path, {"monitored": monitored})
        assert figure is not None and figure.axes[-1].get_title(loc="left") == title


def test_the_model_after_one_step_is_not_called_untouched(tmp_path: Path) -> None:
    """validate_every=1: Lightning writes 0 for the first step. No validation sees the untouched model."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,val/wer\n0,1.714\n1,0.5\n2,0.4\n")
    figure = plot_learning_curves(path)
    assert figure is not None
    assert draw_lines(figure, 0) == {"target": ([1, 2, 3], pytest.approx([171.4, 50, 40]))}


def test_a_run_that_logged_nothing_has_no_curves(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/learning_rate\n1,0.1\n")
    assert plot_learning_curves(tmp_path / "metrics.csv") is None
    assert plot_learning_curves(tmp_path / "nowhere.csv") is None


def test_a_bar_is_as_long_as_the_word_error_rate(record: RunRecord) -> None:
    figure = plot_error_types(record)
    assert figure is not None
    axes = figure.axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
    scores = [moment[panel] for panel in ("test", "retention/us") for moment in (record.baseline, record.result)]
    assert ends == pytest.approx([100 * panel["wer"] for panel in scores])
    assert [text.get_text() for text in axes.texts] == [f"{100 * panel['wer']:.1f}" for panel in scores]
    assert axes.get_xlabel() == "Errors per 100 reference words"
    labels = [label.get_text().split() for label in axes.get_yticklabels()]
    assert labels == [["test", "before"], ["after"], ["retention/us", "before"], ["after"]]


WAY = {
    "chosen": 0.5,
    "rule": "Chosen by <hand>.",
    "judged": ["retention_validation/u"],
    "points": [
        {"alpha": 0.0, "wer": {"validation": 0.5, "retention_validation/u": 0.1, "test": 0.48, "retention/u": 0.12}},
        {"alpha": 0.5, "wer": {"validation": 0.3, "retention_validation/u": 0.105, "test": 0.28, "retention/u": 0.13}},
        {"alpha": 1.0, "wer": {"validation": 0.2, "retention_validation/u": 0.2, "test": 0.18, "retention/u": 0.22}},
    ],
}


def test_the_way_is_drawn_with_retention_below_and_the_target_beside(record: RunRecord) -> None:
    assert plot_interpolation(record) is None
    record.interpolation = WAY
    figure = plot_interpolation(record)
    assert figure is not None
    axes, lines = figure.axes[0], draw_lines(figure, 0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Retention WER (%)", "Target WER (%)")
    assert lines["test"] == (pytest.approx([12.0, 13.0, 22.0]), pytest.approx([48.0, 28.0, 18.0]))
    assert lines["validation"] == (pytest.approx([10.0, 10.5, 20.0]), pytest.approx([50.0, 30.0, 20.0]))
    assert lines["_chosen"] == (pytest.approx([13.0]), pytest.approx([28.0]))
    assert [text.get_text() for text in axes.texts] == ["0", "0.5", "1"] * 2


def test_nothing_scored_gives_no_bars(record: RunRecord) -> None:
    record.baseline, record.result = {}, {"test": {"wer": None, "words": 0}}
    assert plot_error_types(record) is None


def test_the_log_mel_is_that_of_the_padded_window(speech: Float[Tensor, "sample"]) -> None:
    figure = plot_log_mel(speech, "costs $5 and $6", "", n_mels=128, window_s=6.0)
    axes = figure.axes[0]
    image = axes.images[0]
    assert np.asarray(image.get_array()).shape == (128, 600)
    assert image.get_extent() == pytest.approx([0.0, 6.0, 0.0, 128.0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Time (s)", "Mel channel")
    assert figure.axes[1].get_ylabel().startswith("Log-mel (")
    assert np.asarray(axes.lines[0].get_xdata()) == pytest.approx([len(speech) / 16_000] * 2)
    assert axes.get_title(loc="left") == "Reference: costs $5 and $6\nHypothesis: (nothing)"


@pytest.mark.parametrize(("transcript", "shown"), [("long " * 60, "…"), ("\U0001f9ff", "no font on this machine")])
def test_a_title_stays_inside_the_figure(transcript: str, shown: str, speech: Float[Tensor, "sample"]) -> None:
    title = plot_log_mel(speech, transcript, "x").axes[0].get_title(loc="left")
    assert shown in title
    assert max(map(len, title.splitlines())) <= 84
    assert len(title.splitlines()) <= 3


def test_saved_figures_are_pictures_and_leave_no_trace(record: RunRecord, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    waveform = torch.linspace(-0.5, 0.5, 16_000)
    figures = {"error_types": plot_error_types(record), "log_mel": plot_log_mel(waveform, "a", "b"), "none": None}
    paths = save_figures(tmp_path, figures)
    assert paths == [tmp_path / "figures" / name for name in ("error_types.png", "log_mel.png")]
    assert imread(paths[1]).shape[:2] == (480, 1080)  # 7.2 by 3.2 inches at 150 dpi
    assert dict(matplotlib.rcParams) == before
