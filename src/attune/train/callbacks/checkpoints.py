"""Keep the last state of a run, and the best one."""

from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from attune.train.module import WhisperModule

MONITORED = "val/wer"


class Checkpoints:
    """checkpoints/last.ckpt, from which a run continues, and checkpoints/best.ckpt, by validation WER.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "checkpoints"
        self.best = ModelCheckpoint(self.folder, "best", monitor=MONITORED, save_top_k=1, enable_version_counter=False)
        self.last = ModelCheckpoint(self.folder, "last", monitor=None, save_top_k=1, enable_version_counter=False)

    @property
    def callbacks(self) -> list[Callback]:
        return [self.best, self.last]

    @property
    def resume_from(self) -> Path:
        return self.folder / "last.ckpt"

    def load_best(self, module: WhisperModule) -> None:
        """Put the weights of the best validation back; where none was reached, the last ones stay."""
        path = self.folder / "best.ckpt"
        if path.is_file():
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
            module.load_state_dict(state)
