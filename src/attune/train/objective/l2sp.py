"""L2-SP: every parameter that learns is pulled back to where it started."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import LossTerms
from attune.train.objective.penalty import Snapshot, list_learning


class L2sp(nn.Module):
    """alpha / 2 * sum_i (theta_i - theta0_i)^2 over the parameters that learn (Li et al. 2018, arXiv:1802.01483).

    It is added to the loss per token. What a type has added is held to its own first value: of LoRA, A and B each to
    theirs, which is not the size of their product.

    Args:
        alpha: at least 0. The gradient is alpha * (theta - theta0), beside one of the loss per token.
    """

    needs: Sequence[str] = ()
    compares_tokens: bool = False

    def __init__(self, alpha: float = 0.01):
        super().__init__()
        if alpha < 0:
            raise InputError(f"penalty.alpha={alpha:g} would push the model away from its start; it must be 0 or more.")
        self.alpha = alpha
        self.start = Snapshot({})

    def anchor(self, whisper: Whisper, load_untouched: Callable[[], Whisper]) -> None:
        learning = list_learning(whisper.network)
        self.start = Snapshot({name: parameter.detach().clone() for name, parameter in learning.items()})

    def loss(self, whisper: Whisper, batch: Batch, terms: LossTerms) -> Float[Tensor, ""]:
        distances = [
            (parameter - self.start[name]).square().sum() for name, parameter in list_learning(whisper.network).items()
        ]
        return terms.tokens * self.alpha / 2 * torch.stack(distances).sum()
