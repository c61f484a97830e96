"""The gradient of the token embedding, which is the output projection too, without a second matrix of its size.

The projection's gradient is dense; that of the lookup has as many rows as there are tokens. Autograd makes a matrix of
zeros for these, puts them in, and adds the two: with OpenAI's vocabulary a tenth of what a step of the decoder takes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration


@contextmanager
def adding_rows(network: WhisperForConditionalGeneration) -> Iterator[None]:
    """For as long as the context lasts, `backward` adds the rows of a lookup to `weight.grad` itself.

    Only where nobody waits for the gradient's parts, as DDP does, or asks for it otherwise than by `backward`.
    """
    embedding = network.model.decoder.embed_tokens
    if type(embedding) is not nn.Embedding or embedding.weight is not network.proj_out.weight:
        yield
        return
    handle = embedding.register_forward_hook(_look_up)
    try:
        yield
    finally:
        handle.remove()


def _look_up(
    embedding: nn.Embedding, inputs: tuple[Int[Tensor, "batch token"]], output: Float[Tensor, "batch token width"]
) -> Float[Tensor, "batch token width"]:
    """A forward hook: the lookup, cut off from autograd, with a hook of its own that adds its gradient's rows."""
    if not output.requires_grad:
        return output
    ids, weight = inputs[0], embedding.weight
    found = output.detach().requires_grad_()

    def add(gradient: Float[Tensor, "batch token width"]) -> None:
        if weight.grad is None:  # what the projection has is there first, unless it was not asked
            weight.grad = torch.zeros_like(weight)
        if embedding.padding_idx is not None:  # which learns nothing by being looked up
            gradient = gradient.masked_fill((ids == embedding.padding_idx)[..., None], 0.0)
        weight.grad.index_put_((ids,), gradient.to(weight.grad.dtype), accumulate=True)

    found.register_hook(add)
    return found
