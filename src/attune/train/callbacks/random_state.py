"""The random numbers of a run that goes on are those that the uninterrupted run would have drawn."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

KEY = "random_states"  # of a checkpoint: one entry a process


class RandomState(Callback):
    """Saves the states of Python's, NumPy's and torch's generators, and sets them before the first step that follows.

    Dropout draws from them. Lightning keeps none of them, and begins all processes with the same: here each gets its
    own. Order, windows and augmentation depend on the seed and the step alone, and need nothing of this.
    """

    def __init__(self) -> None:
        self.restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states = [collect()]
        if trainer.world_size > 1:  # every process has its own; all of them come here, and the first one writes
            states = [{}] * trainer.world_size
            torch.distributed.all_gather_object(states, collect())
        checkpoint[KEY] = states

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get(KEY, [])
        # With another number of processes the batches are other ones too: nothing is to be repeated.
        self.restored = states[trainer.global_rank] if len(states) == trainer.world_size else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_rank > 0:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        if self.restored is not None:
            restore(self.restored)
            self.restored = None


def collect() -> dict[str, Any]:
    """The states, as what a checkpoint may hold: tensors and primitives."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(states: dict[str, Any]) -> None:
    """Set them; those of other GPUs than there were are left as they are."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
