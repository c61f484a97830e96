"""attune audit: what is in a corpus."""

import argparse
from pathlib import Path
from typing import Any


def add_audit(commands: Any) -> None:
    """attune audit WORD..."""
    summary = "what is in a corpus, what is wrong with it, and what is learnt and also scored"
    parser = commands.add_parser(
        "audit",
        help=summary,
        description=f"Say {summary}: audit.html, audit.csv (every finding) and rejected.csv. Loads no weights. Run it "
        "in the folder of train.py.",
        epilog="Exit code: 0, 1 where a run on this corpus would be refused, 2 for bad input.",
    )
    parser.add_argument("words", metavar="WORD", nargs="*", help="as for train.py: data=folder data.root=talks")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", default=Path("audit"), help="(default: audit)")
    parser.set_defaults(run=run_audit)


def run_audit(arguments: argparse.Namespace) -> int:
    """Audit a corpus."""
    from attune.use.audit import run_audit
    from attune.use.config import compose_run
    from attune.use.screen import make_console, settle_screen

    settle_screen()
    return 0 if run_audit(make_console(), compose_run(arguments.words), arguments.output_dir) else 1
