"""What attune adds to a Whisper and plain transformers cannot hold: adapters, learned prompts in blocks, a CTC or a
reward head; how to load them.

attune copies this file into a model's folder as load_whisper.py, beside the weights in additions.safetensors. It stands
alone, therefore: torch, transformers and safetensors are all that it needs. In such a folder:

    from load_whisper import load
    model = load(".")  # a WhisperForConditionalGeneration with its adapters, for `generate` or a pipeline

A CTC head is not asked by `generate`; it writes by itself: `read_ctc(model.ctc_head, encoder_states, positions)`.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import WhisperForConditionalGeneration

WEIGHTS = "additions.safetensors"
ADAPTER = "adapter"  # the name of a child of the linear layer behind which it stands
PROMPT = "soft_prompt"  # the name of a child of a self-attention
HEAD = "ctc_head"  # the name of a child of the whole network
REWARD = "reward_head"  # of another


class Bottleneck(nn.Module):
    """y -> y + U gelu(D y + d) + u. U and u start at zero, so a new one changes nothing.

    Args:
        width: of what it is put behind.
        bottleneck: rows of D, columns of U.
    """

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, output: Tensor) -> Tensor:
        return output + self.up(gelu(self.down(output)))


def attach(linear: nn.Linear, bottleneck: int) -> None:
    """Put an adapter behind a linear layer, as its child: what was there keeps its names and its weights."""
    linear.add_module(ADAPTER, Bottleneck(linear.out_features, bottleneck).to(linear.weight))
    linear.register_forward_hook(_adapt)


def _adapt(linear: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    # A function of the file and no closure: a copy of the model then calls its own adapters, not the original's.
    return linear.get_submodule(ADAPTER)(output)


class SoftPrompt(nn.Module):
    """Keys and values that a self-attention learns (Li and Liang 2021, arXiv:2101.00190), under a softmax of their own,
    as He et al. 2022 (arXiv:2110.04366) write it: head h gains softmax(q_h K_h^T) V_h. V starts at zero, so a new one
    changes nothing.

    Args:
        length: how many of each.
        width: of the attention.
        heads: of the attention.
    """

    def __init__(self, length: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.keys = nn.Parameter(torch.randn(length, width))
        self.values = nn.Parameter(torch.zeros(length, width))

    def forward(self, attention: Any, states: Tensor) -> Tensor:
        """What (batch, position, width) states gain, behind the attention's output projection."""
        queries = self._split(attention.q_proj(states))
        keys, values = (self._split(each).expand(len(states), -1, -1, -1) for each in (self.keys, self.values))
        heard = scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
        # `forward`, as what was put onto the projection (LoRA) belongs to it; what hangs on its output does not.
        return attention.out_proj.forward(heard.reshape(states.shape)) - attention.out_proj.bias

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


def attach_prompt(attention: Any, length: int) -> None:
    """Put a prompt into a self-attention, as its child: what was there keeps its names and its weights."""
    prompt = SoftPrompt(length, attention.embed_dim, attention.num_heads)
    attention.add_module(PROMPT, prompt.to(attention.k_proj.weight))
    attention.register_forward_hook(_prompt, with_kwargs=True)


def _prompt(attention: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> Any:
    states = named["hidden_states"] if "hidden_states" in named else inputs[0]
    return output[0] + attention.get_submodule(PROMPT)(attention, states), *output[1:]


class CtcHead(nn.Linear):
    """Encoder states -> text tokens and a blank, which stands behind them: text ids are the first in a Whisper.

    Args:
        width: of the encoder's states.
        text_tokens: how many there are.
        writes: whether transcripts come from it, and not from the decoder.
    """

    def __init__(self, width: int, text_tokens: int, writes: bool = True):
        super().__init__(width, text_tokens + 1)
        self.writes = writes

    def forward(self, input: Tensor) -> Tensor:
        """Of states that tell more behind their width (attune/model/silence.py) it takes the width."""
        return super().forward(input[..., : self.in_features])


class RewardHead(nn.Linear):
    """A decoder's state -> what a transcript that ends there is worth; 0 for every transcript before it has learnt."""

    def __init__(self, width: int):
        super().__init__(width, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


@torch.no_grad()
def read_ctc(head: CtcHead, states: Tensor, positions: list[int]) -> list[list[int]]:
    """The likeliest token at each position, repetitions and blanks left out (Graves et al. 2006, section 3.2).

    Args:
        states: (batch, position, width), of the encoder.
        positions: of each utterance, how many hold its audio.

    Returns:
        Text ids of each utterance.
    """
    blank, best = head.out_features - 1, head(states).argmax(dim=-1).tolist()
    found = []
    for row, length in zip(best, positions, strict=True):
        heard = row[:length]
        steps = zip([blank, *heard], heard, strict=False)
        found.append([token for before, token in steps if token not in (before, blank)])
    return found


def is_addition(name: str) -> bool:
    """Whether a weight is one that plain transformers has no place for."""
    return f".{ADAPTER}." in name or f".{PROMPT}." in name or name.startswith((f"{HEAD}.", f"{REWARD}."))


def load_additions(network: nn.Module, path: Path | str) -> None:
    """Put what was saved into a plain Whisper: names say where it stands, shapes how wide it is.

    Raises:
        ValueError: the file cannot be read, or does not belong to this Whisper.
    """
    try:
        weights = load_file(path)
        for name, weight in weights.items():
            linear, is_down, _ = name.partition(f".{ADAPTER}.down.weight")
            if is_down:
                attach(network.get_submodule(linear), bottleneck=len(weight))  # type: ignore[arg-type]
            attention, is_prompt, _ = name.partition(f".{PROMPT}.keys")
            if is_prompt:
                attach_prompt(network.get_submodule(attention), length=len(weight))
            if name == f"{HEAD}.weight":
                network.add_module(HEAD, CtcHead(weight.shape[1], len(weight) - 1).to(weight))
            if name == f"{REWARD}.weight":
                network.add_module(REWARD, RewardHead(weight.shape[1]).to(weight))
        foreign = network.load_state_dict(weights, strict=False).unexpected_keys
    except (SafetensorError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} does not belong to this Whisper: {error}") from error
    if foreign:
        raise ValueError(f"{path} does not belong to this Whisper, which has no {foreign[0]}.")


def load(folder: Path | str) -> WhisperForConditionalGeneration:
    """The whole model in a folder, ready to listen."""
    network = WhisperForConditionalGeneration.from_pretrained(folder)
    load_additions(network, Path(folder) / WEIGHTS)
    return network.eval()
