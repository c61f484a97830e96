"""What tests do to Whispers: copy them, wake them up, give them a batch."""

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.data.batch import Batch, Example, collate
from attune.model.finetune.base import FineTuning, apply_finetuning, change_tokens, is_constant
from attune.model.whisper import Whisper, encode
from attune.text.tokens import Tokens

TEXTS = ("Seven blue boats.", "No.", "The kitchen door was open, and nobody had watered the garden since August.")
LENGTHS_S = (1.3, 0.7, 3.9)
# What vocabularies are learnt from: the batch's texts, and 120 words that no tokenizer has as one piece.
_DRAW = random.Random(0)
TRANSCRIPTS = [*TEXTS * 10, *("".join(_DRAW.choices("bcdfghjklmnpqrstvwxz", k=7)) for _ in range(120))]


def read_settings(path: Path) -> dict[str, Any]:
    """A YAML of configs/ as it is handed to its class: without what Hydra reads for itself."""
    return {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "defaults"}


def copy_of(whisper: Whisper) -> Whisper:
    """One with weights of its own; the tokenizer, which nobody changes, is shared."""
    return Whisper(copy.deepcopy(whisper.network), whisper.tokens)


def change(whisper: Whisper, finetune: FineTuning) -> dict[str, int]:
    """What train.py does ahead of the first step: the vocabulary, then the network. Returns the parameters' counts."""
    tokens = change_tokens(finetune, whisper.tokens, TRANSCRIPTS)
    counts = apply_finetuning(finetune, whisper.network)
    whisper.tokens = tokens
    return counts


def awaken(whisper: Whisper, seed: int, factor: float = 8.0) -> Whisper:
    """A copy whose weights are so large that what it writes depends on what it hears.

    Freshly drawn weights are so small that attention is flat; norms and biases are all ones and zeros, so that a
    mistake
    in one of them would not be seen; and because the output matrix is the token embedding, every token is followed by
    itself for ever, unless the last norm has weights of either sign.
    """
    changed = copy_of(whisper)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in changed.network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "model.decoder.layer_norm.weight":
                parameter.copy_(noise)
            elif parameter.ndim > 1 and not is_constant(name):
                parameter.copy_(0.02 * factor * noise)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * noise)
    return changed.eval()


def end_at(whisper: Whisper, token: int) -> Whisper:
    """A copy that writes <|endoftext|> where it would have written `token`: their embeddings change places."""
    changed = copy_of(whisper)
    weight = changed.network.model.decoder.embed_tokens.weight
    with torch.no_grad():
        weight[[token, whisper.tokens.end_of_text]] = weight[[whisper.tokens.end_of_text, token]]
    return changed.eval()


def choose_end(written: Sequence[Sequence[int]]) -> int:
    """Of all the tokens that were written, the one whose first places differ most from row to row."""
    places = {
        token: {row.index(token) if token in row else None for row in map(list, written)}
        for token in sorted({token for row in written for token in row})
    }
    return max(places, key=lambda token: len(places[token]))


def hear(whisper: Whisper, batch: Batch) -> Float[Tensor, "batch position width"]:
    """States that transformers' decoder takes as well: every position stands for itself."""
    return encode(whisper.network, whisper.log_mel(batch.waveform))


def make_sound(length_s: float, seed: int) -> Float[Tensor, "sample"]:
    """A tone that glides, in noise: something in every mel band, nothing to understand."""
    count = int(length_s * SAMPLE_RATE_HZ)
    generator = torch.Generator().manual_seed(seed)
    time_s = torch.arange(count) / SAMPLE_RATE_HZ
    glide = torch.sin(2 * torch.pi * (150 + 40 * (seed % 7)) * time_s * (1 + time_s))
    return 0.3 * glide + 0.05 * torch.randn(count, generator=generator)


def make_example(
    tokens: Tokens, text: str, length_s: float, positions: int, seed: int, prompt: str | None = None
) -> Example:
    sequence = tokens.sequence(text, "en", prompt=prompt)
    prefix = [*tokens.prompt(prompt, tokens.max_tokens // 2), *tokens.prefix("en")]
    sound = make_sound(length_s, seed)
    return Example(
        f"utterance {seed}", sound, positions, sequence.decoder_input_ids, sequence.labels, prefix, text, "en", None
    )


def make_batch(
    tokens: Tokens,
    positions: int,
    texts: Sequence[str] = TEXTS,
    lengths_s: Sequence[float] = LENGTHS_S,
    prompts: Sequence[str | None] | None = None,
) -> Batch:
    """Utterances of different lengths, in windows of `positions`."""
    rows = zip(texts, lengths_s, prompts or [None] * len(texts), strict=True)
    examples = [
        make_example(tokens, text, length, positions, i, prompt) for i, (text, length, prompt) in enumerate(rows)
    ]
    return collate(examples, tokens.end_of_text)
