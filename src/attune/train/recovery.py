"""What happens when a step does not fit into memory: it is taken again in halves, and no utterance is lost."""

import gc
import logging
from collections.abc import Callable, Sequence

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy

from attune.data.batch import Batch

log = logging.getLogger(__name__)


class Recovery:
    """Learns from one micro-batch after another, whole or, where that does not fit, in parts.

    When a part does not fit, the gradients of the accumulation window are of no use: some parameters have the part's,
    others have not. They are cleared, and the window's micro-batches are taken again from its first, each in twice as
    many parts. From then on every micro-batch is cut so. The loss is a sum over tokens that is divided once, so that
    the parts' gradient is the whole's, however it was cut.

    It holds on one device. On several, one process cannot go back alone: the others wait for it in the middle of a
    reduction. There the fault ends the run as before. On a CPU, Linux promises more memory than it has, and ends the
    process when it is used up: then there is nothing to catch.
    """

    def __init__(self) -> None:
        self.parts = 1
        self.window: list[Batch] = []  # micro-batches that gradients hold since the last optimiser step

    def learn(self, batch: Batch, step: Callable[[Batch], None], clear: Callable[[], None]) -> None:
        """Take a micro-batch in.

        Args:
            step: forward and backward of one part.
            clear: forget the gradients of the window, and what has been counted in it.

        Raises:
            RuntimeError: torch's own, where a single utterance does not fit.
        """
        if not self.window:
            clear()
        self.window.append(batch)
        error = self._take([batch], step)
        while error is not None:
            self._halve(error)
            clear()
            error = self._take(self.window, step)

    def _take(self, batches: Sequence[Batch], step: Callable[[Batch], None]) -> RuntimeError | None:
        try:
            for batch in batches:
                for part in batch.cut(self.parts):
                    step(part)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return error.with_traceback(None)  # its frames would hold the tensors that must go
        return None

    def _halve(self, error: RuntimeError) -> None:
        largest = max(map(len, self.window))
        if self.parts >= largest:
            error.add_note(
                "attune: a single utterance does not fit. See `attune plan` for what does: context=audio, "
                "trainer.precision=bf16-mixed, finetune=lora, a smaller model."
            )
            raise error
        self.parts *= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning(
            "attune: out of memory at a batch of %d windows. From here on each batch is taken in %d parts, and "
            "accumulated: the same steps, no utterance lost. To say so from the start: divide data.batch_window_s, and "
            "multiply trainer.accumulate_grad_batches, by %d.",
            largest, self.parts, self.parts,
        )  # fmt: skip

    def close_window(self) -> None:
        """An optimiser step has been taken."""
        self.window = []


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no memory, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def can_recover(trainer: L.Trainer) -> bool:
    """Whether a step may be taken again: on one device, with gradients that nobody else scales or reduces."""
    is_plain = type(trainer.precision_plugin) in (Precision, MixedPrecision)
    return isinstance(trainer.strategy, SingleDeviceStrategy) and is_plain
