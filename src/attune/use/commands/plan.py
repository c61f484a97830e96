"""attune plan: how much memory a run will need."""

import argparse
from typing import Any


def add_plan(commands: Any) -> None:
    """attune plan WORD..."""
    summary = "how much memory a run will need, and what to change for it to fit"
    parser = commands.add_parser(
        "plan",
        help=summary,
        description=f"{summary.capitalize()}. Reads the corpus and the model's config.json, loads no weights, takes no "
        "step. Run it in the folder of train.py.",
    )
    parser.add_argument("words", metavar="WORD", nargs="*", help="as for train.py: model=small finetune=lora")
    parser.set_defaults(run=run_plan)


def run_plan(arguments: argparse.Namespace) -> int:
    """Refuse what train.py would refuse; else print the plan."""
    from transformers.utils import logging

    from attune.use.config import compose_run
    from attune.use.plan import plan_run
    from attune.use.screen import make_console

    logging.disable_progress_bar()
    plan_run(make_console(), compose_run(arguments.words))
    return 0
