"""What the screen shows of the libraries: warnings and errors, not their progress bars and advertisements."""

import logging
import warnings

import datasets
from rich.console import Console
from transformers.utils import logging as transformers_logging


def settle_screen() -> None:
    """One progress line is ours; the others are switched off. No warning of our own is touched."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what it says at INFO: "GPU available: False", a tip
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    # Lightning 2.6 against torch 2.11: a deprecated name in its own code, which a user can do nothing about.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # The corpus decides on worker processes: on a CPU the cores are needed to train.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")


def make_console(quiet: bool = False) -> Console:
    """Rich's console; where nobody looks at it, in a log file, 100 columns wide; `quiet` says nothing."""
    console = Console(quiet=quiet)
    return console if console.is_terminal else Console(width=100, quiet=quiet)
