"""attune beside transformers' Seq2SeqTrainer: the same clips, the same Whisper, in turn, each stage in its own process.

    python benchmarks/throughput.py                        # whisper-tiny's shape with random weights, rendered clips
    python benchmarks/throughput.py --digits digits.jsonl  # half of the clips are recorded digits
    python benchmarks/throughput.py --model DIR --manifest clips.jsonl

Prints a table of ratios with the goals of the issue, and leaves it, every measurement and two figures beside this file:
throughput.json, throughput.png (the ratios), throughput_by_length.png (audio seconds a second over clip length).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sides import PARTS, make_clips, make_clips_of, make_tiny

HERE = Path(__file__).parent
LENGTHS_S = (1, 2, 4, 8, 15, 30)
Measured = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: attune's stage beside the peer's."""

    name: str
    peer: str
    ours: tuple[str, str, str]  # stage, context, precision
    goal: float


def list_rows(precision: str) -> list[Row]:
    return [
        Row("training, full fine-tuning, context=audio", "train", ("train", "audio", precision), 10),
        Row("training, encoder frozen and cached, from the second epoch", "train", ("cached", "audio", precision), 30),
        Row("training, context=packed", "train", ("train", "packed", precision), 6),
        Row("evaluation, context=audio", "evaluate", ("evaluate", "audio", precision), 15),
        Row("evaluation, context=full", "evaluate", ("evaluate", "full", "32-true"), 1.5),
        Row("features", "features", ("features", "audio", "32-true"), 15),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Whisper folder or hub name")
    parser.add_argument("--manifest", help="JSONL with audio, text and language; 16 kHz")
    parser.add_argument("--digits", help="JSONL with audio (relative to it) and text, of single recorded digits")
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8, help="clips; three batches are a step, on both sides")
    parser.add_argument(
        "--steps", type=int, default=24, help="of ours, of three batches; the peer takes a sixth of them"
    )
    parser.add_argument("--cap", type=int, default=48, help="tokens a hypothesis, prefix included")
    parser.add_argument("--precision", default="bf16-mixed", help="of ours; the peer's recipe is fp32 on a CPU")
    parser.add_argument("--no-lengths", action="store_true", help="leave out the figure over clip length")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = arguments.manifest or str(make_clips(arguments.clips, Path(folder) / "clips", arguments.digits))
        side = Sides(arguments, arguments.model or str(make_tiny(Path(folder) / "tiny")))
        results: Measured = {"rows": measure_rows(side, manifest)}
        if not arguments.no_lengths:
            results["by_length"] = measure_lengths(side, Path(folder))
    (HERE / "throughput.json").write_text(json.dumps(results, indent=1) + "\n")
    plot_ratios(results["rows"]).savefig(HERE / "throughput.png", dpi=150)
    if "by_length" in results:
        plot_lengths(results["by_length"]).savefig(HERE / "throughput_by_length.png", dpi=150)
    Console().print(tabulate(results["rows"], arguments.precision))


