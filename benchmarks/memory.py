"""The memory plan beside what a process really takes: five types, three sizes, each in a process of its own.

    python benchmarks/memory.py                              # CPU: the largest resident memory
    python benchmarks/memory.py --device cuda                # the most that was allocated
    python benchmarks/memory.py --sizes nano --types full,lora --precision bf16-mixed

Each process scores a batch, as a run does with the untouched model, and then trains on batches of noise at
context=audio, in the sizes that data.batch_window_s gives. Prints a table in 10^9 bytes and leaves memory.json beside
this file.
"""

import attune  # noqa: F401  # ahead of torch, as in train.py

# isort: split
import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

HERE = Path(__file__).parent
SIZES = ("nano", "tiny", "base")
TYPES = ("full", "decoder", "lora", "adapter", "bias")
STEPS = 5
TOKENS_PER_S = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--seconds", type=float, default=120.0, help="data.batch_window_s; a half of it for base")
    parser.add_argument("--one", action="store_true", help="in this process, of the one size and type; prints JSON")
    wanted = parser.parse_args()
    if wanted.one:
        print(json.dumps(measure(wanted.sizes, wanted.types, wanted)))
        return
    found = [run(size, type, wanted) for size in wanted.sizes.split(",") for type in wanted.types.split(",")]
    (HERE / "memory.json").write_text(json.dumps(found, indent=1) + "\n")
    worst = max(abs(each["planned_gb"] / each["measured_gb"] - 1) for each in found)
    print(f"{len(found)} runs; the plan is at most {100 * worst:.0f} % off")


def run(size: str, type: str, wanted: argparse.Namespace) -> dict[str, Any]:
    words = ["--one", "--sizes", size, "--types", type, "--device", wanted.device]
    words += ["--precision", wanted.precision, "--seconds", str(wanted.seconds / (2 if size == "base" else 1))]
    command = [sys.executable, __file__, *words]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    result = json.loads(output.splitlines()[-1])
    parts = ", ".join(f"{name} {value:.2f}" for name, value in result["parts_gb"].items() if value >= 0.005)
    off = 100 * (result["planned_gb"] / result["measured_gb"] - 1)
    print(f"{size:5} {type:8} planned {result['planned_gb']:5.2f} measured {result['measured_gb']:5.2f} "
          f"{off:+4.0f} %   {parts}", flush=True)  # fmt: skip
    return result


def measure(size: str, type: str, wanted: argparse.Namespace) -> dict[str, Any]:
    from gpu_sides import SHAPES, Shape, make_noise_batch, make_published
    from hydra.utils import instantiate
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch.utils.data import DataLoader

    from attune.audio.context import AudioContext
    from attune.audio.waveform import POSITIONS_PER_S
    from attune.model.decode import decode_greedily
    from attune.model.finetune.base import apply_finetuning
    from attune.model.whisper import load_tokens, load_whisper
    from attune.train.memory import Job, Load
    from attune.train.module import WhisperModule
    from attune.train.objective.cross_entropy import CrossEntropy
    from attune.train.room import costliest, find_process
    from attune.train.trainer import make_trainer

    SHAPES.update({"tiny": Shape(384, 4, 6), "base": Shape(512, 6, 8)})
    torch.manual_seed(0)
    device, context, rng = torch.device(wanted.device), AudioContext(), random.Random(0)
    whisper = load_whisper(size, load_tokens(size)) if size == "nano" else make_published(size, torch.device("cpu"))
    settings = yaml.safe_load((HERE.parent / "configs" / "finetune" / f"{type}.yaml").read_text())
    finetune = instantiate({key: value for key, value in settings.items() if key != "defaults"}, _convert_="all")
    apply_finetuning(finetune, whisper.network)
    room = int(wanted.seconds * POSITIONS_PER_S)
    drawn = [(duration_s := rng.uniform(1.5, 6.0), context.positions(duration_s, rng)) for _ in range(STEPS)]
    batches = [make_noise_batch(whisper, [positions] * max(1, room // positions), min(duration_s, positions / 50),
                                round(TOKENS_PER_S * duration_s)) for duration_s, positions in drawn]  # fmt: skip
    loads = [
        Load(len(batch), positions, batch.labels.shape[1], batch.supervised)
        for batch, (_, positions) in zip(batches, drawn, strict=True)
    ]
    on_gpu, half = device.type == "cuda", "16" in wanted.precision
    job = Job(
        whisper.network, loads[0], half=half, scored_positions=2 * room,
        process=0 if on_gpu else find_process(whisper.network),
    )  # fmt: skip
    need = costliest(job, loads).need()

    whisper.to(device).eval()
    scored = make_noise_batch(whisper, [250] * (2 * room // 250)).to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        decode_greedily(whisper, whisper.encode(scored.waveform), scored.prefixes, [24] * len(scored))
    module = WhisperModule(whisper.train(), finetune, CrossEntropy(), steps=100)
    trainer = make_trainer(
        [ModelCheckpoint(save_top_k=0)], [], tempfile.mkdtemp(), max_steps=STEPS, precision=wanted.precision,
        validate_every=10**6, accelerator="gpu" if on_gpu else "cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    measured = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else find_peak_resident_gb()
    parts = {name: value / 1e9 for name, value in vars(need).items()}
    return {"size": size, "type": type, "planned_gb": need.total / 1e9, "measured_gb": measured, "parts_gb": parts}


def find_peak_resident_gb() -> float:
    from sides import peak_resident_gb

    return peak_resident_gb()


if __name__ == "__main__":
    main()
