"""rejected.csv while a run goes on: training utterances that turned out unusable when their turn came."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from attune.data.findings import write_rejections
from attune.data.module import SpeechDataModule


class LateRejections(Callback):
    """Writes the file anew whenever there are more: a run that ends at once must have left its reasons.

    Of several processes each knows what it has met itself: the others write rejected-RANK.csv.
    """

    def __init__(self, folder: Path, data: SpeechDataModule):
        self.folder = folder
        self.data = data
        self.written = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.write()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.write()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.write()

    def write(self) -> None:
        if len(self.data.late) > self.written:
            rank, found = self.data.rank, self.data.list_rejections()
            own = found[len(self.data.rejections) :] if rank else found
            write_rejections(own, self.folder / (f"rejected-{rank}.csv" if rank else "rejected.csv"))
            self.written = len(self.data.late)
