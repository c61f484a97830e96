"""A learned prompt in the decoder (Lester et al. 2021, arXiv:2104.08691)."""

from collections.abc import Iterable
from itertools import chain, islice

from transformers import WhisperForConditionalGeneration

from attune.errors import InputError
from attune.model.finetune.base import RateFactor, freeze
from attune.model.finetune.vocabulary import NewVocabulary, grow_vocabulary, merge_vocabulary, require
from attune.text.tokenizer import add_to_tokenizer
from attune.text.tokens import MAX_PROMPT_TOKENS, Tokens


class Prompt:
    """Whisper is frozen; in front of every sequence stand <|startofprev|> and k tokens whose rows learn.

    They are tokens of the vocabulary, <|soft_prompt_0|> and so on, which are never generated and never count as text.
    They start as what Whisper knows in this place: the beginning of the training texts, as previous text.

    The model that is saved is a plain Whisper. attune gives it its prompt by itself; plain transformers must be told,
    each time: `generate(..., prompt_ids=tensor([<|startofprev|>, <|soft_prompt_0|>, ...]))`. Without it, it decodes as
    the untouched model does.

    Args:
        length: k. The decoder's positions are fewer by k + 1 for text, and half of them may be prompts.
        rate_factor: times the default learning rate of the model's size: so few parameters want a high one.
    """

    def __init__(self, length: int = 16, rate_factor: RateFactor = 10.0):
        if not 1 <= length <= MAX_PROMPT_TOKENS:
            raise InputError(f"finetune.length is {length}; a prompt has from 1 to {MAX_PROMPT_TOKENS} tokens.")
        self.length = length
        self.rate_factor = rate_factor
        self.change: NewVocabulary | None = None

    def change_tokens(self, tokens: Tokens, transcripts: Iterable[str]) -> Tokens:
        if tokens.soft_prompt:
            raise InputError(
                "finetune=prompt: this Whisper has a learned prompt already. Start from the model before it, or go on "
                "with finetune=layers finetune.train=[model.decoder.embed_tokens.weight], which trains all rows."
            )
        tokenizer = add_to_tokenizer(tokens.tokenizer, prompts=self.length)
        new = Tokens(tokenizer, tokens.is_multilingual, tokens.max_tokens)
        text = islice(chain.from_iterable(tokens.text(text, None) for text in transcripts), self.length)
        beginning = list(text) or [tokens.end_of_text]
        starts = {id: [beginning[index % len(beginning)]] for index, id in enumerate(new.soft_prompt)}
        self.change = NewVocabulary(tokens, new, starts)
        return new

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        change = require(self.change)
        freeze(network)
        grow_vocabulary(network, change)

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        merge_vocabulary(network)
