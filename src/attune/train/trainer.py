"""Lightning's Trainer, with the choices that are not the user's to make."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger

from attune.errors import InputError, is_whole
from attune.train.allocator import return_freed_memory
from attune.train.callbacks.checkpoints import MONITORED
from attune.train.callbacks.compiled import Compiled
from attune.train.callbacks.gaps import ReturnedGaps
from attune.train.callbacks.not_finite import NotFinite
from attune.train.files import WholeCheckpoints
from attune.train.strategies import choose_strategy

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")  # Lightning's names


def make_trainer(
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    folder: str,
    max_steps: int = 240,
    precision: str = "auto",
    accumulate_grad_batches: int = 1,
    gradient_clip_val: float | None = 1.0,
    validate_every: int = 60,
    patience: int = 5,
    log_every: int = 5,
    accelerator: str = "auto",
    devices: int | str = 1,
    num_nodes: int | str = 1,
    strategy: str = "auto",
    compile: bool = False,
    max_skipped: int = 10,
    monitored: str = MONITORED,
) -> L.Trainer:
    """A Trainer over an endless stream of batches: its length is in optimiser steps, not in epochs.

    Args:
        max_steps: optimiser steps.
        precision: of PRECISIONS.
        accumulate_grad_batches: batches of a step, at least 1.
        gradient_clip_val: the largest L2 norm of a step's gradient; 0 clips none.
        validate_every: optimiser steps between validations, at least 1. The last step is always validated.
        patience: validations without a better WER after which training stops, at least 1.
        log_every: optimiser steps between logged values.
        devices, num_nodes: processes on each machine, and machines; `Ranks` has counted them.
        strategy: auto (one device), ddp, fsdp (train/strategies.py), or another of Lightning's.
        compile: torch.compile for the blocks of either side, while they learn.
        max_skipped: steps that may be left out because their gradient is not finite; one more ends the run.
        monitored: the logged value that `patience` waits for a lower one of: the WER, unless the objective has its own.

    Raises:
        InputError: a value is none of these.
    """
    counts = {"accumulate_grad_batches": accumulate_grad_batches, "validate_every": validate_every}
    check_counts(max_steps=max_steps, patience=patience, **counts)
    if gradient_clip_val is not None and gradient_clip_val < 0:
        raise InputError(
            f"trainer.gradient_clip_val={gradient_clip_val:g} would turn the gradient round. Accepted are a norm above "
            "0, and 0, which clips none."
        )
    own: list[Callback] = [
        Patience(monitored, patience=patience),
        LastValidation(),
        NotFinite(Path(folder), max_skipped),
    ]
    if compile:
        own.append(Compiled())
    if accelerator == "cpu" or not torch.cuda.is_available():
        return_freed_memory()
        own.append(ReturnedGaps())
    return L.Trainer(
        default_root_dir=folder,
        callbacks=[*callbacks, *own],
        logger=list(loggers),
        max_steps=max_steps,
        precision=choose_precision(precision, accelerator),  # type: ignore[arg-type]
        accumulate_grad_batches=accumulate_grad_batches,
        gradient_clip_val=gradient_clip_val,
        val_check_interval=validate_every * accumulate_grad_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,  # the untouched model is scored before the run: that is the sanity check
        log_every_n_steps=log_every,
        accelerator=accelerator,
        devices=devices,
        num_nodes=int(num_nodes),
        strategy=choose_strategy(strategy),
        enable_model_summary=False,
        enable_progress_bar=False,  # train/callbacks/progress.py draws ours
        use_distributed_sampler=False,
        plugins=[WholeCheckpoints()],
        benchmark=False,
    )


def check_counts(**counts: Any) -> None:
    """Raises InputError where one of the trainer's counts is no whole number of at least 1."""
    for name, count in counts.items():
        if not is_whole(count) or count < 1:
            raise InputError(f"trainer.{name}={count}: accepted are whole numbers, 1 and more.")


class Patience(EarlyStopping):
    """Lightning's early stopping; a run that it had stopped, and that died while it was scored, trains no further."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class LastValidation(Callback):
    """The last step is validated even if `validate_every` does not divide it: the best weights are looked for among
    validated ones, and what was learnt after the last of them would be lost."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # Lightning validates before it stops for this, and not before max_steps


def choose_precision(wanted: str, accelerator: str) -> str:
    """bf16-mixed on a GPU that has it, 16-mixed on one that has not, 32-true on a CPU.

    Raises:
        InputError: weights themselves would be in 16 bits: at w = 0.02 an update of 1e-5 rounds away.
    """
    if wanted not in PRECISIONS:
        raise InputError(
            f"trainer.precision={wanted}: accepted are {', '.join(PRECISIONS)}. Weights stay in 32 bits, for in 16 "
            "small updates round away; bf16-mixed computes in 16."
        )
    if wanted != "auto":
        return wanted
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
