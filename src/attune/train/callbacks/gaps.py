"""The heap's gaps go back to the system every few steps, on a CPU."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from attune.train.allocator import return_gaps

EVERY = 4  # micro-batches: oftener costs more time, and saves little


class ReturnedGaps(Callback):
    """See `train/allocator.py`."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % EVERY == 0:
            return_gaps()
