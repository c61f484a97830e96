"""SIGTERM, Ctrl-C and SLURM's warning: the step is finished, the run saved, and the line printed that continues it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from attune.train.ranks import is_first

EXIT_CODE = 128  # and the signal's number: 143 after SIGTERM, 130 after Ctrl-C, as shells count


class Interruption(Callback):
    """A context manager around a run, and a callback in it.

    While a model is trained, the first signal lets the step, its validation and its checkpoint be finished, the second
    ends the run at once. At other times there is nothing that is not on the disk already, and one is enough. On SLURM,
    SIGUSR1 (`sbatch --signal=USR1@120`: the time is nearly up) also puts the job back into the queue.

    Args:
        folder: of the run.
        last: writes the state that a run goes on from.
    """

    def __init__(self, folder: Path, last: ModelCheckpoint):
        self.folder = folder
        self.last = last
        self.heard: int | None = None
        self.stops = False  # agreed between all processes of the run
        self.is_training = False
        self.before: dict[int, Any] = {}
        self.signals = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])]

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread listen
            self.before = {number: signal.signal(number, self._hear) for number in self.signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, SystemExit | KeyboardInterrupt) and is_first():
            screen = Console(stderr=True, soft_wrap=True, highlight=False)
            screen.print(f"attune: stopped. To go on: python train.py resume={self.folder}", markup=False)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard is not None or not self.is_training:
            raise SystemExit(EXIT_CODE + number)
        self.heard = number
        if is_first():
            print("attune: the step is finished and saved, then the run stops. Once more: at once.", file=sys.stderr)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.is_training = True
        for number in self.before:  # Lightning has put its own in their place: they cut an accumulation window short
            signal.signal(number, self._hear)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.stops = self._agree(trainer)
        self._stop(trainer, self.stops)

    def _agree(self, trainer: L.Trainer) -> bool:
        """The signal reaches processes at different moments, or one of them alone: all stop at the same step."""
        if trainer.world_size > 1:
            heard = torch.tensor(float(self.heard or 0), device=trainer.strategy.root_device)
            self.heard = int(trainer.strategy.reduce(heard, reduce_op="max")) or None
        return self.heard is not None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning would leave the validation behind its next batch: the WER of a part, and each process elsewhere.
        self._stop(trainer, False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.is_training:
            self.stops = self._agree(trainer)
            self._stop(trainer, self.stops)

    def _stop(self, trainer: L.Trainer, stops: bool) -> None:
        """Lightning looks at it after this step's validation, logging and checkpoint: nothing of them is lost."""
        trainer._signal_connector.received_sigterm = stops

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.is_training = False
        if self._agree(trainer) and self.heard is not None:  # in the last step of all
            raise SystemExit(EXIT_CODE + self.heard)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.is_training = False
        if not isinstance(exception, SIGTERMException) or self.heard is None:
            return
        exception.code = EXIT_CODE + self.heard
        exception.args = (f"{signal.Signals(self.heard).name} after step {trainer.global_step}",)
        if self.last._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(Path(str(self.last.dirpath)) / "last.ckpt")
        if self.heard == signal.SIGUSR1 and trainer.is_global_zero:
            requeue()


def requeue() -> None:
    """Put this SLURM job back into the queue; with `folder=` in its words, open_run finds the run that it began."""
    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
