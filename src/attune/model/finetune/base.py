"""What a fine-tuning type is, and what all of them need.

A type is one file here and one YAML in configs/finetune. It changes a network in place, once, after loading and before
the optimiser exists, and leaves `requires_grad` true on exactly what learns. `_target_` in the YAML is the registry.

Beside `apply` a type may have any of six methods, each a protocol below: `change_tokens` (before the data is checked),
`rate_scale` (rates that differ by parameter), `advance` (a schedule), `regularisation` (a term of the loss),
`after_step` (what follows each optimiser step), `merge` (export).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from attune.errors import InputError
from attune.model.finetune.quantize import QuantizedLinear
from attune.text.tokens import Tokens

RateFactor = float | Mapping[int, float]  # for every model, or for its width: the nearest one that is named


class FineTuning(Protocol):
    """The one method that every type has.

    `rate_factor` multiplies the default learning rate of the model's size; 0 says that nothing is trained at all.
    """

    @property
    def rate_factor(self) -> RateFactor: ...

    def apply(self, network: WhisperForConditionalGeneration) -> None: ...


@runtime_checkable
class ChangesTokens(Protocol):
    """A type that changes the vocabulary. It is asked once, before the data is checked and before `apply`."""

    def change_tokens(self, tokens: Tokens, transcripts: Iterable[str]) -> Tokens:
        """The new tokens, in an object of their own; `transcripts` are the training texts, as written."""
        ...


@runtime_checkable
class Scaled(Protocol):
    """A type whose parameters learn at rates of their own."""

    def rate_scale(self, name: str) -> float:
        """What the learning rate is multiplied by for the parameter of this name."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """A type that changes in the course of a run. `apply` lets everything learn that ever will."""

    def advance(self, network: WhisperForConditionalGeneration, progress: float) -> None:
        """Set `requires_grad` for this share of the run, in [0, 1]. It is called before every training batch."""
        ...


@runtime_checkable
class Regularised(Protocol):
    """A type whose parameters are held to a shape, whatever the objective."""

    def regularisation(self, network: WhisperForConditionalGeneration) -> Float[Tensor, ""]:
        """What is added to the mean loss of a token, with its gradient."""
        ...


@runtime_checkable
class Stepped(Protocol):
    """A type that does something of its own after each optimiser step."""

    def after_step(self, network: WhisperForConditionalGeneration, step: int, steps: int) -> dict[str, float]:
        """Step 1 to `steps` has just been taken and its gradients are still there; returns values for the log."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """A type whose additions can be folded into plain Whisper weights, for export."""

    def merge(self, network: WhisperForConditionalGeneration) -> None: ...


@runtime_checkable
class Unmergeable(Protocol):
    """A type that adds what no merge can fold into plain Whisper weights; `unmergeable` says what, in a few words."""

    unmergeable: str


def freeze(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.requires_grad_(False)


def unfreeze_matching(network: nn.Module, patterns: Iterable[str]) -> None:
    """Let the parameters learn whose names match a pattern: `model.encoder.layers.*`, `*.bias`.

    The encoder's sinusoidal positions are a constant and never learn.

    Raises:
        InputError: a pattern matches no parameter; the message lists the nearest names.
    """
    for pattern in patterns:
        for name, parameter in match_parameters(network, pattern).items():
            parameter.requires_grad_(not is_constant(name))


def match_parameters(network: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """The parameters whose names match a shell-like pattern.

    Raises:
        InputError: there are none; the message lists the nearest names.
    """
    named = dict(network.named_parameters())
    matched = {name: parameter for name, parameter in named.items() if fnmatchcase(name, pattern)}
    if not matched:
        near = _find_near(pattern, named)
        raise InputError(
            f"finetune: the pattern {pattern!r} matches no parameter. Nearest names: {', '.join(near)}. "
            "Patterns are shell-like: model.encoder.layers.0.*, *.encoder_attn.*, *.bias."
        )
    return matched


def _find_near(pattern: str, names: Iterable[str]) -> list[str]:
    """Parts of the network as deep as the pattern goes, nearest in spelling first."""
    literal = pattern.replace("*", "").strip(".")
    depth = literal.count(".") + 1
    parts = dict.fromkeys(".".join(name.split(".")[:depth]) for name in names)
    return get_close_matches(literal, parts, n=4, cutoff=0.2)


def is_constant(name: str) -> bool:
    """Whether a parameter is no weight in truth: Whisper's encoder positions are fixed sinusoids."""
    return name.endswith("encoder.embed_positions.weight")


def parameter_groups(
    finetune: FineTuning, network: nn.Module, weight_decay: float, learning_rate: float
) -> list[dict[str, Any]]:
    """The optimiser's groups: matrices with weight decay; biases, norms and positions without; each rate by itself.

    Raises:
        InputError: nothing learns.
    """
    scale = finetune.rate_scale if isinstance(finetune, Scaled) else lambda name: 1.0
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in _learning(network):
        groups[scale(name), weight_decay if _decays(name, parameter) else 0.0].append(parameter)
    if not groups:
        raise InputError(f"finetune: {type(finetune).__name__} lets no parameter learn.")
    return [
        {"params": parameters, "lr": learning_rate * scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def count_parameters(network: nn.Module, before: int) -> dict[str, int]:
    """Total, trainable and added parameters; `before` is the total ahead of `apply`."""
    total = _count(network)
    trainable = sum(parameter.numel() for _, parameter in _learning(network))
    return {"total": total, "trainable": trainable, "added": total - before}


def _count(network: nn.Module) -> int:
    """All parameters; a quantised matrix counts what it stands for."""
    packed = (module for module in network.modules() if isinstance(module, QuantizedLinear))
    return sum(parameter.numel() for parameter in network.parameters()) + sum(module.uncounted for module in packed)


def _learning(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    is_matrix = parameter.squeeze().ndim >= 2  # a vector may be written as a matrix of one row
    return is_matrix and "embed_positions" not in name


def apply_finetuning(finetune: FineTuning, network: WhisperForConditionalGeneration) -> dict[str, int]:
    """Change the network, and count its parameters."""
    before = _count(network)
    finetune.apply(network)
    return count_parameters(network, before)


def merge_additions(finetune: FineTuning, network: WhisperForConditionalGeneration) -> None:
    """Fold what the type added into plain Whisper weights, where it can be."""
    if isinstance(finetune, Mergeable):
        finetune.merge(network)


def change_tokens(finetune: FineTuning, tokens: Tokens, transcripts: Iterable[str]) -> Tokens:
    """The tokens that the type wants: the model's own, unless it changes them."""
    return finetune.change_tokens(tokens, transcripts) if isinstance(finetune, ChangesTokens) else tokens


def advance(finetune: FineTuning, network: WhisperForConditionalGeneration, progress: float) -> None:
    """Tell a type how far the run is, in [0, 1]."""
    if isinstance(finetune, Scheduled):
        finetune.advance(network, progress)


def regularisation(finetune: FineTuning, network: WhisperForConditionalGeneration) -> Float[Tensor, ""] | float:
    """The type's own term of the mean loss of a token; 0 where it has none."""
    return finetune.regularisation(network) if isinstance(finetune, Regularised) else 0.0


def after_step(
    finetune: FineTuning, network: WhisperForConditionalGeneration, step: int, steps: int
) -> dict[str, float]:
    """Let a type do its own work after an optimiser step; the values that it wants logged."""
    return finetune.after_step(network, step, steps) if isinstance(finetune, Stepped) else {}
