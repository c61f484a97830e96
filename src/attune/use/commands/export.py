"""attune export: a run's checkpoint as a model for other programs."""

import argparse
from pathlib import Path
from typing import Any

FORMATS = ("hf", "ctranslate2", "ggml", "onnx")


def add_export(commands: Any) -> None:
    """attune export RUN OUT"""
    parser = commands.add_parser(
        "export",
        help="write a run's checkpoint for transformers, faster-whisper, whisper.cpp or onnxruntime",
        description="Write a run's checkpoint as a model for other programs: what was added is merged where it can be, "
        "the logits are compared with the checkpoint's, the program transcribes the run's test set, and README.md says "
        "what the model is worth. A finished run has a folder for transformers already, RUN/model.",
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder, finished or not")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write: a new or an empty one")
    parser.add_argument(
        "--to",
        choices=FORMATS,
        default="hf",
        help="hf: transformers (default); ctranslate2: faster-whisper; ggml: whisper.cpp; onnx: onnxruntime. All but "
        "hf need: pip install 'attune[export]'",
    )
    parser.add_argument(
        "--dtype", choices=["float32", "float16"], help="of the weights on disk (default: float32; of ggml float16)"
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="best: by validation WER")
    parser.add_argument(
        "--max-difference",
        type=_points,
        default=0.2,
        metavar="POINTS",
        help="of WER on the run's test set, between attune and the program; beyond it nothing is kept (default: 0.2)",
    )
    parser.add_argument(
        "--utterances", type=_count, metavar="N", help="compare on the first N of the test set (default: all; 0: none)"
    )
    parser.add_argument(
        "--push-to", metavar="OWNER/NAME", help="upload the folder to the hub, into a private repository"
    )
    parser.set_defaults(run=run_export)


def _points(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is no number of points: accepted are 0 to 100")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of utterances: accepted are 0 and above")
    return value


def run_export(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from transformers.utils import logging

    from attune.use.convert import convert, push

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    out: Path = arguments.out
    done = convert(
        arguments.folder,
        out,
        arguments.to,
        arguments.dtype,
        arguments.checkpoint,
        arguments.max_difference,
        arguments.utterances,
    )
    exported = done.exported
    print(f"{', '.join(map(str, exported.checkpoints))} -> {out} ({arguments.to}, {done.dtype})")
    print(f"Loaded again, its logits differ by at most {exported.difference:.0e} of the largest.")
    if exported.left_out:
        print(f"Left out, because no transcript depends on it: {', '.join(exported.left_out)}.")
    if exported.additions:
        print(exported.additions)
    if done.parity:
        print(done.parity.describe())
    if done.unchecked:
        print(f"Its transcripts were not compared: {done.unchecked}.")
    if arguments.push_to:
        print(f"Pushed to {push(out, arguments.push_to)}")
    return 0
