"""What one GPU gives: share of its peak, memory, throughput beside Seq2SeqTrainer, log-mel, decoding. Offline: weights
are random, in the shapes of whisper-small and whisper-large-v3; training goes through the library's own module and
trainer.

    python benchmarks/gpu.py --json gpu.json                  # all parts, some two minutes on an H100
    python benchmarks/gpu.py --parts train,lora16 --compile   # some parts; torch.compile beside eager training
    python benchmarks/gpu.py --smoke                          # a toy on the CPU: does every part run?

A part that fails is told with its error, and the others go on. Parts: peaks, train, lora16, peer, decode, mel, files.
"""

import argparse
import json
import tempfile
import time
import traceback
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
from gpu_sides import (
    PRECISION,
    SHAPES,
    TOKENS,
    Clock,
    count_step,
    find_sheet_peak,
    foresee,
    forget,
    make_noise_batch,
    make_published,
    measure_products,
    now,
    peak_gb,
    time_s,
    train,
)
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import GenerationMixin, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback, logging

from attune.audio.context import AudioContext
from attune.audio.log_mel import LogMel
from attune.audio.waveform import SAMPLE_RATE_HZ, SAMPLES_PER_POSITION, WINDOW_POSITIONS
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.module import SpeechDataModule
from attune.model.decode import decode_greedily
from attune.model.finetune.full import Full
from attune.model.finetune.lora import Lora
from attune.model.whisper import Whisper
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

SHORT, LONG = 314, WINDOW_POSITIONS
CLIP_S = 5.0
CARD_GB = 16.0
STEP_TFLOP = 110  # of a step: a quarter of a second, so that launching kernels is no part of what is measured
USED = 0.7  # of the GPU's memory at most, by the plan
Result = dict[str, Any]


