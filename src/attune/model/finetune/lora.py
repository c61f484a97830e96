"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), by peft."""

from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import WhisperForConditionalGeneration

from attune.errors import InputError
from attune.model.finetune.base import freeze

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


class Lora:
    """W stays frozen and gains B A * alpha / rank; B starts at zero, so nothing changes at step 0.

    Args:
        rank: columns of B and rows of A, at least 1.
        alpha: the update's scale is alpha / rank.
        dropout: on the adapter's input, in [0, 1).
        targets: last parts of the names of the linear layers that are adapted.
        rate_factor: times the default learning rate of the model's size: adapters start from zero and want more.
    """

    def __init__(
        self,
        rank: int = 32,
        alpha: int = 64,
        dropout: float = 0.0,
        targets: Sequence[str] = PROJECTIONS,
        rate_factor: float = 10.0,
    ):
        if rank < 1:
            raise InputError(f"finetune.rank is {rank}; a low-rank update needs a rank of at least 1.")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets = list(targets)
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        self._check_targets(network)
        freeze(network)
        # task_type stays unset: with it, peft wraps Whisper in a class that passes input_ids, which Whisper has not.
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,  # type: ignore[arg-type]
        )
        inject_adapter_in_model(config, network)

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        """Fold every update into its matrix and put the plain linear layer back."""
        for name, module in list(network.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, module.get_base_layer())

    def _check_targets(self, network: nn.Module) -> None:
        linear = {name.rpartition(".")[2] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
        unknown = sorted(set(self.targets) - linear)
        if unknown:
            raise InputError(
                f"finetune.targets: no linear layer is called {', '.join(unknown)}. There are: {sorted(linear)}."
            )
