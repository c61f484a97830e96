"""How fast a run trains, and how much memory it needs."""

import resource
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from attune.train.module import WhisperModule


class Throughput(Callback):
    """Seconds inside training steps, without validation and checkpoints; peak memory; time until the first step ended.

    Args:
        launched_at: `time.time()` when the program started.
    """

    def __init__(self, launched_at: float):
        self.launched_at = launched_at
        self.first_step_after_s: float | None = None
        self.seconds = 0.0
        self.step_started = 0.0

    def on_train_batch_start(self, *args: Any) -> None:  # type: ignore[override]  # only what is used is named
        self.step_started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:  # type: ignore[override]  # only what is used is named
        self.seconds += time.perf_counter() - self.step_started
        if self.first_step_after_s is None and trainer.global_step > 0:
            self.first_step_after_s = time.time() - self.launched_at

    def summary(self, steps: int, module: WhisperModule) -> dict[str, float | None]:
        """The `train` part of run.json. `mfu` is null: no peak of this device is known to it."""
        seconds = max(self.seconds, 1e-9)
        return {
            "steps": steps,
            "seconds": self.seconds,
            "utterances_per_second": module.utterances_seen / seconds,
            "audio_seconds_per_second": module.audio_seen_s / seconds,
            "peak_memory_gb": peak_memory_gb(),
            "mfu": None,
            "first_step_after_s": self.first_step_after_s,
        }


def peak_memory_gb() -> float:
    """Largest memory so far in 10^9 bytes: allocated on the GPU, or resident in this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
