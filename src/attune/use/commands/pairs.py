"""attune pairs: preference pairs of what a model writes."""

import argparse
from pathlib import Path
from typing import Any


def add_pairs(commands: Any) -> None:
    """attune pairs RUN_OR_MODEL OUT"""
    summary = "make preference pairs of what a model writes, for objective=dpo"
    parser = commands.add_parser(
        "pairs",
        help=summary,
        description=f"{summary.capitalize()} or reward_model: of each utterance the transcript, and the attempt with "
        "the most wrong characters. Then: python train.py objective=dpo data=pairs data.train=OUT/train.jsonl "
        "data.validation=OUT/validation.jsonl data.test=OUT/test.jsonl model.name_or_path=RUN",
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="who makes the attempts")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write: a new or an empty one")
    parser.add_argument(
        "--data", metavar="WORD", nargs="+", default=[], help="as for train.py: data=accent (default: the run's corpus)"
    )
    parser.add_argument("--samples", type=int, default=8, help="attempts at each utterance (default: 8)")
    parser.add_argument("--temperature", type=float, default=1.0, help="that they are drawn at (default: 1)")
    parser.add_argument("--beam", action="store_true", help="the likeliest attempts, by beam search, and no drawn ones")
    parser.add_argument(
        "--chosen", choices=["reference", "best"], default="reference", help="best: the attempt with the fewest errors"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="listen to N training utterances, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.set_defaults(run=run_pairs)


def run_pairs(arguments: argparse.Namespace) -> int:
    """Write the pairs, and say how many there are."""
    from transformers.utils import logging

    from attune.data.corpora.places import find_audio_folders
    from attune.use.pairs import Wanted, choose_config, make_pairs
    from attune.use.transcribe import load_listening

    logging.disable_progress_bar()
    names = ("samples", "temperature", "beam", "chosen", "limit", "seed")
    wanted = Wanted(**{name: getattr(arguments, name) for name in names})
    config = choose_config(arguments.model, arguments.data)
    counts = make_pairs(load_listening(arguments.model, arguments.device), config, arguments.out, wanted)
    print(f"{counts['train']} pairs to learn from, {counts['validation']} to validate on -> {arguments.out}")
    if folders := find_audio_folders(arguments.out.glob("*.jsonl")):
        print(f"Their audio lies elsewhere: train with data.audio_folders=[{','.join(folders)}]")
    return 0
