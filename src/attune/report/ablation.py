"""An ablation's table and figures, made of nothing but the run.json files of its runs."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attune.errors import InputError
from attune.report.ablation_figures import plot_settings, plot_shots
from attune.report.compare import Row, make_rows
from attune.report.figures import save_figures
from attune.report.record import RunRecord, format_percent, read_record, write_atomically

HEADINGS = (
    "setting", "seed", "trainable", "WER % before", "WER % after", "retention % before", "after", "seconds", "GB",
)  # fmt: skip
NOTE = (
    "Brackets: 95 % interval over the test set; of a mean, the mean of its runs' intervals. ±: standard deviation over "
    "the seeds. Retention: WER on what the model could do before. Seconds: inside training steps."
)


def report_ablation(folders: Sequence[Path], output: Path, console: Console) -> int:
    """Write ablation.csv, ablation.md and figures/ into `output`, and print the table.

    Args:
        folders: run folders, and folders of run folders.

    Returns:
        How many of the runs did not finish.

    Raises:
        InputError: a folder holds no run.
    """
    rows = make_rows(read_runs(folders))
    write_atomically(output / "ablation.csv", to_csv(rows))
    figures = save_figures(output, {"ablation": plot_settings(rows), "shots": plot_shots(rows)})
    write_atomically(output / "ablation.md", to_markdown(rows, [path.relative_to(output) for path in figures]))
    console.print(to_table(rows))
    for fault in list_faults(rows):
        console.print(Text.assemble(("not finished: ", "red"), fault), soft_wrap=True)
    console.print(f"ablation: {output / 'ablation.md'}, ablation.csv, figures/", highlight=False, soft_wrap=True)
    return len(list_faults(rows))


def read_runs(folders: Sequence[Path]) -> list[tuple[Path, RunRecord]]:
    """Every run in some folders, in the order of their names; one whose run.json is damaged is a failed run.

    Raises:
        InputError: a folder is no run and holds none.
    """
    runs: list[tuple[Path, RunRecord]] = []
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob("*/run.json"))
        found = [folder] if (folder / "run.json").is_file() else inside
        if not found:
            raise InputError(
                f"{folder} holds no run.json, and no folder in it does. Accepted: run folders that train.py wrote, and "
                "folders of them, such as runs/DATE_TIME_ablation."
            )
        runs += [(run, _read(run)) for run in found]
    return runs


def _read(run: Path) -> RunRecord:
    try:
        return read_record(run)
    except InputError as error:
        return RunRecord(name=run.name, seed=0, config={}, status="failed", error=str(error))


def list_faults(rows: Iterable[Row]) -> list[str]:
    """The runs that did not finish: which, how they ended and why."""
    return [
        f"{row.setting}, seed {row.seed}: {row.error or f'{row.status}; it was stopped, or it still runs'}"
        for row in rows
        if row.status != "finished"
    ]


def to_csv(rows: Sequence[Row]) -> str:
    """One line a row, every number in full; rates are fractions."""
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(field.name for field in fields(Row))
    table.writerows(astuple(row) for row in rows)
    return buffer.getvalue()


def to_markdown(rows: Sequence[Row], figures: Sequence[Path]) -> str:
    """The table, what did not finish, and the figures."""
    cells = [HEADINGS, ["---", "---", *["---:"] * (len(HEADINGS) - 2)], *map(_to_cells, rows)]
    table = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in cells]
    faults = [f"- not finished: {' '.join(fault.split())}" for fault in list_faults(rows)]
    images = [f"![{path.stem}]({path.as_posix()})" for path in figures]
    parts = [["# Ablation"], table, [NOTE], faults, images]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def to_table(rows: Sequence[Row]) -> Table:
    """The same table for the screen; means are bold."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=NOTE)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("setting", "seed") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in _to_cells(row)), style="bold" if row.is_mean else "")
    return table


def _to_cells(row: Row) -> list[str]:
    return [
        row.setting,
        row.seed,
        _count(row.trainable),
        format_percent(row.wer_before),
        _describe_wer(row) if row.status == "finished" else row.status,
        format_percent(row.retention_before),
        format_percent(row.retention_after),
        _count(row.seconds),
        "n/a" if row.peak_memory_gb is None else f"{row.peak_memory_gb:.2f}",
    ]


def _count(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"


def _describe_wer(row: Row) -> str:
    """23.1 [20.0–25.9] ±0.4"""
    parts = [format_percent(row.wer_after)]
    if row.wer_low is not None and row.wer_high is not None:
        parts.append(f"[{format_percent(row.wer_low)}–{format_percent(row.wer_high)}]")
    if row.wer_sd is not None:
        parts.append(f"±{100 * row.wer_sd:.1f}")
    return " ".join(parts)
