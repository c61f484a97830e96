"""When each token was said: by the decoder's attention to the sound, or by a CTC head.

Where a decoder looks while it writes a token is where that token is said, in some heads exactly so. Their attention,
laid out as a table of tokens by encoder positions, holds a rising path; dynamic time warping (Sakoe and Chiba 1978,
doi:10.1109/TASSP.1978.1163055) finds it, as openai/whisper does for its word times. A published checkpoint names its
exact heads in generation_config.alignment_heads; of others, all heads of the upper half of the layers are averaged.

transformers returns no attention from its fast kernels, so it is made here, of the queries and keys that pass by.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import WhisperForConditionalGeneration

from attune.data.batch import pad_tokens
from attune.model.additions import CtcHead
from attune.model.finetune.ctc import TAIL_POSITIONS, find_writer
from attune.model.whisper import Whisper

SMOOTHED = 7  # encoder positions: a median over 0.14 s takes out single glances elsewhere
Span = tuple[int, int]  # encoder positions, of 0.02 s: the first, and the one behind the last


@torch.no_grad()
def align(
    whisper: Whisper,
    states: Float[Tensor, "batch position told"],
    prefixes: Sequence[Sequence[int]],
    written: Sequence[Sequence[int]],
    audible: Sequence[Int[np.ndarray, "position"]],
) -> list[list[Span]]:
    """When each token that a model wrote is said.

    Args:
        states: of the encoder.
        prefixes: what the decoder was given before the text, each without times.
        written: text ids, without times and <|endoftext|>.
        audible: of each row, the encoder positions at which there is something to hear, in order. A pause belongs to no
            token, and the path jumps over it.

    Returns:
        Of each row, a span for each of its ids; they never go back.
    """
    head = find_writer(whisper.network)
    if head is not None:
        rows = zip(head(states).argmax(dim=-1).tolist(), audible, written, strict=True)
        return [_find_runs(head, best[: heard[-1] + 1 + TAIL_POSITIONS])[: len(ids)] for best, heard, ids in rows]
    fed = [[*prefix, *ids][: whisper.tokens.max_tokens] for prefix, ids in zip(prefixes, written, strict=True)]
    inputs = pad_tokens(fed, 0)
    heads = choose_heads(whisper.network)
    with _watching(whisper.network, heads) as seen:
        whisper.decode(states, inputs.to(states.device))
    spans = []
    for row, (prefix, ids, heard) in enumerate(zip(prefixes, written, audible, strict=True)):
        looks = _weigh(seen, heads, row, len(fed[row]), heard)
        # The query at a token looks for the next one; the last looks for the end.
        starts = warp(-looks[len(prefix) - 1 :]) if ids else [0]
        found = [(int(heard[start]), int(heard[max(start, end - 1)]) + 1) for start, end in pairwise(starts)]
        spans.append([*found, *[(found[-1][1],) * 2] * (len(ids) - len(found))] if found else [])
    return spans


def choose_heads(network: WhisperForConditionalGeneration) -> dict[int, list[int]]:
    """Layer -> heads of the decoder's attention to the sound whose path is followed."""
    layers, heads = network.config.decoder_layers, network.config.decoder_attention_heads
    named = getattr(network.generation_config, "alignment_heads", None)
    chosen: dict[int, list[int]] = defaultdict(list)
    for layer, head in named or [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]:
        chosen[int(layer)].append(int(head))
    return dict(chosen)


