"""attune evaluate: score a model on a corpus."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attune.errors import InputError


def add_evaluate(commands: Any) -> None:
    """attune evaluate RUN_OR_MODEL WORD..."""
    summary = "score a model on a corpus, with the report of a run"
    parser = commands.add_parser(
        "evaluate",
        help=summary,
        description=f"{summary.capitalize()}: run.json, predictions/ and report.html, in a run folder of its own; "
        "attune report sets several beside each other. It is python train.py with finetune=none; a folder for "
        "CTranslate2, whisper.cpp or onnxruntime is heard by that program. Run it in the folder of train.py.",
    )
    known = "a run folder, a model folder of any format, a hub name, or 'nano'"
    parser.add_argument("model", metavar="RUN_OR_MODEL", help=known)
    parser.add_argument("words", metavar="WORD", nargs="*", help="as for train.py: data=noise context=full folder=OUT")
    parser.set_defaults(run=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Hand the words on to train.py, which scores all that it can load."""
    import subprocess

    from attune.use.config import find_configs
    from attune.use.formats.known import find_format

    words = list_evaluation_words(arguments.model, arguments.words)
    folder = Path(arguments.model)
    if format := find_format(folder):
        from attune.use.evaluate import evaluate

        evaluate(folder, format, ["context=full", *words])
        return 0
    return subprocess.run([sys.executable, str(find_configs().parent / "train.py"), *words], check=False).returncode


def list_evaluation_words(model: str, words: Sequence[str]) -> list[str]:
    """The words of train.py that train nothing.

    Raises:
        InputError: one of them says that something is to be trained, or which model.
    """
    taken = [word for word in words if word.lstrip("+~").split("=")[0].split(".")[0] in ("model", "finetune", "resume")]
    if taken or any(not word.startswith("-") and "=" not in word for word in words):
        wrong = taken or [word for word in words if "=" not in word]
        raise InputError(
            f"attune evaluate: {wrong[0]} is none of its words. It takes one model, which it does not train, and words "
            "of train.py such as data=noise, context=full or folder=OUT. To train: python train.py"
        )
    quoted = model.replace("\\", "\\\\").replace("'", "\\'")  # a run of a sweep has an = in its name
    allowed = "data.allow_leakage=true"  # nothing is learnt, and one file may stand for all splits
    return [f"model.name_or_path='{quoted}'", "finetune=none", allowed, *words]
