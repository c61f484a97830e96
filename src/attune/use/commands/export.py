"""attune export: a run's checkpoint as a plain model."""

import argparse
from pathlib import Path
from typing import Any


def add_export(commands: Any) -> None:
    """attune export RUN OUT"""
    summary = "write a run's checkpoint as a plain transformers model"
    parser = commands.add_parser(
        "export",
        help=summary,
        description=f"{summary.capitalize()}: what was added is merged where it can be, and the logits of what was "
        "written are compared with the checkpoint's. A finished run has such a folder already, RUN/model.",
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder, finished or not")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write: a new or an empty one")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the weights on disk")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="best: by validation WER")
    parser.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from transformers.utils import logging

    from attune.use.export import export

    logging.disable_progress_bar()
    done = export(arguments.folder, arguments.out, arguments.dtype, arguments.checkpoint)
    print(f"{', '.join(map(str, done.checkpoints))} -> {arguments.out} ({arguments.dtype})")
    print(f"Loaded again, its logits differ by at most {done.difference:.0e} of the largest.")
    if done.left_out:
        print(f"Left out, because no transcript depends on it: {', '.join(done.left_out)}.")
    if done.additions:
        print(done.additions)
    return 0
