"""The `attune` command: what is done beside a run, or after it.

A subcommand is one file in commands/, with one function `add_NAME(commands)` that is listed in COMMANDS: it declares
its arguments and sets `run`, which takes them and returns the exit code (0: all went well, 1: some files failed; 2 is
bad input). torch takes seconds to import, so what needs it is imported inside `run`, after the arguments have been
checked.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from attune.errors import InputError, check_writable
from attune.use.commands.audit import add_audit
from attune.use.commands.evaluate import add_evaluate
from attune.use.commands.export import add_export
from attune.use.commands.pairs import add_pairs
from attune.use.commands.plan import add_plan
from attune.use.commands.prefer import add_prefer
from attune.use.commands.report import add_report
from attune.use.commands.sweep import add_sweep
from attune.use.commands.transcribe import add_transcribe

COMMANDS: Sequence[Callable[[Any], None]] = (
    add_transcribe,
    add_evaluate,
    add_export,
    add_report,
    add_plan,
    add_audit,
    add_pairs,
    add_prefer,
    add_sweep,
)


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaint in one line and in the words of the other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"attune: {message}. See: {self.prog} --help\n")


def main() -> None:
    """The console script `attune`. Beside train.py it finds what train.py finds: a module with one's own type."""
    if Path("train.py").is_file() and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    arguments = make_parser().parse_args()
    from attune.use.faults import speak_plainly

    try:
        speak_plainly(lambda: sys.exit(run(arguments)))
    except KeyboardInterrupt:
        sys.exit(130)  # as the shell counts a command that was stopped


def run(arguments: argparse.Namespace) -> int:
    """Run a command. Where it writes is looked at first: what cannot be written should not be computed.

    Raises:
        InputError: --output-dir is a file or cannot be written, or what the command raises.
    """
    folder = getattr(arguments, "output_dir", None)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"--output-dir={folder} is a file. Give a folder; it is made where it does not exist.")
    if folder is not None:
        check_writable(folder, "--output-dir=ANOTHER/PLACE")
    if isinstance(out := getattr(arguments, "out", None), Path):
        check_writable(out, "another OUT")
    return arguments.run(arguments)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="attune", description="Use a Whisper, fine-tuned or not. Training: python train.py")
    parser.add_argument("--version", action="version", version=f"attune {version('attune')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


if __name__ == "__main__":
    main()
