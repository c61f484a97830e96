"""A Whisper without weights: what a type of fine-tuning does to it can be seen before anything is loaded."""

import copy

import torch
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.utils.hub import cached_file

from attune.errors import InputError
from attune.model.additions import ADAPTER, HEAD, PROMPT, REWARD, WEIGHTS, CtcHead, RewardHead, attach, attach_prompt
from attune.model.finetune.base import FineTuning, apply_finetuning
from attune.model.scratch import Scratch, make_config
from attune.model.whisper import complete_generation_config, locate
from attune.text.tokens import Tokens


def make_skeleton(name_or_path: str | None, tokens: Tokens, scratch: Scratch | None) -> WhisperForConditionalGeneration:
    """All modules and shapes of a Whisper on the device `meta`: no memory, no weights; of its files config.json is read
    and, where it has adapters, prompts or heads, the list of their shapes.

    Args:
        tokens: the model's own, before a type changes them.

    Raises:
        InputError: there is no Whisper at that place.
    """
    source = "" if scratch else locate(name_or_path or "")
    config = make_config(tokens, scratch) if scratch else WhisperConfig.from_pretrained(source)
    with torch.device("meta"):
        network = WhisperForConditionalGeneration(config)
        if source and (path := find_additions(source)):
            attach_additions(network, path)
    network.generation_config = complete_generation_config(GenerationConfig(), tokens)
    return network


def find_additions(source: str) -> str | None:
    """The file of a model's adapters, prompts and heads, in its folder or on the hub; None where it has none."""
    return cached_file(
        source, WEIGHTS, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )


def attach_additions(network: WhisperForConditionalGeneration, path: str) -> None:
    """What `load_additions` puts into a Whisper, by the shapes in its file alone.

    Raises:
        InputError: the file does not belong to this Whisper.
    """
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
        for name, (size, *more) in shapes.items():
            linear, is_adapter, _ = name.partition(f".{ADAPTER}.down.weight")
            attention, is_prompt, _ = name.partition(f".{PROMPT}.keys")
            if is_adapter:
                attach(network.get_submodule(linear), size)  # type: ignore[arg-type]
            elif is_prompt:
                attach_prompt(network.get_submodule(attention), size)
            elif name == f"{HEAD}.weight":
                network.add_module(HEAD, CtcHead(more[0], size - 1))
            elif name == f"{REWARD}.weight":
                network.add_module(REWARD, RewardHead(more[0]))
    except (SafetensorError, AttributeError) as error:
        raise InputError(f"model.name_or_path: {path} does not belong to this Whisper: {error}") from None


def apply_to_skeleton(finetune: FineTuning, network: WhisperForConditionalGeneration) -> dict[str, int]:
    """Change the skeleton as the type will change the model; the type itself stays as it was. Counts parameters."""
    with torch.device("meta"):
        return apply_finetuning(copy.deepcopy(finetune), network)
