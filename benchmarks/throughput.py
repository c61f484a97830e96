"""attune beside transformers' Seq2SeqTrainer: the same clips, the same Whisper, in turn, each stage in its own process.

    python benchmarks/throughput.py                 # whisper-tiny's shape with random weights, rendered clips
    python benchmarks/throughput.py --model DIR --manifest clips.jsonl

Prints a table of ratios and leaves it, with every measurement, beside this file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sides import make_clips, make_tiny

HERE = Path(__file__).parent
GOALS = {"training, full fine-tuning": 10, "evaluation": 15, "evaluation, full window": 1.5, "features": 15}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Whisper folder or hub name")
    parser.add_argument("--manifest", help="JSONL with audio, text and language; 16 kHz")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="clips")
    parser.add_argument("--steps", type=int, default=24, help="of ours; the peer takes a sixth of them")
    parser.add_argument("--cap", type=int, default=48, help="tokens a hypothesis, prefix included")
    parser.add_argument("--precision", default="bf16-mixed", help="of ours; the peer's recipe is fp32 on a CPU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = arguments.manifest or str(make_clips(arguments.clips, Path(folder)))
        model = arguments.model or str(make_tiny(Path(folder) / "tiny"))
        results = measure(arguments, model, manifest)
    (HERE / "throughput.json").write_text(json.dumps(results, indent=1) + "\n")
    Console().print(tabulate(results))


def measure(arguments: argparse.Namespace, model: str, manifest: str) -> dict[str, dict[str, Any]]:
    def run(side: str, stage: str, steps: int, *more: str) -> dict[str, Any]:
        words = [stage, model, manifest, str(steps), str(arguments.batch), str(arguments.cap), *more]
        output = subprocess.run(
            [sys.executable, str(HERE / f"{side}.py"), *words], cwd=HERE, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        return json.loads(output.splitlines()[-1])

    steps, precision = arguments.steps, arguments.precision
    peer = {stage: run("peer", stage, max(2, steps // 6)) for stage in ("features", "train", "evaluate")}
    audio, full = ("audio", precision), ("full", "32-true")
    results = {
        "training, full fine-tuning": {"peer": peer["train"], "ours": run("ours", "train", steps, *audio)},
        "evaluation": {"peer": peer["evaluate"], "ours": run("ours", "evaluate", 1, *audio)},
        "evaluation, full window": {"peer": peer["evaluate"], "ours": run("ours", "evaluate", 1, *full)},
        "features": {"peer": peer["features"], "ours": run("ours", "features", 1, *audio)},
    }
    same = results["evaluation, full window"]
    pairs = zip(same["peer"]["hypotheses"], same["ours"]["hypotheses"], strict=True)
    same["identical_hypotheses"] = sum(one.strip() == other.strip() for one, other in pairs)
    for result in results.values():
        result["ratio"] = result["ours"]["clips_per_second"] / result["peer"]["clips_per_second"]
        result["memory_ratio"] = result["ours"]["peak_gb"] / result["peer"]["peak_gb"]
    for result in results.values():
        for side in ("peer", "ours"):
            result[side].pop("hypotheses", None)
    return results


def tabulate(results: dict[str, dict[str, Any]]) -> Table:
    table = Table("stage", "peer, clips/s", "attune, clips/s", "ratio", "goal", "memory, ours / peer")
    for stage, result in results.items():
        rates = [f"{result[side]['clips_per_second']:.2f}" for side in ("peer", "ours")]
        memory = f"{result['ours']['peak_gb']:.1f} / {result['peer']['peak_gb']:.1f} GB"
        table.add_row(stage, *rates, f"{result['ratio']:.1f}x", f"{GOALS[stage]}x", memory)
    return table


if __name__ == "__main__":
    main()
