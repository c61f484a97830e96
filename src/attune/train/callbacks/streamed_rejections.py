"""Streamed utterances that could not be used, as they come: in rejected.csv, whichever process met them."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from attune.data.findings import write_rejections
from attune.data.module import SpeechDataModule
from attune.data.processes import gather


class StreamedRejections(Callback):
    """Writes those of all processes, behind those of the audit, after each validation and at the end.

    A run that goes on begins anew with them: what it met before it stopped is not met again in that pass.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SpeechDataModule) or data.streamed is None:
            return
        met = [each for own in gather(data.streamed.rejections) for each in own]
        if met and trainer.is_global_zero:
            write_rejections([*data.rejections, *met], self.folder / "rejected.csv")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)
