"""The table of an ablation as CSV, Markdown, LaTeX and on the screen."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from attune.report.compare import Row
from attune.report.differences import PanelRow
from attune.report.record import format_percent
from attune.text.cells import defuse

HEADINGS = (
    "setting", "seed", "trainable", "WER % before", "WER % after", "to untouched", "p", "to first", "p", "CER %",
    "S / D / I", "retention % before", "retention % after", "seconds", "GB", "kJ",
)  # fmt: skip
TERM_HEADINGS = (
    "setting", "seed", "term recall % before", "after", "precision % after", "not said", "U-WER % before", "after",
)  # fmt: skip
PANEL_HEADINGS = ("setting", "panel", "words", "WER % before", "WER % after", "difference", "p")
ON_SCREEN = (0, 1, 2, 3, 4, 5, 6, 12, 13)  # of HEADINGS: what has room in a terminal
NOTE = (
    "Brackets: 95 % interval over the test set; of a mean, the mean of its runs' intervals. ±: standard deviation over "
    "the seeds. Differences are points of WER, below 0 is better. Retention: WER on what the model could do before. "
    "Seconds: inside training steps."
)
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$",
}  # fmt: skip


def pick_rows(rows: Iterable[Row]) -> list[Row]:
    """What a paper shows: a row a setting, and every run that did not finish."""
    return [row for row in rows if row.is_setting or row.status != "finished"]


def list_faults(rows: Iterable[Row]) -> list[str]:
    """The runs that did not finish: which, how they ended and why."""
    return [
        f"{row.setting}, seed {row.seed}: {row.error or f'{row.status}; it was stopped, or it still runs'}"
        for row in rows
        if row.status != "finished"
    ]


def to_csv(rows: Sequence[Row] | Sequence[PanelRow], kind: type[Row] | type[PanelRow] = Row) -> str:
    """One line a row, every number in full; rates are fractions. Texts are defused: `text.cells.restore` undoes it."""
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(field.name for field in fields(kind))
    table.writerows([defuse(cell) if isinstance(cell, str) else cell for cell in astuple(row)] for row in rows)
    return buffer.getvalue()


def to_markdown(
    rows: Sequence[Row], figures: Sequence[Path], panels: Sequence[PanelRow] = (), notes: Sequence[str] = ()
) -> str:
    """The table of the settings, what it rests on, what did not finish, every panel, and the figures."""
    faults = [f"- not finished: {' '.join(fault.split())}" for fault in list_faults(rows)]
    images = [f"![{path.stem}]({path.as_posix()})" for path in figures]
    parts = [["# Ablation"], _to_lines(HEADINGS, map(to_cells, pick_rows(rows))), [" ".join([NOTE, *notes])], faults]
    if any(row.recall_after is not None for row in rows):
        parts += [["## Terms"], _to_lines(TERM_HEADINGS, map(to_term_cells, pick_rows(rows)))]
    if panels:
        parts += [["## Every panel"], _to_lines(PANEL_HEADINGS, map(to_panel_cells, panels), texts=2)]
    return "\n\n".join("\n".join(part) for part in [*parts, images] if part) + "\n"


def to_latex(rows: Sequence[Row]) -> str:
    """The table of the settings for a paper; it needs the package booktabs."""
    picked = pick_rows(rows)
    lines = [" & ".join(map(_to_latex, cells)) + r" \\" for cells in [HEADINGS, *map(to_cells, picked)]]
    faults = [f"% not finished: {' '.join(fault.split())}" for fault in list_faults(rows)]
    columns = "ll" + "r" * (len(HEADINGS) - 2)
    parts = [
        r"% \usepackage{booktabs}",
        *faults,
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
        rf"% {NOTE}",
    ]
    return "\n".join(parts) + "\n"


def to_table(rows: Sequence[Row]) -> Table:
    """Every run and every mean for the screen; the rows of settings are bold."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=NOTE)
    for heading in (HEADINGS[place] for place in ON_SCREEN):
        table.add_column(heading, justify="left" if heading in ("setting", "seed") else "right", overflow="fold")
    for row in rows:
        cells = to_cells(row)
        table.add_row(*(Text(cells[place]) for place in ON_SCREEN), style="bold" if row.is_mean else "")
    return table


