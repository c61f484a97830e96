"""What makes a step of the decoder cheap: its weights are narrowed once, and one query is no batch of them.

A step has one new token for each row. Under autocast every linear layer would narrow its weight anew in every step,
which takes several times as long as the product itself. And on a CPU torch's attention kernel, made for many queries,
takes ten times as long for one as two products of matrices do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, WhisperForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

FEW_QUERIES = "attune_few_queries"  # the attention's name in transformers' registry
FEW = 8  # queries: a prefix, or one token


@contextmanager
def lean(network: WhisperForConditionalGeneration) -> Iterator[None]:
    """For as long as the context lasts: on a CPU few queries are attended to by two products; and under autocast the
    decoder and the output projection compute with weights that are in 16 bits already, to the same results. Nothing
    learns meanwhile.
    """
    kind, config = network.device.type, network.config
    attention, kept = config._attn_implementation, []
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        kept = [(layer, dict(layer._parameters)) for layer in _find_linear(network)]
        for layer, parameters in kept:
            layer._parameters.update({name: _narrow(each, dtype) for name, each in parameters.items()})
    if kind == "cpu" and attention == "sdpa":
        config._attn_implementation = FEW_QUERIES
    try:
        yield
    finally:
        config._attn_implementation = attention
        for layer, parameters in kept:
            layer._parameters.update(parameters)


def _find_linear(network: WhisperForConditionalGeneration) -> list[nn.Linear]:
    """Plain ones alone, an adapter's among them: others know best what to do with their weights. The embedding of
    tokens, which is the output projection, is looked up in fp32 as before."""
    parts = (*network.model.decoder.modules(), network.proj_out)
    return [part for part in parts if type(part) is nn.Linear]


def _narrow(parameter: nn.Parameter | None, dtype: torch.dtype) -> nn.Parameter | None:
    if parameter is None or parameter.dtype != torch.float32:
        return parameter
    return nn.Parameter(parameter.detach().to(dtype), requires_grad=False)


def attend(
    module: nn.Module,
    query: Float[Tensor, "batch head query width"],
    key: Float[Tensor, "batch head key width"],
    value: Float[Tensor, "batch head key width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "batch query head width"], None]:
    """Attention as transformers asks for it: of few queries that see all keys by two products, else torch's own."""
    is_added = attention_mask is not None and attention_mask.is_floating_point()  # of silence: for all queries alike
    sees_all = (attention_mask is None or is_added) and (query.shape[2] == 1 or not getattr(module, "is_causal", False))
    if not sees_all or query.shape[2] > FEW or torch.is_grad_enabled():
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    scores = query * (query.shape[3] ** -0.5 if scaling is None else scaling) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(FEW_QUERIES, attend)
AttentionMaskInterface.register(FEW_QUERIES, sdpa_mask)
