"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751)."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers import WhisperForConditionalGeneration

from attune.errors import InputError, check_whole
from attune.model.additions import ADAPTER, attach
from attune.model.finetune.base import RateFactor, freeze
from attune.model.finetune.depth import name_blocks

BLOCKS = ("model.encoder.layers.*", "model.decoder.layers.*")
BEHIND = ("self_attn.out_proj", "encoder_attn.out_proj", "fc2")


class Adapter:
    """Whisper is frozen; behind attention and feed-forward y becomes y + U gelu(D y), through a narrow middle.

    U starts at zero, so nothing changes at step 0. What is not linear cannot be folded into Whisper's weights: `model/`
    holds the adapters in a file of their own and a loader for them (`attune.model.additions`).

    Args:
        bottleneck: rows of D, at least 1.
        blocks: shell-like patterns of the blocks that get adapters: `model.decoder.layers.*`, `model.encoder.layers.3`.
        behind: the linear layers behind which one stands, in every chosen block that has them: the encoder has no
            `encoder_attn`.
        rate_factor: times the default learning rate of the model's size: adapters start from zero and want more.
    """

    unmergeable = "adapters"

    def __init__(
        self,
        bottleneck: int = 64,
        blocks: Sequence[str] = BLOCKS,
        behind: Sequence[str] = BEHIND,
        rate_factor: RateFactor = 5.0,
    ):
        check_whole("finetune", bottleneck=bottleneck)
        if bottleneck < 1:
            raise InputError(f"finetune.bottleneck is {bottleneck}; an adapter needs a width of at least 1.")
        if not blocks or not behind:
            raise InputError("finetune.blocks and finetune.behind must not be empty: they say where adapters stand.")
        self.bottleneck = bottleneck
        self.blocks, self.behind = list(blocks), list(behind)
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        refuse_adapted(network)
        places = find_places(network, self.blocks, self.behind)
        freeze(network)
        for linear in places:
            attach(linear, self.bottleneck)


def find_places(
    network: WhisperForConditionalGeneration, patterns: Sequence[str], behind: Sequence[str]
) -> list[nn.Linear]:
    """The linear layers that get an adapter.

    Raises:
        InputError: a pattern matches no block, or a block that was chosen has none of the layers.
    """
    blocks = [*name_blocks(network, "encoder"), *name_blocks(network, "decoder")]
    for pattern in patterns:
        if not any(fnmatchcase(block, pattern) for block in blocks):
            raise InputError(f"finetune.blocks: there is no block {pattern!r}. There are: {', '.join(blocks)}.")
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    for layer in behind:
        if not any(f"{block}.{layer}" in linear for block in blocks):
            there = sorted({name.split(".", 4)[4] for name in linear if ".layers." in name})
            raise InputError(f"finetune.behind: there is no linear layer {layer!r} in a block. There are: {there}.")
    chosen = [block for block in blocks if any(fnmatchcase(block, pattern) for pattern in patterns)]
    places = [f"{block}.{layer}" for block in chosen for layer in dict.fromkeys(behind) if f"{block}.{layer}" in linear]
    if not places:
        raise InputError(
            f"finetune.behind: none of {list(behind)} is in the blocks {list(patterns)}. The encoder's blocks have no "
            "encoder_attn."
        )
    return [linear[place] for place in places]


def refuse_adapted(network: nn.Module) -> None:
    """A second adapter in the same place would replace the first, and a copied block would not be the identity."""
    if any(f".{ADAPTER}." in name for name, _ in network.named_parameters()):
        raise InputError(
            "model.name_or_path: this Whisper has adapters already, which finetune=adapter and added_layers break. "
            "Start from the model before them, or go on with finetune=full or layers."
        )
