"""trainer.compile: the blocks of encoder and decoder as compiled kernels, while they learn."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import nn

from attune.train.module import WhisperModule


class Compiled(Callback):
    """torch.compile, block by block: all blocks of a side share one graph, so that compiling takes as long as for one.

    The first length of window gets a graph for itself; when a second one comes, torch makes one graph for all lengths,
    and no bucket compiles anew. Decoding is left alone: there every token has another shape. Weights keep their names.
    It pays in long runs on a GPU, for models up to small (a tenth of the time or more; for large-v3 on an H100 nothing
    that can be relied on); compiling takes a minute, and needs a C compiler.
    """

    kept: Sequence[Any] = ()  # what was compiled, while the model decodes

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for block in find_blocks(pl_module):
            block.compile()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.kept = [block._compiled_call_impl for block in find_blocks(pl_module)]
        self.on_train_end(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for block, compiled in zip(find_blocks(pl_module), self.kept, strict=True):
            block._compiled_call_impl = compiled

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for block in find_blocks(pl_module):
            block._compiled_call_impl = None


def find_blocks(module: Any) -> list[nn.Module]:
    """The encoder's blocks, then the decoder's."""
    assert isinstance(module, WhisperModule)
    model = module.whisper.network.model
    return [*model.encoder.layers, *model.decoder.layers]
