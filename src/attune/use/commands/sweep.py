"""attune sweep: a named ablation for Weights & Biases."""

import argparse
from typing import Any


def add_sweep(commands: Any) -> None:
    """attune sweep NAME"""
    summary = "a named ablation as the YAML of a Weights & Biases sweep"
    parser = commands.add_parser(
        "sweep",
        help=summary,
        description=f"Print {summary}: attune sweep types > sweep.yaml; wandb sweep sweep.yaml; wandb agent ID. Agents "
        "on any number of machines share the grid; without W&B, python train.py ablation=NAME runs it.",
    )
    parser.add_argument("name", metavar="NAME", help="of configs/ablation: types, lora_rank, ...")
    parser.set_defaults(run=run_sweep)


def run_sweep(arguments: argparse.Namespace) -> int:
    """Print the sweep."""
    from attune.use.config import find_configs
    from attune.use.sweep import describe_wandb_sweep

    print(describe_wandb_sweep(arguments.name, find_configs()), end="")
    return 0
