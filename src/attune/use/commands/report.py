"""attune report: runs beside each other."""

import argparse
from pathlib import Path
from typing import Any

from attune.errors import InputError


def add_report(commands: Any) -> None:
    """attune report FOLDER..."""
    summary = "set runs beside each other: a table and figures"
    parser = commands.add_parser(
        "report",
        help=summary,
        description=f"{summary.capitalize()}: ablation.html, ablation.md, .csv and .tex, figures/. The runs must have "
        "one test set: differences are paired by utterance.",
        epilog="Exit code: 0, 1 where a run did not finish (the others are in the table), 2 for bad input.",
    )
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="+", type=Path, help="a folder of runs, as a sweep leaves it, or one run"
    )
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="write here (default: FOLDER, if it holds runs)")
    parser.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace) -> int:
    """Make a sweep's table and figures again, or those of runs that were gathered by hand."""
    folders: list[Path] = arguments.folders
    output = arguments.output_dir or folders[0]
    if arguments.output_dir is None and (len(folders) > 1 or (output / "run.json").is_file()):
        raise InputError("Several folders, or a single run, have no place for a table: give --output-dir=DIR.")

    from attune.report.ablation import report_ablation
    from attune.use.screen import make_console

    return 1 if report_ablation(folders, output, make_console()) else 0
