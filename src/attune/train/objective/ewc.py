"""Elastic weight consolidation: a parameter is held the tighter, the more the old task depends on it."""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import CrossEntropy, LossTerms
from attune.train.objective.penalty import Snapshot, list_learning


class Ewc(nn.Module):
    """weight / 2 * sum_i F_i (theta_i - theta0_i)^2 (Kirkpatrick et al. 2017, arXiv:1612.00796).

    F is the diagonal of the empirical Fisher information per token: `compute_fisher`, at theta0, once, before the first
    step, on utterances of the corpus's split `replay` with their own transcripts. These are training material; no panel
    that is scored or validated on is ever seen. What a type has added and the old task does not use has F = 0 and is
    free. It is added to the loss per token.

    Args:
        weight: at least 0. F is small (squared gradients of a model that knows these utterances), so this is large.
        utterances: how many the Fisher is estimated on, drawn by the run's seed; all where the split has fewer.
    """

    needs: Sequence[str] = ("replay",)
    compares_tokens: bool = False
    is_estimated: Tensor

    def __init__(self, weight: float = 1000.0, utterances: int = 128):
        super().__init__()
        if weight < 0:
            raise InputError(f"penalty.weight={weight:g} would push the model away from its start; 0 or more.")
        if utterances < 1:
            raise InputError(f"penalty.utterances={utterances}: the Fisher information needs at least 1.")
        self.weight = weight
        self.utterances = utterances
        self.start, self.fisher = Snapshot({}), Snapshot({})
        self.register_buffer("is_estimated", torch.tensor(False))

    def anchor(self, whisper: Whisper, load_untouched: Callable[[], Whisper]) -> None:
        learning = list_learning(whisper.network)
        self.start = Snapshot({name: parameter.detach().clone() for name, parameter in learning.items()})
        self.fisher = Snapshot({name: torch.zeros_like(parameter) for name, parameter in learning.items()})

    def estimate(self, whisper: Whisper, batches: Iterable[Batch]) -> None:
        if self.is_estimated:  # a resumed run: the network is no longer the untouched one
            return
        for name, values in compute_fisher(whisper, batches).items():
            self.fisher[name].copy_(values)
        self.is_estimated.fill_(True)

    def loss(self, whisper: Whisper, batch: Batch, terms: LossTerms) -> Float[Tensor, ""]:
        distances = [
            (self.fisher[name] * (parameter - self.start[name]).square()).sum()
            for name, parameter in list_learning(whisper.network).items()
        ]
        return terms.tokens * self.weight / 2 * torch.stack(distances).sum()


def compute_fisher(whisper: Whisper, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Squared gradients of log p(transcript | audio), summed over utterances, divided by their tokens.

    Under the model's own distribution the tokens' gradients are uncorrelated, so the square of an utterance's sum
    stands for the sum of its tokens' squares: hence per token, in the unit of the loss.

    Args:
        batches: of one utterance each: the square of a sum over utterances would be another number.
    """
    learning = list_learning(whisper.network)
    squares = {name: torch.zeros_like(parameter) for name, parameter in learning.items()}
    tokens = 0
    for batch in batches:
        terms = CrossEntropy().loss(whisper, batch)
        # Not backward(): gradients that the optimiser will use stay untouched, and so do DDP's hooks.
        gradients = torch.autograd.grad(terms.total, list(learning.values()), allow_unused=True)
        for square, gradient in zip(squares.values(), gradients, strict=True):
            if gradient is not None:
                square.add_(gradient.square())
        tokens += terms.tokens
    return {name: square / max(tokens, 1) for name, square in squares.items()}