class Bench:
    """All parts, and what each of them found."""

    def __init__(self, wanted: argparse.Namespace):
        self.device = torch.device("cpu" if wanted.smoke else "cuda")
        self.smoke, self.compile, self.budget_s = wanted.smoke, wanted.compile, wanted.budget
        self.json = Path(wanted.json) if wanted.json else None
        self.sizes = ["toy"] if wanted.smoke else wanted.sizes.split(",")
        self.steps, self.warm = (2, 1) if wanted.smoke else (8, 3)
        self.started = time.perf_counter()
        self.found: Result = {"device": self._name(), "torch": torch.__version__}

    def _name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def part(self, name: str, work: Callable[[], Result]) -> None:
        """Do it, tell it, and write down all that is known so far."""
        begun = time.perf_counter()
        if begun - self.started > self.budget_s:
            result: Result = {"error": "not begun: --budget was used up"}
        else:
            try:
                result = work()
            except Exception as error:  # whatever it is, the other parts are still worth having
                result = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-2000:]}
        result["part_s"] = time.perf_counter() - begun
        self.found[name] = result
        print(f"{name:34} {tell(result)}", flush=True)
        if self.json:
            self.json.write_text(json.dumps(self.found, indent=1) + "\n")
        forget(self.device)

    def peaks(self) -> Result:
        return {
            "measured_tflops": measure_products(self.device, 256 if self.smoke else 8192) / 1e12,
            "sheet_tflops": (find_sheet_peak(self.device) or 0.0) / 1e12 or None,
        }

    def train(self, size: str, kind: str, positions: int, compile: bool = False) -> Result:
        finetune = Full() if kind == "full" else Lora()
        choose = lambda whisper: (self._fill(whisper, positions), positions)  # noqa: E731
        result = train(size, finetune, choose, self.device, self.steps, self.warm + 2 * compile, compile)
        return self._shares(result)

    def _shares(self, result: Result) -> Result:
        """Of the two peaks; and how far off the memory plan is."""
        peaks = self.found.get("peaks", {})
        for name in ("sheet", "measured"):
            if peaks.get(f"{name}_tflops"):
                result[f"mfu_{name}"] = result["flops_per_second"] / 1e12 / peaks[f"{name}_tflops"]
        if result["peak_gb"]:
            result["plan_error"] = result["foreseen_gb"] / result["peak_gb"] - 1
        return result

    def _fill(self, whisper: Whisper, positions: int, limit_gb: float | None = None) -> int:
        """As many windows as make a step of STEP_TFLOP, or as fit."""
        if self.smoke:
            return 2
        total_gb = torch.cuda.get_device_properties(self.device).total_memory / 1e9
        room_gb = limit_gb or USED * total_gb
        wanted = 256 if limit_gb else max(1, round(STEP_TFLOP * 1e12 / count_step(whisper, 1, positions)))
        return min(wanted, self._fit(whisper, positions, room_gb))

    def _fit(self, whisper: Whisper, positions: int, room_gb: float) -> int:
        """The most windows of which a step fits, by the plan; 1 at least."""
        counts = range(1, 1025)
        return max(1, bisect_right(counts, 1e9 * room_gb, key=lambda each: foresee(whisper, each, positions).total))

    def lora_within(self, positions: int) -> Result:
        """The largest batch of large-v3 with LoRA that the plan puts into 16 GB, and what it takes."""
        choose = lambda whisper: (self._fill(whisper, positions, 0.94 * CARD_GB), positions)  # noqa: E731
        return self._shares(train(self.sizes[-1], Lora(), choose, self.device, 3, 1))

    def ours(self, choose_clips: Callable[[Whisper], int], compile: bool = False) -> Result:
        """Training on clips of five seconds, full fine-tuning, at context=audio."""
        positions = AudioContext().positions(CLIP_S, None)
        choose = lambda whisper: (choose_clips(whisper), positions)  # noqa: E731
        warm = self.warm + 2 * compile
        return self._shares(train(self.sizes[0], Full(), choose, self.device, self.steps, warm, compile))

    def peer(self, clips: int) -> Result:
        """transformers' Seq2SeqTrainer on the same number of clips, padded to 30 s, features ready in memory."""
        whisper = make_published(self.sizes[0], self.device)
        network, shape, device = whisper.network, SHAPES[self.sizes[0]], self.device
        network.config.use_cache = False
        features = torch.randn(clips, shape.mels, 2 * WINDOW_POSITIONS)
        labels = torch.randint(0, shape.vocabulary, (clips, TOKENS))
        rows: Any = [{"input_features": one, "labels": other} for one, other in zip(features, labels, strict=True)]
        warm, steps, marks = self.warm, self.steps, []

        class Marks(TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                marks.append(now(device))

        arguments = Seq2SeqTrainingArguments(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=clips, max_steps=warm + steps,
            learning_rate=1e-5, save_strategy="no", eval_strategy="no", report_to=[], remove_unused_columns=False,
            disable_tqdm=True, use_cpu=device.type == "cpu", bf16=True, logging_strategy="no",
        )  # fmt: skip
        collator = lambda rows: {name: torch.stack([row[name] for row in rows]) for name in rows[0]}  # noqa: E731
        trainer = Seq2SeqTrainer(
            args=arguments, model=network, train_dataset=rows, data_collator=collator, callbacks=[Marks()]
        )
        trainer.train()
        step_s = (marks[-1] - marks[warm - 1]) / steps
        return {"windows": clips, "step_s": step_s, "utterances_per_second": clips / step_s, "peak_gb": peak_gb(device)}

    def against_peer(self, clips: int, compile: bool) -> None:
        """Both sides with batches of as many clips, then ours with as many as the memory of the peer holds."""
        self.part("peer 5 s", lambda: self.peer(clips))
        peer = self.found["peer 5 s"]
        room: float = peer.get("peak_gb") or 0.0  # 0 on a CPU: no more clips
        positions = AudioContext().positions(CLIP_S, None)
        ways = {
            "as many": lambda _: clips,
            "in its memory": lambda whisper: max(clips, self._fit(whisper, positions, room)),
        }
        for name, choose in ways.items():
            for compiled in (False, True)[: 1 + compile]:
                part = f"ours 5 s, {name}" + compiled * ", compiled"
                self.part(part, lambda choose=choose, compiled=compiled: self.ours(choose, compiled))
                rates = [each.get("utterances_per_second") for each in (self.found[part], peer)]
                if all(rates):
                    self.part(
                        f"times the peer, {name}" + compiled * ", compiled",
                        lambda rates=rates: {"training": rates[0] / rates[1]},
                    )

    def decode(self, size: str) -> Result:
        """Greedy decoding with random weights, which never end: clips of five seconds at context=audio, 40 tokens."""
        clips, cap = (2, 4) if self.smoke else (128, 40)
        whisper = make_published(size, self.device).eval()
        positions = AudioContext().positions(CLIP_S, None)
        batch = make_noise_batch(whisper, [positions] * clips, CLIP_S).to(self.device)

        @torch.no_grad()
        def work() -> None:
            with torch.autocast(self.device.type, torch.bfloat16):
                states = whisper.encode(batch.waveform)
                decode_greedily(whisper, states, batch.prefixes, [cap] * clips)

        seconds = time_s(work, 2 if self.smoke else 3, self.device)
        rates = {"clips": clips, "clips_per_second": clips / seconds, "tokens_per_second": clips * cap / seconds}
        return rates | {"step_ms": 1000 * seconds / cap, "peak_gb": peak_gb(self.device)}

    def generate(self, size: str) -> Result:
        """transformers' `generate` on the same clips padded to 30 s, as Seq2SeqTrainer evaluates."""
        clips, cap = (2, 4) if self.smoke else (128, 40)
        whisper = make_published(size, self.device).eval()
        network, generate = whisper.network, GenerationMixin.generate  # type: ignore[attr-defined]
        features = torch.randn(clips, SHAPES[size].mels, 2 * WINDOW_POSITIONS, device=self.device)
        prefixes = torch.tensor([whisper.tokens.prefix("en")] * clips, device=self.device)
        length = {"min_new_tokens": cap, "max_new_tokens": cap}

        @torch.no_grad()
        def work() -> None:
            with torch.autocast(self.device.type, torch.bfloat16):  # Whisper's own would hear 30 s in several segments
                generate(network, features, decoder_input_ids=prefixes, **length)

        seconds = time_s(work, 1 if self.smoke else 2, self.device)
        return {"clips": clips, "clips_per_second": clips / seconds, "peak_gb": peak_gb(self.device)}

    def mel(self) -> Result:
        """Log-mel of 64 windows, in milliseconds a batch."""
        result: Result = {}
        for mels in (80, 128):
            log_mel = LogMel(mels).to(self.device)
            for positions in (SHORT, LONG):
                waveform = torch.randn(2 if self.smoke else 64, positions * SAMPLES_PER_POSITION, device=self.device)
                seconds = time_s(lambda log_mel=log_mel, waveform=waveform: log_mel(waveform), 10, self.device)
                result[f"ms_{mels}_mels_{positions}"] = 1000 * seconds
        return result

    def files(self) -> Result:
        """The way that train.py goes: recordings on disk, worker processes, audit, training, validation."""
        clips, scored = (8, 2) if self.smoke else (512, 32)
        whisper = make_published(self.sizes[0], self.device)
        with tempfile.TemporaryDirectory() as folder:
            rows = [write_noise(Path(folder), index) for index in range(clips + scored)]
            manifests = [write_manifest(Path(folder) / f"{name}.jsonl", part) for name, part in
                         (("train", rows[:clips]), ("dev", rows[clips:]))]  # fmt: skip
            corpus = ManifestCorpus(manifests[0], manifests[1])
            data = SpeechDataModule(corpus, whisper.tokens, AudioContext(), batch_window_s=20 if self.smoke else 448)
            data.prepare()
            finetune = Full()
            finetune.apply(whisper.network)
            module = WhisperModule(whisper, finetune, CrossEntropy(), steps=1000)
            clock, steps = Clock(self.warm), self.warm + self.steps
            trainer = make_trainer(
                [clock, ModelCheckpoint(save_top_k=0)], [], folder, max_steps=steps, precision=PRECISION,
                validate_every=steps, devices=1, accelerator="auto" if self.device.type == "cuda" else "cpu",
            )  # fmt: skip
            trainer.fit(module, datamodule=data)
        told = trainer.callback_metrics
        return {"utterances_per_second": clock.utterances / clock.seconds, "val_wer": float(told["val/wer"])}


def write_noise(folder: Path, index: int) -> Result:
    path = folder / f"{index:04d}.wav"
    sound = 0.1 * torch.randn(round(CLIP_S * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(index))
    soundfile.write(path, sound.numpy(), SAMPLE_RATE_HZ)
    return {"audio": str(path), "text": f"this is the sentence with the number {index}", "language": "en"}


def write_manifest(path: Path, rows: list[Result]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def tell(result: Result) -> str:
    """One line; nothing that is a table of its own."""
    plain = {key: value for key, value in result.items() if isinstance(value, int | float | str) and key != "trace"}
    return "  ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in plain.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="where to write everything")
    parser.add_argument("--parts", default="peaks,train,lora16,peer,decode,mel,files")
    parser.add_argument(
        "--sizes", default="small,large-v3", help="the first is the peer's, the last is LoRA's in 16 GB"
    )
    parser.add_argument("--compile", action="store_true", help="train once more with trainer.compile=true")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds after which no part begins")
    parser.add_argument("--smoke", action="store_true", help="toy sizes on the CPU")
    wanted = parser.parse_args()
    logging.set_verbosity_error()
    bench, parts = Bench(wanted), wanted.parts.split(",")
    bench.part("peaks", bench.peaks)
    clips = 2 if bench.smoke else 64
    if "train" in parts:
        for size in bench.sizes:
            for kind in ("full", "lora"):
                for positions in (SHORT, LONG):
                    job = size, kind, positions
                    bench.part(f"train {size} {kind} {positions}", lambda job=job: bench.train(*job))
                    if wanted.compile:
                        bench.part(f"compiled {size} {kind} {positions}", lambda job=job: bench.train(*job, True))
    if "lora16" in parts:
        for positions in (SHORT, LONG):
            bench.part(f"lora16 {bench.sizes[-1]} {positions}", lambda each=positions: bench.lora_within(each))
    if "peer" in parts:
        bench.against_peer(clips, wanted.compile)
    if "decode" in parts:
        for size in bench.sizes:
            bench.part(f"decode {size}", lambda each=size: bench.decode(each))
        bench.part(f"generate {bench.sizes[0]}", lambda: bench.generate(bench.sizes[0]))
    if "mel" in parts:
        bench.part("mel", bench.mel)
    if "files" in parts:
        bench.part("files", bench.files)
    print(f"{time.perf_counter() - bench.started:.0f} s in all")


if __name__ == "__main__":
    main()
