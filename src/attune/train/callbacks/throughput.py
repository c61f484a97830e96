"""How fast a run trains, what share of the device's arithmetic that is, and how much memory and energy it needs."""

import gc
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from attune.data.processes import gather
from attune.train.energy import Energy
from attune.train.module import WhisperModule

# Dense products of bfloat16 (float16 where there is none) with float32 sums, in FLOP/s, from NVIDIA's data sheets.
GPU_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12, "T4": 65e12}
MEASURED_SIDE, MEASURED_TIMES = 2048, 3  # of the square matrices that measure another device
COUNTED = ("utterances_seen", "audio_seen_s", "flops_done")  # by the module, in the course of a run


class Throughput(Callback):
    """Seconds and energy inside training steps, without validation and checkpoints; peak memory; time until the first
    step ended. All but the memory are in every checkpoint, with what the module has counted: a run that goes on tells
    of all its parts.

    Args:
        launched_at: `time.time()` when the program started.
    """

    def __init__(self, launched_at: float):
        self.launched_at = launched_at
        self.first_step_after_s: float | None = None
        self.energy = Energy()
        self.seconds = 0.0
        self.step_started = 0.0
        self.peak = 0.0
        self.module: L.LightningModule | None = None
        self.is_first = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.module, self.is_first = pl_module, trainer.is_global_zero

    def state_dict(self) -> dict[str, Any]:
        """Counts are those of all processes together, so that a run may go on with another number of them."""
        counts = gather([getattr(self.module, name, 0) for name in COUNTED])
        return {
            "seconds": self.seconds,
            "kilojoules": self._sum_energy(),
            "first_step_after_s": self.first_step_after_s,
            **{name: sum(each) for name, each in zip(COUNTED, zip(*counts, strict=True), strict=True)},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The first process goes on from the counts, the others from nothing: their sum is again that of all."""
        self.seconds = state_dict["seconds"]
        self.first_step_after_s = state_dict["first_step_after_s"]
        if self.is_first:
            spent = state_dict["kilojoules"]
            self.energy.joules = None if spent is None else 1000 * spent
            for name in COUNTED:
                setattr(self.module, name, state_dict[name])

    def on_train_batch_start(self, *args: Any) -> None:  # type: ignore[override]  # only what is used is named
        self.step_started = time.perf_counter()
        self.energy.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:  # type: ignore[override]  # only what is used is named
        self.seconds += time.perf_counter() - self.step_started
        self.energy.stop()
        if self.first_step_after_s is None and trainer.global_step > 0:
            self.first_step_after_s = time.time() - self.launched_at
        if not self.peak:  # behind the first step, which nothing may delay
            self.peak = find_peak(pl_module)  # type: ignore[arg-type]

    def _sum_energy(self) -> float | None:
        """In kJ; None where it cannot be read."""
        energies = [each for each in gather(self.energy.kilojoules) if each is not None]
        spent = energies if self.energy.gpu is not None else energies[:1]  # a processor is counted by all on it
        return sum(spent) if spent else None

    def summary(self, steps: int, module: WhisperModule) -> dict[str, float | None]:
        """The `train` part of run.json. Of several processes all must ask: what was heard is their sum, memory that of
        the fullest; energy, too, is the sum, where each has a GPU.

        `mfu` is the FLOPs of the model, none counted twice, over what the devices could have done in the same seconds;
        None where nothing was trained. A peak that is measured is the larger one of two, behind the first step and
        behind the last; where the model was faster than both, other work had slowed them, and the share is not known.
        """
        seconds, own = max(self.seconds, 1e-9), [getattr(module, name) for name in COUNTED]
        utterances, audio_s, flops = map(sum, zip(*(counted := gather(own)), strict=True))
        memory_gb = max(gather(peak_memory_gb()))  # ahead of what measures the peak
        mfu = flops / seconds / max(self.peak, find_peak(module)) / len(counted) if flops else None
        return {
            "steps": steps,
            "skipped_steps": module.skipped_steps,
            "seconds": self.seconds,
            "utterances_per_second": utterances / seconds if utterances else None,
            "audio_seconds_per_second": audio_s / seconds if utterances else None,
            "peak_memory_gb": memory_gb,
            "energy_kj": self._sum_energy(),
            "mfu": mfu if mfu is None or mfu <= 1 else None,
            "first_step_after_s": self.first_step_after_s,
        }


def find_peak(module: WhisperModule) -> float:
    """FLOP/s of matrix products on the module's device: of its data sheet, or else measured in the run's precision."""
    device = module.whisper.network.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((peak for key, peak in GPU_PEAKS.items() if key in name), None)
        if known:
            return known
    precision = str(module.trainer.precision)
    half = torch.bfloat16 if "bf16" in precision else torch.float16
    return measure_peak(device, half if "16" in precision else torch.float32)


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few products of 2048 x 2048 matrices."""
    own = torch.Generator(device).manual_seed(0)  # the run's numbers, of which dropout is made, stay as they are
    one, other = (torch.randn((MEASURED_SIDE,) * 2, generator=own, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(MEASURED_TIMES):
        started = time.perf_counter()
        (one @ other)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * MEASURED_SIDE**3 / min(seconds)


def peak_memory_gb() -> float:
    """Largest memory so far in 10^9 bytes: allocated on the GPU, or resident in this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def reset_peak_memory() -> None:
    """Let `peak_memory_gb` begin anew: the runs of a sweep follow each other in one process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux alone has it; elsewhere the peak stays that of all runs so far
        Path("/proc/self/clear_refs").write_text("5")
