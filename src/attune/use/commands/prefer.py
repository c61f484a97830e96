"""attune prefer: people choose between two transcripts."""

import argparse
from pathlib import Path
from typing import Any


def add_prefer(commands: Any) -> None:
    """attune prefer RUN_OR_MODEL FOLDER"""
    summary = "a local page on which people choose between two transcripts, for objective=dpo"
    parser = commands.add_parser(
        "prefer",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. Each answer is a line of FOLDER/preferences.jsonl, which "
        "data=pairs reads; the same command goes on where it stopped.",
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="who writes the transcripts")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a new or an empty folder, or one that was begun")
    parser.add_argument(
        "--data", metavar="WORD", nargs="+", help="as for train.py: data=accent (default: the run's corpus)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="training utterances, drawn by the seed (default: 100)")
    parser.add_argument("--samples", type=int, help="tries to draw a transcript that differs (default: 8)")
    parser.add_argument("--temperature", type=float, help="that they are drawn at (default: 1)")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument(
        "--train", action="store_true", help="no page: train on what was chosen so far; the page then offers the model"
    )
    parser.add_argument(
        "--words", metavar="WORD", nargs="+", default=[], help="for train.py, here and on the page: finetune=lora"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where the page is reached (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8765, help="default: 8765; 0 takes a free one")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.set_defaults(run=run_prefer)


def run_prefer(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or train."""
    from attune.use.prefer import ANSWERS, Session, settle
    from attune.use.prefer_server import open_server
    from attune.use.screen import settle_screen

    settle_screen()
    names = ("model", "data", "limit", "samples", "temperature", "seed")
    wanted = settle(arguments.folder, {name: getattr(arguments, name) for name in names})
    if arguments.train:
        from attune.use.dpo_runs import DpoRuns

        return DpoRuns(arguments.folder, wanted.model, arguments.words).wait(arguments.folder / ANSWERS)
    with open_server(arguments.host, arguments.port) as server:
        server.serve_session(Session(arguments.folder, wanted, arguments.device, arguments.words))
    return 0
