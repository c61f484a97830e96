"""What a penalty is: a term beside any objective that keeps a model near what it was.

A penalty enters as the objective does, summed over tokens: WhisperModule adds the two sums and divides once by the
objective's tokens of the whole accumulation window on all ranks. A penalty P on weights alone is therefore handed over
as P times the tokens of the micro-batch, and the window's quotient is P again, into however many it was cut.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.finetune.base import ChangesTokens, FineTuning
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import LossTerms


class Penalty(Protocol):
    """One file here and one YAML in configs/penalty.

    It is a torch module: what it remembers of the untouched model stands in its buffers, so that it is in every
    checkpoint and a resumed run is held to the very same weights.

    Args:
        needs: further splits of the corpus that are read for it.
        compares_tokens: whether it sets the token distributions of the untouched model beside the trained one's.
    """

    needs: Sequence[str]
    compares_tokens: bool

    def anchor(self, whisper: Whisper, load_untouched: Callable[[], Whisper]) -> None:
        """Remember, once, after `finetune.apply`; `load_untouched` gives the model as it was before it."""
        ...

    def loss(self, whisper: Whisper, batch: Batch, terms: LossTerms) -> Float[Tensor, ""]:
        """Summed over the batch's tokens; `terms` is what the objective made of the batch."""
        ...


@runtime_checkable
class Estimated(Protocol):
    """A penalty that looks at utterances of the untouched model's own before the first step."""

    utterances: int

    def estimate(self, whisper: Whisper, batches: Iterable[Batch]) -> None:
        """From batches of one utterance each, of the split `replay`; a resumed run has it from its checkpoint."""
        ...


class Snapshot(nn.Module):
    """Tensors by the names of parameters, kept as buffers."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(_key(name), tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(_key(name))


def _key(name: str) -> str:
    return name.replace(".", "/")  # torch allows no dot in a buffer's name


def list_learning(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def check_penalty(penalty: Penalty | None, finetune: FineTuning, is_scratch: bool) -> None:
    """Refuse, before weights are loaded, what cannot be held against the untouched model.

    Raises:
        InputError: nothing learns, or there is no untouched model with this vocabulary.
    """
    if penalty is None:
        return
    name, kind = type(penalty).__name__.lower(), type(finetune).__name__
    if not finetune.rate_factor:
        raise InputError(f"penalty={name} holds what learns, and with finetune {kind} nothing does: penalty=none.")
    if penalty.compares_tokens and isinstance(finetune, ChangesTokens):
        raise InputError(
            f"penalty={name} compares token distributions with the untouched model's, and finetune {kind} changes the "
            "vocabulary. Take penalty=l2sp or penalty=none, or a type that keeps the vocabulary."
        )
    if penalty.compares_tokens and is_scratch:
        raise InputError(f"penalty={name} learns from the untouched model, and model=scratch has none: penalty=none.")


def anchor(penalty: Penalty | None, whisper: Whisper, load_untouched: Callable[[], Whisper]) -> None:
    """Let a penalty, where there is one, remember the model as it is."""
    if penalty is not None:
        penalty.anchor(whisper, load_untouched)
