"""(IA)3: keys, values and the feed-forward part are scaled by learnt vectors (Liu et al. 2022, arXiv:2205.05638)."""

from collections.abc import Sequence

from peft import IA3Config, inject_adapter_in_model
from transformers import WhisperForConditionalGeneration

from attune.model.finetune.base import RateFactor, freeze
from attune.model.finetune.quantize import check_quantize, quantize_linear
from attune.model.finetune.targets import as_expression, match_linear, merge_linear

SCALED_AT_INPUT = "fc2"  # its input is the inside of the feed-forward part; every other layer is scaled at its output


class Ia3:
    """The fewest parameters of all types; the vectors start at one, so nothing changes at step 0.

    Args:
        targets: shell-like patterns of linear layers: whole names or their last parts.
        quantize: null, 8bit or 4bit: what the frozen linear layers are kept in, on a GPU.
        rate_factor: times the default learning rate of the model's size.
    """

    def __init__(
        self,
        targets: Sequence[str] | str = ("k_proj", "v_proj", "fc2"),
        quantize: str | None = None,
        rate_factor: RateFactor = 10.0,
    ):
        check_quantize(quantize)
        self.targets = targets
        self.quantize = quantize
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        targets = match_linear(network, self.targets)
        freeze(network)
        quantize_linear(network, self.quantize)
        config = IA3Config(  # task_type unset, as in lora.py
            target_modules=as_expression(targets),
            feedforward_modules=as_expression([name for name in targets if name.endswith(SCALED_AT_INPUT)]),
        )
        inject_adapter_in_model(config, network)

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        merge_linear(network)
