"""A loss or gradient that is not finite: the step is left out and counted; too many of them end the run."""

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from attune.data.batch import Batch
from attune.errors import InputError
from attune.train.files import replace_file
from attune.train.module import WhisperModule

log = logging.getLogger(__name__)
SAVED = "not_finite.pt"


class NotFinite(Callback):
    """Looks at the gradient that all processes have in common, before it is clipped: the norm of one that holds a NaN
    is NaN, and clipping by it would make every weight NaN. A loss that is not finite has such a gradient.

    A parameter without a gradient is left alone by AdamW: no decay, no momentum, no count. The step counts in the
    schedule all the same, so that a run that goes on takes the same ones.

    Args:
        folder: of the run; the batches of the last such step are left there.
        limit: steps that may be left out in the whole run.

    Raises:
        InputError: one more than that.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder = folder
        self.limit = limit
        self.skipped = 0
        self.window: list[Batch] = []  # what the coming step has heard

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell(pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.window = self.window if batch_idx % trainer.accumulate_grad_batches else []
        self.window.append(batch)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and scaler.get_scale() > 1:  # 16-mixed: it looks itself, leaves the step out, and
            return  # scales less the next time; that is its way of finding the scale
        assert isinstance(pl_module, WhisperModule)
        if torch.isfinite(pl_module.gradient_norm):
            return
        for parameter in pl_module.parameters():
            parameter.grad = None
        self.skipped += 1
        self._tell(pl_module)
        ids = [id for batch in self.window for id in batch.ids]
        log.warning(
            "attune: step %d is left out, because its gradient is not finite (%d so far). It heard: %s",
            trainer.global_step, self.skipped, ", ".join(ids[:20]),
        )  # fmt: skip
        if self.skipped > self.limit:
            self._end(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.skipped:
            pl_module.log("train/skipped", float(self.skipped))

    def _tell(self, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, WhisperModule)
        pl_module.skipped_steps = self.skipped

    def _end(self, trainer: L.Trainer) -> None:
        path = self.folder / SAVED
        if trainer.is_global_zero:
            with replace_file(path) as file:
                torch.save(
                    {"step": trainer.global_step, "batches": [to_primitives(each) for each in self.window]}, file
                )
        raise InputError(
            f"{self.skipped} steps had a gradient that is not finite, more than trainer.max_skipped={self.limit}. The "
            f"batches of the last one are in {path} (torch.load). Look for a transcript or a recording that does not "
            "belong there; else lower optimizer.learning_rate, or take trainer.precision=bf16-mixed or 32-true."
        )


def to_primitives(batch: Batch) -> dict[str, Any]:
    """What torch.load opens with weights_only."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
