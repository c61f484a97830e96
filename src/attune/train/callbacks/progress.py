"""One line on the screen: step, loss, WER, time left."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressLine(Callback):
    """A Rich progress bar over optimiser steps, with the latest loss and validation WER, and one over scoring.

    Where the output is no terminal, such as a log file, a line a validation instead.
    """

    def __init__(self, console: Console):
        self.console = console
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.scoring = "scoring"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start("training", int(trainer.max_steps), trainer)
        self._update(completed=trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # type: ignore[override]  # only what is used is named
        due = self.progress is not None and trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        # Values are read when they are logged anyway: to read one is to wait for the device.
        self._update(completed=trainer.global_step, **({"values": _values(trainer)} if due else {}))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._update(values=_values(trainer))
        if trainer.is_global_zero and not self.console.is_terminal:
            self.console.print(
                f"step {trainer.global_step} of {trainer.max_steps}  {_values(trainer)}", highlight=False
            )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(self.scoring, int(sum(trainer.num_test_batches)), trainer)

    def on_test_batch_end(self, *args: Any) -> None:  # type: ignore[override]  # only what is used is named
        if self.progress is not None and self.task is not None:
            self.progress.advance(self.task)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _start(self, label: str, total: int, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero or not self.console.is_terminal:
            return
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.progress.add_task(label, total=total, values="")
        self.progress.start()

    def _update(self, **changes: Any) -> None:
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, **changes)

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def _values(trainer: L.Trainer) -> str:
    metrics = trainer.callback_metrics
    shown = [f"loss {metrics['train/loss']:.2f}"] if "train/loss" in metrics else []
    return "  ".join([*shown, f"WER {100 * metrics['val/wer']:.1f} %"] if "val/wer" in metrics else shown)
