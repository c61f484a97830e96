"""A Whisper without weights: what a type of fine-tuning does to it can be seen before anything is loaded."""

import copy

import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from attune.model.finetune.base import FineTuning, apply_finetuning
from attune.model.scratch import Scratch, make_config
from attune.model.whisper import complete_generation_config, locate
from attune.text.tokens import Tokens


def make_skeleton(name_or_path: str | None, tokens: Tokens, scratch: Scratch | None) -> WhisperForConditionalGeneration:
    """All modules and shapes of a Whisper on the device `meta`: no memory, no weights, no download but config.json.

    Args:
        tokens: the model's own, before a type changes them.

    Raises:
        InputError: there is no Whisper at that place.
    """
    config = make_config(tokens, scratch) if scratch else WhisperConfig.from_pretrained(locate(name_or_path or ""))
    with torch.device("meta"):
        network = WhisperForConditionalGeneration(config)
    network.generation_config = complete_generation_config(GenerationConfig(), tokens)
    return network


def apply_to_skeleton(finetune: FineTuning, network: WhisperForConditionalGeneration) -> dict[str, int]:
    """Change the skeleton as the type will change the model; the type itself stays as it was. Counts parameters."""
    with torch.device("meta"):
        return apply_finetuning(copy.deepcopy(finetune), network)
