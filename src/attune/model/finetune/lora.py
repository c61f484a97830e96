"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), by peft."""

from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from transformers import WhisperForConditionalGeneration

from attune.model.finetune.base import RateFactor, freeze
from attune.model.finetune.quantize import check_quantize, quantize_linear
from attune.model.finetune.targets import (
    PROJECTIONS,
    as_expression,
    check_dropout,
    check_rank,
    lighten,
    match_linear,
    merge_linear,
)


class Lora:
    """W stays frozen and gains s B A; B starts at zero, so nothing changes at step 0.

    Args:
        rank: columns of B and rows of A, at least 1.
        alpha: the update's scale s is alpha / rank.
        dropout: on the adapter's input, in [0, 1).
        targets: shell-like patterns of linear layers: whole names or their last parts.
        rank_stabilised: s is alpha / sqrt(rank), so that large ranks learn as fast as small ones (Kalajdzievski 2023,
            arXiv:2312.03732).
        dora: the length of each row of W + s B A is a parameter of its own (Liu et al. 2024, arXiv:2402.09353).
        quantize: null, 8bit or 4bit: what the frozen linear layers are kept in, on a GPU.
        rate_factor: times the default learning rate of the model's size: adapters start from zero and want more.
    """

    def __init__(
        self,
        rank: int = 32,
        alpha: int = 64,
        dropout: float = 0.0,
        targets: Sequence[str] | str = PROJECTIONS,
        rank_stabilised: bool = False,
        dora: bool = False,
        quantize: str | None = None,
        rate_factor: RateFactor = 10.0,
    ):
        check_rank("rank", rank)
        check_dropout(dropout)
        check_quantize(quantize)
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets = targets
        self.rank_stabilised, self.dora = rank_stabilised, dora
        self.quantize = quantize
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        targets = match_linear(network, self.targets)
        freeze(network)
        quantize_linear(network, self.quantize)
        # task_type stays unset: with it, peft wraps Whisper in a class that passes input_ids, which Whisper has not.
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=as_expression(targets),
            use_rslora=self.rank_stabilised,
            use_dora=self.dora,
        )
        inject_adapter_in_model(config, network)
        if not self.dora:  # whose lengths are computed in the precision of the input
            lighten(network)

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        merge_linear(network)
