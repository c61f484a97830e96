"""Settings beside each other: what is drawn is there, and models that were only scored have nothing before them."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from test_ablation import make_record
from test_differences import AFTER, BEFORE, predict

from attune.report.ablation_figures import plot_settings
from attune.report.compare import Row, make_rows
from attune.report.differences import Panels, add_differences, read_panels
from attune.report.forest import plot_curves, plot_forest, plot_groups
from attune.report.predictions import write_predictions
from attune.report.record import write_record
from attune.report.runs import read_runs
from attune.report.tables import to_markdown
from attune.report.trade_offs import plot_trade_offs

LONG = "/data/experiments/" + "of-a-long-summer/" * 3


def make_rows_of(folder: Path, scored_only: bool) -> tuple[list[Row], dict[str, Panels]]:
    """Two settings: models that were trained from one, or two that `attune evaluate` has scored."""
    for number, finetune in enumerate(("full", "lora")):
        wrong = AFTER[finetune, 1]
        record = make_record(finetune, wer=sum(wrong) / 240)
        if scored_only:
            record.config["choices"] = {}
            record.config["model"] = {"name_or_path": f"{LONG}{finetune}"}
            record.config["finetune"] = {}
            record.baseline, record.parameters, record.train = record.result, {"trainable": 0}, {"seconds": 0.0}
        write_record(record, folder / str(number))
        write_predictions(folder / str(number), "test", predict(wrong if scored_only else BEFORE), predict(wrong))
        (folder / str(number) / "metrics.csv").write_text("step,val/wer\n9,0.5\n19,1.7\n")
    panels = read_panels(runs := read_runs([folder]))
    return add_differences(make_rows(runs), panels).rows, panels


def name_axes(figure: Figure | None) -> list[str]:
    assert figure is not None
    return [axes.get_xlabel() for axes in figure.axes]


def list_labels(figure: Figure | None) -> list[str]:
    assert figure is not None
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("scored_only", [False, True])
def test_an_untouched_model_is_drawn_where_there_is_one(scored_only: bool, tmp_path: Path) -> None:
    rows, panels = make_rows_of(tmp_path, scored_only)
    first = ["WER less the first row's (points)"]
    assert name_axes(plot_forest(rows)) == ([] if scored_only else ["WER less the untouched model's (points)"]) + first
    assert ("untouched" in list_labels(plot_groups(rows, panels))) is not scored_only
    names = list_labels(plot_settings(rows))
    assert names == (["the model"] if scored_only else ["untouched", "fine-tuned"])
    costs = ["Parameters that learn", "WER on what should be kept (%)"]  # the seconds of both runs are the same
    assert name_axes(plot_trade_offs(rows)) == (costs[1:] if scored_only else costs)
    assert ("+0.0" in to_markdown(rows, [])) is False


def test_settings_that_began_from_different_models_have_no_common_mark(tmp_path: Path) -> None:
    rows, panels = make_rows_of(tmp_path, False)
    write_predictions(tmp_path / "1", "test", predict([5] * 24), predict(AFTER["lora", 1]))
    assert "untouched" not in list_labels(plot_groups(rows, read_panels(read_runs([tmp_path]))))


def test_long_names_stay_inside_the_figure(tmp_path: Path) -> None:
    rows, panels = make_rows_of(tmp_path, True)
    for figure in (plot_groups(rows, panels), plot_curves(rows)):
        assert figure is not None
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
        assert figure.legends[0].get_title().get_text() == "model.name_or_path="
        assert list_labels(figure)[-2:] == [f"{LONG}full", f"{LONG}lora"]


def test_curves_count_steps_taken_and_stay_below_the_edge(tmp_path: Path) -> None:
    figure = plot_curves(make_rows_of(tmp_path, False)[0])
    assert figure is not None
    axes = figure.axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[10, 20]] * 2  # type: ignore[call-overload]
    assert axes.get_ylim() == (0, pytest.approx(1.08 * 170))


def test_two_sizes_within_a_decade_are_both_told(tmp_path: Path) -> None:
    records = [make_record("full"), make_record("lora")]
    for record, trainable in zip(records, (4_829_760, 1_081_344), strict=True):
        record.parameters["trainable"] = trainable
    figure = plot_trade_offs(make_rows([(Path(str(number)), record) for number, record in enumerate(records)]))
    assert figure is not None
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert list(axes.get_xticks()) == [1_081_344, 4_829_760]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1.08M", "4.83M"]
