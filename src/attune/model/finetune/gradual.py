"""Unfreeze the model from the top down, in the course of the run."""

import math

from transformers import WhisperForConditionalGeneration

from attune.errors import InputError, check_whole
from attune.model.finetune.base import RateFactor, freeze, is_constant
from attune.model.finetune.depth import Depth, measure_depth


class Gradual:
    """The blocks nearest to the output learn first; lower ones join (Howard & Ruder 2018, arXiv:1801.06146, 3.3).

    The blocks stand in one row, the encoder's below the decoder's (`Depth`), cut into `stages` groups that differ by
    one block at most. Group k = 0 ... stages - 1 joins at the share last_at * k / (stages - 1) of the run.

    All that will ever learn is in the optimiser from the start, so groups that learn already keep their moments when
    another joins. AdamW passes by what has no gradient: a group that waits has no step, no state and no weight decay.
    One that joins starts with fresh moments at the rate that the schedule has then.

    On several devices gradients can be missing, for which trainer=ddp looks.

    Args:
        blocks: how many blocks ever learn, counted from the output; None: all of them.
        stages: groups, at least 2.
        last_at: share of the run, in [0, 1), at which the lowest group joins.
        rate_factor: times the default learning rate of the model's size.
    """

    def __init__(self, blocks: int | None = None, stages: int = 4, last_at: float = 0.5, rate_factor: RateFactor = 1.0):
        check_whole("finetune", stages=stages, **({} if blocks is None else {"blocks": blocks}))
        if blocks is not None and blocks < 1:
            raise InputError(
                f"finetune.blocks is {blocks}: without blocks there is nothing to unfreeze. Give how many learn, "
                "counted from the output, or null for all."
            )
        if stages < 2:
            raise InputError(f"finetune.stages is {stages}; unfreezing in stages needs at least 2.")
        if not 0 <= last_at < 1:
            raise InputError(f"finetune.last_at is {last_at}; accepted: a share of the run, from 0 and below 1.")
        self.blocks, self.stages, self.last_at = blocks, stages, last_at
        self.rate_factor = rate_factor
        self.depth, self.learning = Depth(0, 0), 0  # until `apply` has seen the model

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        self.depth = measure_depth(network)
        there = self.depth.blocks
        self.learning = there if self.blocks is None else self.blocks
        if not self.stages <= self.learning <= there:
            raise InputError(
                f"finetune.blocks is {self.learning} and finetune.stages is {self.stages}; this model has {there} "
                "blocks. Accepted: no more blocks than that, and no more stages than blocks."
            )
        freeze(network)
        self.advance(network, 1.0)

    def advance(self, network: WhisperForConditionalGeneration, progress: float) -> None:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(self.joins_at(name) <= progress)

    def joins_at(self, name: str) -> float:
        """The share of the run at which a parameter begins to learn; infinity if it never does."""
        depth = self.depth.of(name)
        if depth >= self.learning or is_constant(name):
            return math.inf
        return self.last_at * (depth * self.stages // self.learning) / (self.stages - 1)
