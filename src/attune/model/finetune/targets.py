"""The linear layers that peft adapts: found by pattern, wrapped in place, put back as plain layers."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from attune.errors import InputError, check_whole
from attune.model.additions import ADAPTER
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
            _refuse_adapted(network, pattern, linear)
            known = list(dict.fromkeys([*map(_last, linear), *linear]))
            near = get_close_matches(pattern.replace("*", ""), known, n=4, cutoff=0.2) or known[:4]
            raise InputError(
                f"finetune.targets: {pattern!r} matches no linear layer. Nearest names: {', '.join(near)}. "
                "Patterns are shell-like: v_proj, *.encoder_attn.*, model.decoder.layers.3.*."
            )
        matched |= found
    return [name for name in linear if name in matched]


def _refuse_adapted(network: nn.Module, pattern: str, free: Sequence[str]) -> None:
    """Raises InputError where the layers that match have an adapter behind them, so that none is plain."""
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Linear) and hasattr(part, ADAPTER)]
    if taken := [name for name in names if _matches(name, pattern)]:
        left = [name for name in PROJECTIONS if name in set(map(_last, free))]
        raise InputError(
            f"finetune.targets: {pattern!r} matches linear layers that have an adapter behind them already "
            f"({taken[0]}), which peft cannot wrap. Start from the model before the adapters, go on with finetune=full "
            f"or layers, or leave such layers out: finetune.targets=[{','.join(left)}]."
        )


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(_last(name), pattern)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def as_expression(names: Sequence[str]) -> str:
    """The regular expression of exactly these names: a list of names peft would take for endings."""
    return "|".join(map(re.escape, names))


def check_rank(key: str, rank: int) -> None:
    """Raises InputError where a rank holds nothing."""
    check_whole("finetune", **{key: rank})
    if rank < 1:
        raise InputError(f"finetune.{key} is {rank}; a low-rank update needs a rank of at least 1.")


def check_dropout(dropout: float) -> None:
    """Raises InputError where it is no share."""
    if not 0 <= dropout < 1:
        raise InputError(f"finetune.dropout={dropout:g}: accepted is a share in [0, 1).")


class LeanLora(lora.Linear):
    """peft's layer in fewer passes over what it makes: the scale is taken into the few columns between A and B, and the
    product with B is added where the frozen layer's output lies. Between them a pass costs a GPU more than the product.
    """

    def forward(self, x: Float[Tensor, "*row input"], *args: Any, **kwargs: Any) -> Float[Tensor, "*row output"]:
        """W x + s B A x. What else peft's layer can do it leaves to peft."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1 or self.lora_variant:
            return super().forward(x, *args, **kwargs)
        name = self.active_adapters[0]
        rows = x.flatten(0, -2)
        output = self.base_layer(rows)
        low = self.lora_A[name](self.lora_dropout[name](rows)) * self.scaling[name]
        return output.addmm_(low.to(output.dtype), self.lora_B[name].weight.to(output.dtype).T).unflatten(
            0, x.shape[:-1]
        )


def lighten(network: nn.Module) -> None:
    """Hand peft's layers their input as it is: they would widen it to fp32, for autocast to narrow it once more, and
    each matrix would keep a copy of its own. Plain ones become `LeanLora`."""
    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010  # peft declares it in its subclasses
        if type(module) is lora.Linear:
            module.__class__ = LeanLora


@torch.no_grad()
def merge_linear(network: nn.Module) -> None:
    """Unpack what was quantised, fold every update into its matrix, and put the plain linear layer back."""
    restore_linear(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.get_base_layer())