def to_cells(row: Row) -> list[str]:
    """One text for each of HEADINGS."""
    return [
        row.setting,
        row.seed,
        _count(row.trainable),
        format_percent(row.wer_before),
        _describe_wer(row) if row.status == "finished" else row.status,
        describe_difference(row.to_untouched, row.to_untouched_low, row.to_untouched_high),
        describe_p(row.to_untouched_p_holm),
        describe_difference(row.to_first, row.to_first_low, row.to_first_high),
        describe_p(row.to_first_p_holm),
        format_percent(row.cer_after),
        _describe_kinds(row),
        format_percent(row.retention_before),
        format_percent(row.retention_after),
        _count(row.seconds),
        _measure(row.peak_memory_gb),
        _measure(row.energy_kj),
    ]


def to_term_cells(row: Row) -> list[str]:
    """One text for each of TERM_HEADINGS; U-WER is the WER of all words that are in no term."""
    recall = format_percent(row.recall_after)
    if row.recall_low is not None and row.recall_high is not None:
        recall += f" [{format_percent(row.recall_low)}–{format_percent(row.recall_high)}]"
    return [
        row.setting,
        row.seed,
        format_percent(row.recall_before),
        recall,
        format_percent(row.term_precision),
        _count(row.false_insertions),
        format_percent(row.unbiased_wer_before),
        format_percent(row.unbiased_wer_after),
    ]


def to_panel_cells(row: PanelRow) -> list[str]:
    """One text for each of PANEL_HEADINGS."""
    return [
        row.setting,
        row.panel,
        f"{row.words:,}",
        format_percent(row.wer_before),
        format_percent(row.wer_after),
        describe_difference(row.difference, row.low, row.high),
        describe_p(row.p_holm),
    ]


def describe_difference(value: float | None, low: float | None, high: float | None) -> str:
    """−3.2 [−4.1, −2.3], in points; n/a where it was not paired."""
    if value is None:
        return "n/a"
    points, *ends = (f"{100 * each:+.1f}".replace("-", "−") for each in (value, low, high) if each is not None)
    return f"{points} [{', '.join(ends)}]" if len(ends) == 2 else points


def describe_p(p: float | None) -> str:
    """A p-value as papers write it: .012, <.001, or n/a."""
    return "n/a" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _to_lines(headings: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 2) -> list[str]:
    cells = [headings, [*["---"] * texts, *["---:"] * (len(headings) - texts)], *rows]
    return ["| " + " | ".join(_to_cell(cell) for cell in line) + " |" for line in cells]


def _to_cell(text: str) -> str:
    """One cell of a Markdown table, in one line, with nothing in it that a viewer would take for markup."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def _to_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _count(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"


def _measure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _describe_kinds(row: Row) -> str:
    """Of a mean with a decimal: rounded to whole errors, they would not sum to its WER."""
    kinds = (row.substitutions, row.deletions, row.insertions)
    known = [f"{kind:,.1f}" if row.is_mean else f"{kind:,.0f}" for kind in kinds if kind is not None]
    return " / ".join(known) if len(known) == len(kinds) else "n/a"


def _describe_wer(row: Row) -> str:
    """23.1 [20.0–25.9] ±0.4"""
    parts = [format_percent(row.wer_after)]
    if row.wer_low is not None and row.wer_high is not None:
        parts.append(f"[{format_percent(row.wer_low)}–{format_percent(row.wer_high)}]")
    if row.wer_sd is not None:
        parts.append(f"±{100 * row.wer_sd:.1f}")
    return " ".join(parts)
