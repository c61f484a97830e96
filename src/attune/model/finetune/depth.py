"""How far a parameter lies from the output, counted in blocks: for rates that decay with depth, and for unfreezing."""

import re
from dataclasses import dataclass

from transformers import WhisperForConditionalGeneration

from attune.errors import InputError


@dataclass(frozen=True)
class Depth:
    """The blocks in one row: the decoder's from its top to its bottom, below them the encoder's.

    Args:
        encoder: blocks of the encoder.
        decoder: blocks of the decoder.
    """

    encoder: int
    decoder: int

    @property
    def blocks(self) -> int:
        return self.encoder + self.decoder

    def of(self, name: str) -> int:
        """A parameter's depth: 0 at the output, `blocks - 1` at the microphone.

        decoder block i: decoder - 1 - i. encoder block j: decoder + encoder - 1 - j. What is no block goes with its
        neighbour: a final layer norm with the top block of its side; the decoder's embeddings, and the encoder's
        convolutions, with the bottom block of theirs. A head of its own, such as CTC's, has depth 0.
        """
        side, _, part = name.removeprefix("model.").partition(".")
        if side not in ("encoder", "decoder"):
            return 0
        nearer, blocks = (self.decoder, self.encoder) if side == "encoder" else (0, self.decoder)
        block = re.match(r"layers\.(\d+)\.", part)
        if block:
            return nearer + blocks - 1 - int(block[1])
        return nearer if part.startswith("layer_norm") else nearer + blocks - 1


def measure_depth(network: WhisperForConditionalGeneration) -> Depth:
    return Depth(len(network.model.encoder.layers), len(network.model.decoder.layers))


def name_blocks(network: WhisperForConditionalGeneration, side: str) -> list[str]:
    """The names of a side's blocks, from the bottom: `model.decoder.layers.0`, ..."""
    return [f"model.{side}.layers.{index}" for index in range(getattr(measure_depth(network), side))]


def last_blocks(network: WhisperForConditionalGeneration, side: str, count: int, key: str) -> list[str]:
    """The names of a side's last `count` blocks.

    Args:
        side: encoder or decoder.
        key: under finetune, where the user said `count`.

    Raises:
        InputError: the side has fewer blocks.
    """
    blocks = name_blocks(network, side)
    there = len(blocks)
    if not 0 <= count <= there:
        raise InputError(f"finetune.{key} is {count}, but this model's {side} has {there} blocks: give 0 to {there}.")
    return blocks[there - count :]
