"""A small vocabulary, laid out as OpenAI's: for programs that know Whisper's tokens by their ids.

whisper.cpp takes a Whisper for multilingual if it has 51,865 tokens or more, and has the ids of the special tokens in
its code: <|endoftext|> is 50257 (50256 in English-only models), and the others follow. CTranslate2's readers count on
the same order. A Whisper with fewer pieces of text (model=nano, model=scratch, finetune=new_head) gets rows between
its text and its special tokens that nothing spells. They must never be written; how that is said, each format knows.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, WhisperFeatureExtractor

from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.text.tokenizer import fill_pieces
from attune.text.tokens import Tokens

END = {True: 50257, False: 50256}  # <|endoftext|> of multilingual and of English-only Whispers
SIZES = {True: "51,865 or more", False: "51,864"}


@dataclass(frozen=True)
class Layout:
    """Where the rows of a vocabulary go.

    Args:
        tokens: with the ids of the layout.
        text: rows of text, which stay.
        fillers: rows behind them that are new; everything else moves on by as many.
    """

    tokens: Tokens
    text: int
    fillers: int

    def move(self, id: int) -> int:
        """A token's id in the layout."""
        return id if id < self.text else id + self.fillers

    def spread(
        self, rows: Float[Tensor, "token width"], filler: Float[Tensor, "width"]
    ) -> Float[Tensor, "laid_out width"]:
        """A matrix with a row a token, with `filler` in every new row."""
        between = filler.expand(self.fillers, -1)
        return torch.cat([rows[: self.text], between, rows[self.text :]])


def lay_out(whisper: Whisper, title: str) -> Layout:
    """The layout of a Whisper's vocabulary: its own, where it is as large as OpenAI's.

    Raises:
        InputError: the vocabulary would not have a size by which `title` knows a Whisper.
    """
    tokens, size = whisper.tokens, whisper.network.config.vocab_size
    fillers = max(0, END[tokens.is_multilingual] - tokens.end_of_text)
    total = size + fillers
    if total < 51865 if tokens.is_multilingual else total != 51864:
        raise InputError(
            f"{title} knows a Whisper by the size of its vocabulary, {SIZES[tokens.is_multilingual]} tokens; this one "
            f"would have {total:,}. Export it with --to hf or --to onnx."
        )
    if not fillers:
        return Layout(tokens, tokens.end_of_text, 0)
    filled = Tokens(fill_pieces(tokens.tokenizer, fillers), tokens.is_multilingual, tokens.max_tokens)
    return Layout(filled, tokens.end_of_text, fillers)


def save_front_end(whisper: Whisper, layout: Layout, folder: Path) -> None:
    """The tokenizer and the generation config with the ids of the layout, and the front end's sizes."""
    config = copy.deepcopy(whisper.network.generation_config) or GenerationConfig()
    for name, value in vars(config).items():
        if name.endswith("token_id") and isinstance(value, int):
            setattr(config, name, layout.move(value))
        elif name in ("suppress_tokens", "begin_suppress_tokens") and value:
            setattr(config, name, [layout.move(id) for id in value])
        elif name in ("lang_to_id", "task_to_id") and value:
            setattr(config, name, {key: layout.move(id) for key, id in value.items()})
    config.save_pretrained(folder)
    layout.tokens.tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=whisper.network.config.num_mel_bins).save_pretrained(folder)
