"""The table of a sweep, from run.json files written by hand."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from attune.errors import InputError
from attune.report.ablation import report_ablation
from attune.report.ablation_figures import plot_settings, plot_shots
from attune.report.compare import ONE_SETTING, Row, describe_settings, make_rows
from attune.report.record import RunRecord, write_record
from attune.report.runs import read_runs
from attune.report.tables import HEADINGS, to_cells, to_csv, to_latex, to_markdown

DETAILS = {
    "full": {"_target_": "attune.model.finetune.full.Full"},
    "lora": {"_target_": "attune.model.finetune.lora.Lora", "rank": 32, "targets": ["q_proj", "v_proj"]},
}


def make_record(finetune: str = "full", seed: int = 1, wer: float | None = 0.2, **config: Any) -> RunRecord:
    """`config` holds keys of finetune or data by name: rank, shots."""
    details = {key: config.get(key, value) for key, value in DETAILS[finetune].items()}
    shots = config.get("shots")
    run = {
        "name": f"finetune={finetune},seed={seed}",
        "seed": seed,
        "folder": None,
        "resume": None,
        "keep": "best",
        "choices": {"data": "accent", "finetune": finetune},
        "finetune": details,
        "data": {"shots": shots, "order_seed": seed, "corpus": {"root": "/data"}},
    }
    record = RunRecord(name=str(run["name"]), seed=seed, config=run)
    if wer is None:
        record.status, record.error = "failed", "OutOfMemoryError: 80 GB\nare not | enough"
        return record
    record.status = "finished"
    record.parameters = {"total": 4_000_000, "trainable": {"full": 4_000_000, "lora": 250_000}[finetune], "added": 0}
    record.splits = {"train": {"utterances": shots or 720, "minutes": 3.0}}
    record.baseline = {"test": {"wer": 0.4}, "retention/a": {"wer": 0.1}, "retention/b": {"wer": 0.2}}
    after = {"wer": wer, "wer_ci95": [wer - 0.05, wer + 0.07]}
    record.result = {"test": after, "retention/a": {"wer": 0.3}, "retention/b": {"wer": wer}}
    record.train = {"seconds": 60.0 + seed, "peak_memory_gb": 2.5}
    return record


def make(*records: RunRecord) -> list[Row]:
    return make_rows([(Path(f"runs/{number:02d}"), record) for number, record in enumerate(records)])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    records = [make_record("full", 1, 0.2), make_record("full", 2, 0.24), make_record("lora", 1, 0.3)]
    for number, record in enumerate([*records, make_record("lora", 2, None)]):
        folder = tmp_path / f"{number:02d}_{record.name}"
        folder.mkdir()
        write_record(record, folder)
    (tmp_path / "multirun.yaml").write_text("hydra: {}\n")
    return tmp_path


def test_the_mean_over_seeds_and_each_seed() -> None:
    records = [make_record(seed=1, wer=0.2), make_record(seed=2, wer=0.24), make_record("lora")]
    mean, first, second, alone = make(*records)
    assert (mean.setting, mean.seed, mean.runs, mean.is_mean) == ("finetune=full", "mean of 2", 2, True)
    assert mean.wer_after == pytest.approx(0.22)
    assert mean.wer_sd == pytest.approx(0.04 / 2**0.5)
    assert (mean.wer_low, mean.wer_high) == pytest.approx((0.17, 0.29))
    assert (mean.retention_before, mean.retention_after) == pytest.approx((0.15, (0.25 + 0.27) / 2))
    assert (mean.seconds, mean.peak_memory_gb, mean.trainable) == (61.5, 2.5, 4_000_000)
    assert (first.seed, first.wer_after, first.retention_after) == ("1", 0.2, 0.25)
    assert (second.seed, second.wer_after, second.wer_sd) == ("2", 0.24, None)
    assert (alone.setting, alone.trainable, alone.wer_before) == ("finetune=lora", 250_000, 0.4)


def test_kinds_of_errors_of_a_mean_sum_to_its_wer() -> None:
    records = [make_record(seed=seed) for seed in (1, 2)]
    for record, kinds in zip(records, ((1, 2, 0), (2, 3, 1)), strict=True):
        record.result["test"] |= dict(zip(("substitutions", "deletions", "insertions"), kinds, strict=True))
    place = HEADINGS.index("S / D / I")
    assert [to_cells(row)[place] for row in make(*records)] == ["1.5 / 2.5 / 0.5", "1 / 2 / 0", "2 / 3 / 1"]


def test_a_failed_run_hides_no_other() -> None:
    rows = make(make_record(seed=1), make_record(seed=2, wer=None), make_record(seed=3, wer=0.3))
    assert [(row.seed, row.runs, row.status) for row in rows] == [
        ("mean of 2", 2, "finished"),
        ("1", 1, "finished"),
        ("2", 0, "failed"),
        ("3", 1, "finished"),
    ]
    assert rows[0].wer_after == pytest.approx(0.25)
    assert rows[2].wer_after is None and "80 GB" in str(rows[2].error)


def test_a_group_stands_for_all_that_it_holds() -> None:
    assert describe_settings([make_record("full"), make_record("lora")]) == ["finetune=full", "finetune=lora"]


def make_choices(*pairs: tuple[str, str]) -> list[RunRecord]:
    """Runs that differ in two options alone."""
    chosen = [{"finetune": finetune, "objective": objective} for finetune, objective in pairs]
    return [RunRecord(name="run", seed=1, config={"choices": each}) for each in chosen]


def test_an_option_that_follows_from_another_is_named_where_it_is_not_the_usual_one() -> None:
    types = make_choices(("full", "cross_entropy"), ("lora", "cross_entropy"), ("ctc", "joint_ctc"))
    assert describe_settings(types) == ["finetune=full", "finetune=lora", "finetune=ctc objective=joint_ctc"]
    crossed = make_choices(("full", "cross_entropy"), ("lora", "cross_entropy"), ("full", "mwer"))
    assert describe_settings(crossed)[1] == "finetune=lora objective=cross_entropy"
    assert describe_settings(make_choices(("full", "mwer"), ("lora", "grpo")))[0] == "finetune=full objective=mwer"


def test_keys_that_differ_under_one_option_are_words() -> None:
    records = [make_record("full"), make_record("lora", rank=8), make_record("lora", rank=16)]
    words = ["finetune=full", "finetune=lora finetune.rank=8", "finetune=lora finetune.rank=16"]
    assert describe_settings(records) == words


def test_what_follows_the_seed_or_differs_in_nothing_is_no_word() -> None:
    assert describe_settings([make_record(seed=1), make_record(seed=2)]) == [ONE_SETTING] * 2
    shots = [make_record(seed=seed, shots=shots) for shots in (8, None) for seed in (1, 2)]
    assert describe_settings(shots) == ["data.shots=8"] * 2 + ["data.shots=null"] * 2


def test_what_follows_another_word_is_no_word() -> None:
    records = [make_record(), make_record()]
    for record, root in zip(records, ("/a", "/b"), strict=True):
        record.config["data"] = {"root": root, "corpus": {"root": root, "columns": ["text", None, True]}}
    assert describe_settings(records) == ["data.root=/a", "data.root=/b"]


def test_a_run_without_a_config_has_its_name() -> None:
    lost = RunRecord(name="03_lost", seed=0, config={}, status="failed", error="not JSON")
    settings = describe_settings([make_record(), lost, make_record("lora")])
    assert settings == ["finetune=full", "03_lost", "finetune=lora"]


def test_a_sweep_folder_becomes_a_table(sweep: Path) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    assert report_ablation([sweep], sweep, console) == 1
    shown = console.export_text()
    assert "finetune=lora, seed 2: OutOfMemoryError" in shown and "mean of 2" in shown
    assert "retention % after" in HEADINGS  # beside WER % after, where the column before it has no room
    with (sweep / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["seed"], row["status"]) for row in rows] == [
        ("finetune=full", "mean of 2", "finished"),
        ("finetune=full", "1", "finished"),
        ("finetune=full", "2", "finished"),
        ("finetune=lora", "1", "finished"),
        ("finetune=lora", "2", "failed"),
    ]
    assert [row["wer_after"] for row in rows] == ["0.22", "0.2", "0.24", "0.3", ""]
    text = (sweep / "ablation.md").read_text()
    unpaired = "n/a | " * 6  # these runs have no predictions, and no CER or counts either
    assert f"| finetune=full | mean of 2 | 4,000,000 | 40.0 | 22.0 [17.0–29.0] ±2.8 | {unpaired}15.0 | 26.0 |" in text
    assert "| finetune=full | 1 |" not in text  # a row a setting; each seed is in the CSV and on the page
    assert "| finetune=lora | 1 |" in text
    assert "| finetune=lora | 2 | n/a | n/a | failed |" in text
    assert "![ablation](figures/ablation.png)" in text
    assert (sweep / "figures/ablation.png").stat().st_size > 0
    assert (sweep / "figures/trade_offs.svg").read_text().lstrip().startswith("<?xml")
    assert (
        "No run has a table of predictions with words in its test set" in text
        and "No run has a table of predictions" in shown
    )
    assert (sweep / "ablation.html").is_file() and (sweep / "ablation.tex").is_file()
    assert not (sweep / "figures/shots.png").exists()


def test_the_same_runs_make_the_same_table_again(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    report_ablation([sweep], sweep, Console(file=io.StringIO()))
    report_ablation(sorted(sweep.glob("0*")), other, Console(file=io.StringIO()))
    for name in ("ablation.csv", "ablation.md"):
        assert (other / name).read_text() == (sweep / name).read_text()


def test_every_line_of_the_markdown_has_as_many_cells() -> None:
    rows = make(make_record(), make_record("lora", wer=None))
    lines = [line for line in to_markdown(rows, []).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(HEADINGS) + 1}
    assert "are not | enough" in to_markdown(rows, [])  # below the table, in one line


def test_the_latex_is_escaped_and_every_line_has_as_many_cells() -> None:
    rows = make(make_record(), make_record("lora", wer=None))
    rows[0] = replace(rows[0], setting=r"a_b & 50 % \input{x} ^~#$", to_untouched=-0.02, to_untouched_p_holm=0.0004)
    text = to_latex(rows)
    assert r"a\_b \& 50 \% \textbackslash{}input\{x\} \textasciicircum{}\textasciitilde{}\#\$ &" in text
    assert "$-$2.0 & $<$.001 &" in text
    assert r"\toprule" in text and text.count(r"\\") == 3  # the headings and two rows
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") - line.count(r"\&") for line in lines} == {len(HEADINGS) - 1}
    assert "% not finished: finetune=lora, seed 1: OutOfMemoryError: 80 GB are not | enough\n" in text


def test_numbers_are_whole_in_the_csv() -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv(make(make_record(wer=1 / 3)))))
    assert float(row["wer_after"]) == 1 / 3
    assert row["wer_sd"] == "" and row["folder"] == "runs/00"


def test_a_damaged_record_is_a_failed_run(sweep: Path) -> None:
    broken = sweep / "04_broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    runs = read_runs([sweep])
    assert [folder.name[:2] for folder, _ in runs] == ["00", "01", "02", "03", "04"]
    assert (runs[4][1].status, runs[4][1].name) == ("failed", "04_broken")
    assert "run.json cannot be read" in str(runs[4][1].error)
    assert len(make_rows(runs)) == 6


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"holds no run.json.*runs/DATE_TIME_ablation"):
            read_runs([folder])


def test_no_finished_run_is_a_table_without_figures(tmp_path: Path) -> None:
    write_record(make_record(wer=None), tmp_path)
    console = Console(width=200, file=io.StringIO(), record=True)
    assert report_ablation([tmp_path], tmp_path / "out", console) == 1
    assert "No run has finished" in console.export_text()
    assert (tmp_path / "out/ablation.md").is_file()
    assert not list((tmp_path / "out/figures").glob("*"))


def find_points(figure: Figure, panel: int) -> set[tuple[float, float]]:
    axes = figure.axes[panel]
    points = [zip(line.get_xdata(), line.get_ydata(), strict=True) for line in axes.lines]  # type: ignore[call-overload]
    return {(round(float(x), 6), round(float(y), 6)) for line in points for x, y in line}


def test_the_figure_shows_settings_as_they_are() -> None:
    records = [make_record(seed=1, wer=0.2), make_record(seed=2, wer=0.24), make_record("lora"), make_record(wer=None)]
    figure = plot_settings(make(*records))
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["finetune=full\n4,000,000 learn", "finetune=lora\n250,000 learn"]
    assert {(40, 0), (22, 0), (20, 0), (24, 0), (17, 0), (29, 0), (40, 1), (20, 1)} <= find_points(figure, 0)
    assert {(15, 0), (26, 0), (15, 1), (25, 1)} <= find_points(figure, 1)
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top  # the first setting stands on top
    assert plot_settings(make(make_record(wer=None))) is None


def test_wer_over_shots() -> None:
    runs = ((1, 8, 0.3), (2, 8, 0.34), (1, None, 0.2))
    figure = plot_shots(make(*(make_record(seed=seed, shots=shots, wer=wer) for seed, shots, wer in runs)))
    assert figure is not None
    assert {(8, 32), (720, 20), (8, 30), (8, 34)} <= find_points(figure, 0)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["8", "720"]
    assert plot_shots(make(make_record(), make_record("lora"))) is None
    both = [make_record(finetune, shots=shots) for finetune in DETAILS for shots in (8, 32)]
    figure = plot_shots(make(*both))
    assert figure is not None
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert {"finetune=full", "finetune=lora"} <= set(labels)
