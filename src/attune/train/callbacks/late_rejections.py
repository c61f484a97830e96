"""rejected.csv while a run goes on: training utterances that turned out unusable when their turn came."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from attune.data.findings import write_rejections
from attune.data.module import SpeechDataModule


class LateRejections(Callback):
    """Writes the file anew whenever there are more: a run that ends at once must have left its reasons.

    Of several processes the first writes what it has met itself; the others say theirs in their logs.
    """

    def __init__(self, folder: Path, data: SpeechDataModule):
        self.folder = folder
        self.data = data
        self.written = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._write(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and len(self.data.late) > self.written:
            self.write()

    def write(self) -> None:
        write_rejections(self.data.list_rejections(), self.folder / "rejected.csv")
        self.written = len(self.data.late)
