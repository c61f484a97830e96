"""An exponential moving average of the weights, in their place wherever weights are judged, saved or kept."""

from collections.abc import Sequence

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from attune.errors import InputError


class MovingAverage(WeightAveraging):
    """average <- d * average + (1 - d) * weights after every optimiser step, d = min(decay, (1 + n) / (10 + n)).

    n counts the steps before: the warm-up of d lets the average leave the first weights behind, which at 0.999 alone
    would take thousands of steps. Lightning's callback validates the average, writes it as the checkpoint's weights
    (those that learn lie beside it, for resuming) and leaves it in the model at the end. LoRA's two factors are
    averaged each by itself. It costs one more copy of all weights.

    Args:
        decay: in (0, 1); 0.999 is the usual one.

    Raises:
        InputError: it is not.
    """

    def __init__(self, decay: float):
        if not 0 < decay < 1:
            raise InputError(f"ema={decay:g} is no decay of a moving average: it must be in (0, 1), such as 0.999.")
        # Buffers are copied and not averaged: none of Whisper's learns.
        super().__init__(use_buffers=False, multi_avg_fn=lambda *weights: average(*weights, decay=decay))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Lightning asks the model where to put the average, and the model has not been moved to the GPU yet.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


@torch.no_grad()
def average(averaged: Sequence[Tensor], current: Sequence[Tensor], taken: Tensor | int, decay: float) -> None:
    """One update in place. By interpolation, which leaves a weight that did not change what it was, bit for bit."""
    warmed = min(decay, (1 + int(taken)) / (10 + int(taken)))
    for mean, weight in zip(averaged, current, strict=True):
        if mean.is_floating_point():  # a quantised base is integers, and frozen
            mean.lerp_(weight, 1 - warmed)
