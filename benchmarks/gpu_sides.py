"""What the parts of gpu.py share: Whispers of the published sizes with random weights, batches of noise, clocks."""

import gc
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from attune.audio.waveform import SAMPLE_RATE_HZ, SAMPLES_PER_POSITION
from attune.data.batch import Batch, Example, collate
from attune.model.finetune.base import FineTuning, apply_finetuning
from attune.model.flops import count_forward, count_training, learning_shares
from attune.model.whisper import Whisper, complete_generation_config, load_tokens
from attune.text.tokens import Tokens
from attune.train.callbacks.throughput import GPU_PEAKS
from attune.train.memory import Job, Load, Need
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

TEXT_TOKENS = 24  # of five seconds of English
TOKENS = TEXT_TOKENS + 4  # with what stands before them; as many are taught
PRECISION = "bf16-mixed"


@dataclass(frozen=True)
class Shape:
    """A published Whisper."""

    width: int
    layers: int
    heads: int
    mels: int = 80
    vocabulary: int = 51_865

    def config(self, tokens: Tokens) -> WhisperConfig:
        return WhisperConfig(
            vocab_size=self.vocabulary,
            num_mel_bins=self.mels,
            d_model=self.width,
            encoder_layers=self.layers,
            decoder_layers=self.layers,
            encoder_attention_heads=self.heads,
            decoder_attention_heads=self.heads,
            encoder_ffn_dim=4 * self.width,
            decoder_ffn_dim=4 * self.width,
            bos_token_id=tokens.end_of_text,
            eos_token_id=tokens.end_of_text,
            pad_token_id=tokens.end_of_text,
            decoder_start_token_id=tokens.start,
        )


SHAPES = {
    "small": Shape(768, 12, 12),
    "large-v3": Shape(1280, 32, 20, mels=128, vocabulary=51_866),
    "toy": Shape(64, 2, 2, vocabulary=2_000),
}


def make_published(size: str, device: torch.device) -> Whisper:
    """The architecture and vocabulary of a published size, weights drawn on the device. The tokenizer is nano's, whose
    ids are a part of the vocabulary: all that is measured is arithmetic."""
    tokens = load_tokens("nano")
    with device:
        network = WhisperForConditionalGeneration(SHAPES[size].config(tokens))
    network.generation_config = complete_generation_config(GenerationConfig(), tokens)
    return Whisper(network.train(), tokens).to(device)


def make_noise_batch(
    whisper: Whisper, positions: Sequence[int], speech_s: float | None = None, text_tokens: int = TEXT_TOKENS
) -> Batch:
    """A window of noise for each number of positions (all equal, as in every batch), with random ids as its text."""
    rng, tokens = random.Random(len(positions)), whisper.tokens
    vocabulary: int = whisper.network.config.vocab_size
    examples = []
    for index, each in enumerate(positions):
        samples = round(speech_s * SAMPLE_RATE_HZ) if speech_s else each * SAMPLES_PER_POSITION
        prefix = tokens.prefix("en")
        ids = [*prefix, *(rng.randrange(vocabulary) for _ in range(text_tokens)), tokens.end_of_text]
        sound = 0.1 * torch.randn(samples)
        examples.append(
            Example(
                id=str(index), waveform=sound, positions=each, decoder_input_ids=ids[:-1], labels=ids[1:],
                prefix=prefix, reference="", language="en", speaker=None,
            )
        )  # fmt: skip
    return collate(examples, tokens.end_of_text)


class Endless(IterableDataset[Batch]):
    """The same few batches again and again."""

    def __init__(self, batches: Sequence[Batch]):
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield from self.batches


class Clock(Callback):
    """Seconds, utterances and FLOPs of the steps behind the first few, which warm up."""

    def __init__(self, warm: int):
        self.warm = warm

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx == self.warm:
            self.before, self.started = (pl_module.flops_done, pl_module.utterances_seen), now(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:  # type: ignore[override]
        if trainer.global_step < trainer.max_steps:
            return
        self.seconds = now(pl_module.device) - self.started
        self.flops = pl_module.flops_done - self.before[0]
        self.utterances = pl_module.utterances_seen - self.before[1]


def now(device: torch.device) -> float:
    """The time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def train(
    size: str,
    finetune: FineTuning,
    choose_windows: Callable[[Whisper], tuple[int, int]],
    device: torch.device,
    steps: int,
    warm: int = 3,
    compile: bool = False,
) -> dict[str, Any]:
    """So many steps of the repository's own module and trainer.

    Args:
        choose_windows: (windows of a batch, positions of each).

    Returns:
        windows, positions, seconds a step, utterances a second, FLOP/s, GB allocated at most, GB foreseen.
    """
    forget(device)
    whisper = make_published(size, device)
    apply_finetuning(finetune, whisper.network)
    windows, positions = choose_windows(whisper)
    batch = make_noise_batch(whisper, [positions] * windows)
    foreseen = foresee(whisper, windows, positions)
    module = WhisperModule(whisper, finetune, CrossEntropy(), steps=1000)
    clock = Clock(warm)
    trainer = make_trainer(
        [clock, ModelCheckpoint(save_top_k=0)], [], tempfile.mkdtemp(), max_steps=warm + steps, precision=PRECISION,
        validate_every=10**6, compile=compile, accelerator="auto" if device.type == "cuda" else "cpu", devices=1,
    )  # fmt: skip
    trainer.strategy.teardown = lambda: None  # it would move all to the CPU, which takes seconds
    loader = DataLoader(Endless([batch]), batch_size=None, pin_memory=device.type == "cuda")
    trainer.fit(module, train_dataloaders=loader)
    seconds = clock.seconds
    return {
        "windows": windows, "positions": positions, "parts": module.recovery.parts,
        "step_s": seconds / steps, "utterances_per_second": clock.utterances / seconds,
        "flops_per_second": clock.flops / seconds, "step_tflop": clock.flops / steps / 1e12,
        "peak_gb": peak_gb(device), "foreseen_gb": foreseen.total / 1e9,
        "foreseen": {name: value / 1e9 for name, value in vars(foreseen).items()},
    }  # fmt: skip


def foresee(whisper: Whisper, windows: int, positions: int) -> Need:
    """The memory plan of steps with such a batch and of nothing else."""
    load = Load(windows, positions, TOKENS, windows * TOKENS)
    return Job(whisper.network, load, half=True, scored_positions=0).need()


def count_step(whisper: Whisper, windows: int, positions: int) -> float:
    """FLOPs of a training step."""
    forward = count_forward(whisper.network.config, windows, positions, TOKENS, windows * TOKENS)
    return count_training(forward, learning_shares(whisper.network))


def measure_products(device: torch.device, side: int) -> float:
    """FLOP/s of bf16 products of square matrices: the best of ten, after some that wake the device up."""
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(14):
        started = now(device)
        _ = one @ other
        seconds.append(now(device) - started)
    return 2 * side**3 / min(seconds[4:])


def find_sheet_peak(device: torch.device) -> float | None:
    """FLOP/s of the data sheet."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for key, peak in GPU_PEAKS.items() if key in name), None)


def time_s(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Mean seconds of a repeat, after two to warm up."""
    for _ in range(2):
        work()
    started = now(device)
    for _ in range(repeats):
        work()
    return (now(device) - started) / repeats


def peak_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def forget(device: torch.device) -> None:
    """Free what the part before has left, and let the peak begin anew."""
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
