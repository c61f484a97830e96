"""An ablation's tables, figures and page, made of nothing but what its run folders hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from attune.report.ablation_figures import plot_settings, plot_shots
from attune.report.ablation_page import write_ablation_page
from attune.report.compare import Row, make_rows
from attune.report.differences import Differences, PanelRow, Panels, add_differences, check_comparable, read_panels
from attune.report.figures import save_figures
from attune.report.forest import plot_curves, plot_forest, plot_groups
from attune.report.record import write_atomically
from attune.report.runs import Runs, drop_repeats, read_runs
from attune.report.tables import list_faults, to_csv, to_latex, to_markdown, to_table
from attune.report.trade_offs import plot_trade_offs
from attune.text.normalise import NORMALISER, describe_normalisers


def report_ablation(folders: Sequence[Path], output: Path, console: Console) -> int:
    """Write the tables, figures/ and ablation.html into `output`, and print the table.

    ablation.csv has a row a run and a setting, ablation_panels.csv a row a setting and panel; ablation.md and
    ablation.tex have what a paper shows.

    Args:
        folders: run folders, and folders of run folders.

    Returns:
        How many of the runs did not finish.

    Raises:
        InputError: a folder holds no run, or two runs were scored on different test sets or by different normalisers.
    """
    runs, repeats = drop_repeats(read_runs(folders))
    panels = read_panels(runs)
    check_comparable(runs, panels)
    found = add_differences(make_rows(runs), panels)
    notes = [*_describe_words(runs, panels), *found.notes, *repeats, *_compare_commits(runs)]
    figures = save_figures(
        output,
        {
            "ablation": plot_settings(found.rows),
            "forest": plot_forest(found.rows),
            "trade_offs": plot_trade_offs(found.rows),
            "groups": plot_groups(found.rows, panels),
            "curves": plot_curves(found.rows),
            "shots": plot_shots(found.rows),
        },
        kinds=("png", "svg"),
    )
    _write_tables(output, found, notes, [path for path in figures if path.suffix == ".png"])
    write_ablation_page(output, found, notes, [path for path in figures if path.suffix == ".svg"])
    _print(console, found.rows, notes, output)
    return len(list_faults(found.rows))


def _write_tables(output: Path, found: Differences, notes: Sequence[str], figures: Sequence[Path]) -> None:
    relative = [path.relative_to(output) for path in figures]
    write_atomically(output / "ablation.csv", to_csv(found.rows))
    write_atomically(output / "ablation_panels.csv", to_csv(found.panels, PanelRow))
    write_atomically(output / "ablation.md", to_markdown(found.rows, relative, found.panels, notes))
    write_atomically(output / "ablation.tex", to_latex(found.rows))


def _describe_words(runs: Runs, panels: Mapping[str, Panels]) -> list[str]:
    """Say what was counted as words, unless a normaliser of another attune did."""
    languages = {row.language for found in panels.values() for rows in found.values() for row in rows}
    counted = {record.normaliser for folder, record in runs if panels[str(folder)]}
    return [f"{describe_normalisers(languages)}."] if languages and counted == {NORMALISER} else []


def _compare_commits(runs: Runs) -> list[str]:
    """Say where runs come from different code: continued after a change, a sweep is no longer one experiment."""
    commits = sorted({str(record.git["commit"])[:10] for _, record in runs if record.git})
    return [f"The runs come from different commits: {', '.join(commits)}."] if len(commits) > 1 else []


def _print(console: Console, rows: Sequence[Row], notes: Sequence[str], output: Path) -> None:
    console.print(to_table(rows))
    for note in notes:
        console.print(Text(note), soft_wrap=True)
    for fault in list_faults(rows):
        console.print(Text.assemble(("not finished: ", "red"), fault), soft_wrap=True)
    if not any(row.runs for row in rows):
        console.print("No run has finished, so there is nothing to compare yet.")
    console.print(Text(f"ablation: {output / 'ablation.html'}, .md, .csv, .tex, figures/"), soft_wrap=True)