@contextmanager
def _watching(
    network: WhisperForConditionalGeneration, layers: Mapping[int, Sequence[int]]
) -> Iterator[dict[tuple[int, str], Tensor]]:
    """(layer, q or k) -> what that projection gave, (batch, token or position, head, width), once the decoder ran."""
    seen: dict[tuple[int, str], Tensor] = {}
    hooks = []
    for layer in layers:
        attention = network.get_submodule(f"model.decoder.layers.{layer}.encoder_attn")
        for kind in ("q", "k"):

            def keep(_module: nn.Module, _inputs: object, output: Tensor, key: tuple[int, str] = (layer, kind)) -> None:
                seen[key] = output.unflatten(-1, (network.config.decoder_attention_heads, -1))

            hooks.append(attention.get_submodule(f"{kind}_proj").register_forward_hook(keep))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _weigh(
    seen: Mapping[tuple[int, str], Tensor],
    heads: Mapping[int, Sequence[int]],
    row: int,
    tokens: int,
    audible: Int[np.ndarray, "position"],
) -> Float[np.ndarray, "token position"]:
    """Where one row's tokens look, (token, position): standardised over the tokens, smoothed, averaged over heads."""
    looks = []
    for layer, chosen in heads.items():
        queries, keys = seen[layer, "q"][row, :tokens].float(), seen[layer, "k"][row, audible].float()
        scores = torch.einsum("thd,phd->htp", queries[:, chosen], keys[:, chosen]) * queries.shape[-1] ** -0.5
        weights = scores.softmax(dim=-1)
        spread = weights.std(dim=1, keepdim=True, correction=0).clamp(min=1e-9)
        looks.append(smooth((weights - weights.mean(dim=1, keepdim=True)) / spread).sum(dim=0).cpu())
    return (torch.stack(looks).sum(dim=0) / sum(map(len, heads.values()))).numpy()


def smooth(weights: Float[Tensor, "*token position"]) -> Float[Tensor, "*token position"]:
    """The median of each seven neighbours along the sound; as it is where there are fewer."""
    if weights.shape[-1] < SMOOTHED:
        return weights
    padded = pad(weights, (SMOOTHED // 2, SMOOTHED // 2), mode="reflect")
    return padded.unfold(-1, SMOOTHED, 1).median(dim=-1).values


def warp(cost: Float[np.ndarray, "token position"]) -> list[int]:
    """The position at which each token begins on the cheapest path from the first corner to the last.

    A step of the path goes one position on, or one token as well; where there are more tokens than positions also one
    token alone, so that else each token has a position of its own. Cells whose token and position add up to the same
    depend on none of each other, so that they are reckoned at once.
    """
    tokens, positions = cost.shape
    crowded = 0.0 if tokens > positions else np.inf
    best = [np.full(tokens + 1, np.inf), np.full(tokens + 1, np.inf)]  # of the last two diagonals; a border in front
    steps = np.zeros((tokens + positions - 1, tokens), dtype=np.int8)
    rows = np.arange(tokens)
    for diagonal in range(tokens + positions - 1):
        columns = diagonal - rows
        is_cell = (columns >= 0) & (columns < positions)
        # From one position before; one token before; one of both before.
        reached = np.stack([best[1][1:], best[1][:-1] + crowded, best[0][:-1]])
        steps[diagonal] = reached.argmin(axis=0)
        arrived = np.zeros(tokens) if diagonal == 0 else reached.min(axis=0)
        values = np.where(is_cell, cost[rows, columns.clip(0, positions - 1)] + arrived, np.inf)
        best = [best[1], np.concatenate([[np.inf], values])]
    return _trace(steps, tokens, positions)


def _trace(steps: np.ndarray, tokens: int, positions: int) -> list[int]:
    token, position = tokens - 1, positions - 1
    starts = [0] * tokens
    while token:  # the first begins with the path, at 0
        starts[token] = position
        step = steps[token + position, token]
        token, position = token - (step > 0), position - (step != 1)
    return [int(start) for start in starts]


def _find_runs(head: CtcHead, best: Sequence[int]) -> list[Span]:
    """The run of equal likeliest tokens that each written token stands for."""
    blank = head.out_features - 1
    bounds = [i for i in range(len(best) + 1) if i in (0, len(best)) or best[i] != best[i - 1]]
    return [(start, end) for start, end in pairwise(bounds) if best[start] != blank]
