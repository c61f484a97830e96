"""The gradient of an accumulation window: a sum over its tokens until the step, and a mean of bounded norm in it."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from attune.train.strategies import own_part


class WindowGradient:
    """What is asked of it twice, by the search for steps that are not finite and by clipping, is computed once."""

    def __init__(self) -> None:
        self._norm: Float[Tensor, ""] | None = None

    def norm(self, optimizer: Optimizer) -> Float[Tensor, ""]:
        """Its L2 norm, of the sum."""
        if self._norm is None:
            norm = torch.nn.utils.get_total_norm(find_gradients(optimizer))
            self._norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return self._norm

    def average(self, optimizer: Optimizer, tokens: Float[Tensor, ""], clip: float | None) -> None:
        """Turn the sum into the mean over `tokens`, whose norm is at most `clip`: in one pass over it."""
        gradients = [own_part(each) for each in find_gradients(optimizer)]
        factor = 1.0 / tokens
        if clip:
            factor = factor * (clip / (self.norm(optimizer) * factor + 1e-6)).clamp(max=1.0)
        self._norm = None
        if gradients:
            torch._foreach_mul_(gradients, factor)  # type: ignore[attr-defined]  # what torch's own clipping calls


def find_gradients(optimizer: Optimizer) -> list[Tensor]:
    """By the optimiser's lists: to walk all modules takes milliseconds."""
    return [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
