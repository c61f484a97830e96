"""AdaLoRA: a budget of ranks, spent on the matrices that need it (Zhang et al. 2023, arXiv:2303.10512), by peft."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from peft import AdaLoraConfig
from peft.tuners.adalora import AdaLoraModel, RankAllocator
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from attune.errors import InputError, check_whole
from attune.model.finetune.base import RateFactor, freeze
from attune.model.finetune.quantize import check_quantize, quantize_linear
from attune.model.finetune.targets import (
    PROJECTIONS,
    as_expression,
    check_dropout,
    check_rank,
    match_linear,
    merge_linear,
)

ADAPTER = "default"  # peft's own name
IMPORTANCE = "adalora_importance"


class Adalora:
    """W stays frozen and gains (alpha / rank) B diag(E) A; E starts at zero, so nothing changes at step 0.

    After each optimiser step the entries of E that matter least are set to zero, over all matrices together, until
    `target_rank` of them are left in the mean. What matters is the product of parameter and gradient, smoothed, times
    its uncertainty. The schedule is in shares of the run: all ranks, then a cubic decline, then those that are left.

    Args:
        rank: of every matrix at the start.
        target_rank: mean over the matrices at the end, at least 1 and below `rank`.
        alpha: the update's scale is alpha / rank.
        dropout: on the adapter's input, in [0, 1).
        targets: shell-like patterns of linear layers: whole names or their last parts.
        start_share: share of the run with all ranks, in [0, 1).
        final_share: share of the run in which no rank is taken any more; with `start_share` below 1.
        every: optimiser steps from one pruning to the next.
        orthogonality: weight of the penalty that makes A and B what an SVD has: orthonormal.
        quantize: null, 8bit or 4bit: what the frozen linear layers are kept in, on a GPU.
        rate_factor: times the default learning rate of the model's size.
    """

    def __init__(
        self,
        rank: int = 48,
        target_rank: int = 32,
        alpha: int = 96,
        dropout: float = 0.0,
        targets: Sequence[str] | str = PROJECTIONS,
        start_share: float = 0.1,
        final_share: float = 0.3,
        every: int = 1,
        orthogonality: float = 0.5,
        quantize: str | None = None,
        rate_factor: RateFactor = 10.0,
    ):
        check_whole("finetune", every=every)
        check_rank("rank", rank)
        check_rank("target_rank", target_rank)
        if target_rank >= rank:
            raise InputError(
                f"finetune.target_rank is {target_rank} and finetune.rank {rank}: AdaLoRA goes from a larger rank to a "
                "smaller mean one. For a fixed rank there is finetune=lora."
            )
        if min(start_share, final_share) < 0 or start_share + final_share >= 1 or every < 1:
            raise InputError(
                f"finetune: start_share={start_share}, final_share={final_share} and every={every} leave no step in "
                "which ranks are taken. Both shares are at least 0 and together below 1; every is at least 1."
            )
        check_dropout(dropout)
        check_quantize(quantize)
        self.rank, self.target_rank, self.alpha, self.dropout = rank, target_rank, alpha, dropout
        self.targets = targets
        self.start_share, self.final_share, self.every = start_share, final_share, every
        self.orthogonality = orthogonality
        self.quantize = quantize
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        targets = match_linear(network, self.targets)
        freeze(network)
        quantize_linear(network, self.quantize)
        config = AdaLoraConfig(  # task_type unset, as in lora.py
            init_r=self.rank,
            target_r=self.target_rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=as_expression(targets),
            deltaT=self.every,
            total_step=1,  # the length of the run is known at its first step
        )
        self.tuner = AdaLoraModel(network, config, ADAPTER)  # in place; its allocator is needed at every step
        network.add_module(IMPORTANCE, Importance(network))

    def regularisation(self, network: WhisperForConditionalGeneration) -> Float[Tensor, ""]:
        """orthogonality * mean of |A A^T - I| and |B^T B - I| over all matrices, in Frobenius norm."""
        named = dict(network.named_parameters())
        wide = [weight for name, weight in named.items() if ".lora_A." in name]
        wide += [weight.T for name, weight in named.items() if ".lora_B." in name]
        identity = torch.eye(self.rank, device=wide[0].device)
        with torch.autocast(wide[0].device.type, enabled=False):  # near the identity bf16 would see rounding only
            distances = [torch.linalg.norm(weight @ weight.T - identity) for weight in wide]
        return self.orthogonality * torch.stack(distances).mean()

    def after_step(self, network: WhisperForConditionalGeneration, step: int, steps: int) -> dict[str, float]:
        """Spend the budget of this step; for the log, the mean rank that is left."""
        allocator: Any = self.tuner.rankallocator
        config: Any = self.tuner.peft_config[ADAPTER]
        config.total_step = steps
        config.tinit, config.tfinal = int(self.start_share * steps), int(self.final_share * steps)
        values = {name: weight for name, weight in network.named_parameters() if ".lora_E." in name}
        if step > steps - config.tfinal and config.rank_pattern is None:  # resumed behind the last pruning
            config.rank_pattern = {name: (weight != 0).flatten().tolist() for name, weight in values.items()}
        _settle_gradients(network)
        importance: Importance = getattr(network, IMPORTANCE)
        importance.lend(allocator)
        if step == steps - config.tfinal:
            allocator.update_ipt(network)  # peft leaves the last pruning's own gradient out: it may be the only one
        self.tuner.update_and_allocate(step)
        importance.keep(allocator)
        left = sum(torch.count_nonzero(weight) for weight in values.values())
        return {"mean_rank": float(left) / len(values)}

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        merge_linear(network)
        delattr(network, IMPORTANCE)


def _settle_gradients(network: nn.Module) -> None:
    """A step that 16-mixed skipped, or a parameter that was not used, must not spoil the averages."""
    for name, weight in network.named_parameters():
        if ".lora_" in name:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad.nan_to_num_(0.0, 0.0, 0.0)


class Importance(nn.Module):
    """peft's smoothed importance and its uncertainty, as buffers: a resumed run goes on pruning as if uninterrupted.

    peft keeps them in dictionaries of its own, which no checkpoint sees.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        for name, weight in network.named_parameters():
            if ".lora_" in name:
                self.register_buffer(name.replace(".", "/"), torch.zeros(2, *weight.shape))

    def lend(self, allocator: RankAllocator) -> None:
        for key, averages in self.named_buffers():
            name = key.replace("/", ".")
            allocator.exp_avg_ipt[name], allocator.exp_avg_unc[name] = averages.unbind()
            allocator.ipt[name] = averages[0]  # peft starts the averages anew where this entry is missing

    def keep(self, allocator: RankAllocator) -> None:
        for key, averages in self.named_buffers():
            name = key.replace("/", ".")
            if name in allocator.exp_avg_ipt:  # peft drops them at the last pruning
                averages.copy_(torch.stack([allocator.exp_avg_ipt[name], allocator.exp_avg_unc[name]]))