class Sides:
    """Both sides, one stage at a time, each in a process of its own: peak memory is then the stage's."""

    def __init__(self, arguments: argparse.Namespace, model: str):
        self.batch, self.cap, self.steps = arguments.batch, arguments.cap, arguments.steps
        self.precision = arguments.precision
        self.model = model

    def peer(self, stage: str, manifest: str) -> Measured:
        return self._run("peer", stage, manifest, max(2, self.steps // 6))

    def ours(self, stage: str, context: str, precision: str, manifest: str) -> Measured:
        return self._run("ours", stage, manifest, self.steps, context, precision)

    def _run(self, side: str, stage: str, manifest: str, steps: int, *more: str) -> Measured:
        words = [stage, self.model, manifest, str(steps), str(self.batch), str(self.cap), *more]
        command = [sys.executable, str(HERE / f"{side}.py"), *words]
        output = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True).stdout
        return json.loads(output.splitlines()[-1])


def measure_rows(side: Sides, manifest: str) -> dict[str, Measured]:
    rows = list_rows(side.precision)
    peers = {stage: side.peer(stage, manifest) for stage in dict.fromkeys(row.peer for row in rows)}
    results: dict[str, Measured] = {}
    for row in rows:
        peer, ours = peers[row.peer], side.ours(*row.ours, manifest)
        ratio = ours["clips_per_second"] / peer["clips_per_second"]
        results[row.name] = {"peer": dict(peer), "ours": ours, "ratio": ratio, "goal": row.goal}
        print(f"{row.name}: {ratio:.1f}x", file=sys.stderr)
    same = results["evaluation, context=full"]
    pairs = zip(same["peer"]["hypotheses"], same["ours"]["hypotheses"], strict=True)
    same["identical_hypotheses"] = sum(one.strip() == other.strip() for one, other in pairs)
    same["hypotheses"] = len(same["ours"]["hypotheses"])
    for result in results.values():
        for each in ("peer", "ours"):
            result[each].pop("hypotheses", None)
    return results


def measure_lengths(side: Sides, folder: Path) -> list[Measured]:
    """Audio seconds a second in training, at context=audio and by the peer, over the length of the clips."""
    found = []
    for length_s in LENGTHS_S:
        # A step of them: of fewer the peer would make a step too, of what there is.
        manifest = str(make_clips_of(length_s, PARTS * side.batch, folder / f"{length_s}s"))
        peer = length_s * side.peer("train", manifest)["clips_per_second"]
        ours = length_s * side.ours("train", "audio", side.precision, manifest)["clips_per_second"]
        found.append({"length_s": length_s, "peer": peer, "ours": ours})
    return found


def tabulate(rows: dict[str, Measured], precision: str) -> Table:
    table = Table("what", "peer", "attune", "ratio", "goal")
    for name, result in rows.items():
        rates = [f"{result[each]['clips_per_second']:.2f} clips/s" for each in ("peer", "ours")]
        table.add_row(name, *rates, f"{result['ratio']:.1f}x", f"{result['goal']:g}x")
    full = rows["evaluation, context=full"]
    identical = f"{full['identical_hypotheses']} of {full['hypotheses']}"
    table.add_row("identical hypotheses, context=full", "", identical, "", "all")
    audio = rows["training, full fine-tuning, context=audio"]
    peaks = [audio[each]["peak_gb"] for each in ("peer", "ours")]
    table.add_row(
        "peak resident memory, training", *(f"{peak:.2f} GB" for peak in peaks), f"{peaks[1] / peaks[0]:.2f}", "0.5"
    )
    share = f"{100 * audio['ours']['mfu']:.0f} %"
    table.add_row(
        f"share of the measured peak of {'bf16' if 'bf16' in precision else 'fp32'} products, training", "", share, "",
        "30 %" if "bf16" in precision else "60 %",
    )  # fmt: skip
    return table


def plot_ratios(rows: dict[str, Measured]) -> Figure:
    """A bar a row, and a mark where its goal is; the peer is the line at 1."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    names = list(rows)[::-1]
    axes.barh(names, [rows[name]["ratio"] for name in names], color="#4477aa", height=0.6)
    axes.plot([rows[name]["goal"] for name in names], names, "|", color="#222222", markersize=14, label="goal")
    axes.axvline(1.0, color="#999999", linewidth=1)
    axes.set(xscale="log", xlabel="Clips a second, times Seq2SeqTrainer's")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_lengths(found: list[Measured]) -> Figure:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    lengths = [each["length_s"] for each in found]
    for side, name, color in (("ours", "attune, context=audio", "#4477aa"), ("peer", "Seq2SeqTrainer", "#cc6677")):
        axes.plot(lengths, [each[side] for each in found], "o-", label=name, color=color)
    axes.set(xscale="log", yscale="log", xlabel="Clip length (s)", ylabel="Audio seconds trained on a second")
    axes.set_xticks(lengths, map(str, lengths))
    axes.set_yticks(rates := [1, 2, 5, 10, 20, 50], map(str, rates))
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
