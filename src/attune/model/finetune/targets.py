"""The linear layers that peft adapts: found by pattern, wrapped in place, put back as plain layers."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from attune.errors import InputError
from attune.model.finetune.quantize import find_linear, restore_linear

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # every linear layer of a Whisper block


def match_linear(network: nn.Module, patterns: Sequence[str] | str) -> list[str]:
    """Names of the linear layers that match one of the patterns, in the order of the network.

    Patterns are shell-like and are held against the whole name and against its last part: `v_proj`, `fc?`,
    `*.encoder_attn.*`, `model.decoder.layers.3.*`. The output projection is left out: it is the token embedding.

    Raises:
        InputError: there is no pattern, or one matches no linear layer; the message lists the nearest names.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not patterns:
        raise InputError(f"finetune.targets is empty. Give patterns of linear layers, such as {list(PROJECTIONS)}.")
    linear = list(find_linear(network))
    matched: set[str] = set()
    for pattern in patterns:
        found = {name for name in linear if _matches(name, pattern)}
        if not found:
            known = list(dict.fromkeys([*map(_last, linear), *linear]))
            near = get_close_matches(pattern.replace("*", ""), known, n=4, cutoff=0.2) or known[:4]
            raise InputError(
                f"finetune.targets: {pattern!r} matches no linear layer. Nearest names: {', '.join(near)}. "
                "Patterns are shell-like: v_proj, *.encoder_attn.*, model.decoder.layers.3.*."
            )
        matched |= found
    return [name for name in linear if name in matched]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(_last(name), pattern)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def as_expression(names: Sequence[str]) -> str:
    """The regular expression of exactly these names: a list of names peft would take for endings."""
    return "|".join(map(re.escape, names))


def check_rank(key: str, rank: int) -> None:
    """Raises InputError where a rank holds nothing."""
    if rank < 1:
        raise InputError(f"finetune.{key} is {rank}; a low-rank update needs a rank of at least 1.")


def leave_inputs(network: nn.Module) -> None:
    """Hand peft's layers their input as it is: they would widen it to fp32, for autocast to narrow it once more, and
    each matrix would keep a copy of its own."""
    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010  # peft declares it in its subclasses


@torch.no_grad()
def merge_linear(network: nn.Module) -> None:
    """Unpack what was quantised, fold every update into its matrix, and put the plain linear layer back."""
    restore_linear(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.get_base_layer())
