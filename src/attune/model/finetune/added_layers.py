"""New blocks at the end of the encoder, of the decoder, or of both."""

import copy

from torch import nn
from transformers import WhisperForConditionalGeneration

from attune.errors import InputError, check_whole
from attune.model.finetune.adapter import refuse_adapted
from attune.model.finetune.base import RateFactor, freeze, unfreeze_matching
from attune.model.finetune.depth import last_blocks


class AddedLayers:
    """What was there is frozen; new blocks behind it learn (block expansion, Wu et al. 2024, arXiv:2401.02415).

    A new block is a copy of the last one whose output projections are zero: it adds nothing at step 0. The model stays
    a plain Whisper, with more layers in its config. generation_config.alignment_heads count from the bottom, so blocks
    at the end leave them right.

    Args:
        encoder: how many blocks are added to the encoder.
        decoder: how many are added to the decoder.
        top: how many of the old blocks below them learn too, on the sides that got some.
        rate_factor: times the default learning rate of the model's size.
    """

    unmergeable = "blocks"

    def __init__(self, encoder: int = 1, decoder: int = 1, top: int = 0, rate_factor: RateFactor = 1.0):
        check_whole("finetune", encoder=encoder, decoder=decoder, top=top)
        if min(encoder, decoder, top) < 0 or encoder == decoder == 0:
            raise InputError(
                f"finetune.encoder is {encoder}, finetune.decoder {decoder}, finetune.top {top}: there must be one new "
                "block at least, and none of the three may be below 0."
            )
        self.counts = {side: count for side, count in (("encoder", encoder), ("decoder", decoder)) if count}
        self.top = top
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        refuse_adapted(network)
        old = [name for side in self.counts for name in last_blocks(network, side, self.top, key="top")]
        freeze(network)
        for side, count in self.counts.items():
            append_blocks(network, side, count)
        new = [name for side, count in self.counts.items() for name in last_blocks(network, side, count, key=side)]
        unfreeze_matching(network, [f"{name}.*" for name in (*old, *new)])


def append_blocks(network: WhisperForConditionalGeneration, side: str, count: int) -> None:
    """Put blocks that change nothing yet behind a side's last one, and say so in the config."""
    blocks: nn.ModuleList = network.get_submodule(f"model.{side}.layers")  # type: ignore[assignment]
    last = blocks[-1]
    blocks.extend(copy_as_identity(last, index) for index in range(len(blocks), len(blocks) + count))
    setattr(network.config, f"{side}_layers", len(blocks))  # one object for the whole network: caches are sized by it


def copy_as_identity(block: nn.Module, index: int) -> nn.Module:
    """A copy of a block, at place `index` of its side, that hands on what it gets."""
    config = block.self_attn.config  # type: ignore[union-attr]
    copied = copy.deepcopy(block, {id(config): config})  # all blocks look into the same config
    for name, module in copied.named_modules():
        if name.endswith(".out_proj") or name == "fc2":
            nn.init.zeros_(module.weight)  # type: ignore[arg-type]
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if getattr(module, "layer_idx", None) is not None:
            # Where the decoder's attention finds its keys and values in the cache; the encoder's has no such place.
            module.layer_idx = index  # type: ignore[assignment]
    return copied
