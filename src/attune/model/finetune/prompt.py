"""Learned prompts: in front of the decoder's sequence, and in every block."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import chain, islice

from transformers import WhisperForConditionalGeneration

from attune.errors import InputError, check_whole
from attune.model.additions import PROMPT, attach_prompt
from attune.model.finetune.base import RateFactor, freeze
from attune.model.finetune.depth import name_blocks
from attune.model.finetune.vocabulary import NewVocabulary, grow_vocabulary, merge_vocabulary, require
from attune.text.tokenizer import add_to_tokenizer
from attune.text.tokens import MAX_PROMPT_TOKENS, Tokens

BLOCKS = ("model.encoder.layers.*", "model.decoder.layers.*")


class Prompt:
    """Whisper is frozen, and what it is told beside the utterance is learnt.

    Two kinds, alone or together. *Tokens* (Lester et al. 2021, arXiv:2104.08691): in front of every decoder sequence
    stand <|startofprev|> and k tokens whose rows learn. They are tokens of the vocabulary, <|soft_prompt_0|> and so on,
    which are never generated and never count as text. They start as what Whisper knows in this place: the beginning of
    the training texts, as previous text. *States in blocks* (Li and Liang 2021, arXiv:2101.00190; in both halves of a
    Whisper: Ma et al. 2023, arXiv:2312.08079): every chosen block's self-attention has k learned keys and values beside
    the utterance's. They change nothing at step 0. A prompt of tokens tells the decoder what will be said; only states
    in the encoder's blocks can tell it how it will sound.

    A model with tokens alone is saved as a plain Whisper. attune gives it its prompt by itself; plain transformers must
    be told, each time: `generate(..., prompt_ids=tensor([<|startofprev|>, <|soft_prompt_0|>, ...]))`. States in blocks
    lie in a file beside the model, with a loader (`attune.model.additions`).

    Args:
        tokens: k of the first kind, 0 for none. The decoder's positions are fewer by k + 1 for text, and half of them
            may be prompts.
        states: k of the second kind, keys and as many values in each block; 0 for none.
        blocks: shell-like patterns of the blocks that get states: `model.decoder.layers.*`, `model.encoder.layers.3`.
        rate_factor: times the default learning rate of the model's size: so few parameters want a high one.
    """

    def __init__(
        self, tokens: int = 0, states: int = 32, blocks: Sequence[str] = BLOCKS, rate_factor: RateFactor = 10.0
    ):
        check_whole("finetune", tokens=tokens, states=states)
        if not 0 <= tokens <= MAX_PROMPT_TOKENS:
            raise InputError(f"finetune.tokens is {tokens}; a prompt has at most {MAX_PROMPT_TOKENS} tokens; 0: none.")
        if states < 0 or tokens == states == 0:
            raise InputError(
                f"finetune.tokens is {tokens} and finetune.states {states}: one must be above 0, and none below it."
            )
        self.tokens, self.states = tokens, states
        self.blocks = list(blocks)
        self.rate_factor = rate_factor
        self.change: NewVocabulary | None = None
        if states:
            self.unmergeable = "learned prompts in blocks"

    def change_tokens(self, tokens: Tokens, transcripts: Iterable[str]) -> Tokens:
        if not self.tokens:
            return tokens
        if tokens.soft_prompt:
            raise InputError(
                "finetune=prompt: this Whisper has a learned prompt already. Start from the model before it, or go on "
                "with finetune=layers finetune.train=[model.decoder.embed_tokens.weight], which trains all rows."
            )
        tokenizer = add_to_tokenizer(tokens.tokenizer, prompts=self.tokens)
        new = Tokens(tokenizer, tokens.is_multilingual, tokens.max_tokens)
        text = islice(chain.from_iterable(tokens.text(text, None) for text in transcripts), self.tokens)
        beginning = list(text) or [tokens.end_of_text]
        starts = {id: [beginning[index % len(beginning)]] for index, id in enumerate(new.soft_prompt)}
        self.change = NewVocabulary(tokens, new, starts)
        return new

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        places = find_blocks(network, self.blocks) if self.states else []
        freeze(network)
        for place in places:
            attach_prompt(network.get_submodule(f"{place}.self_attn"), self.states)
        if self.tokens:
            grow_vocabulary(network, require(self.change))

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        if self.tokens:
            merge_vocabulary(network)


def find_blocks(network: WhisperForConditionalGeneration, patterns: Sequence[str]) -> list[str]:
    """The names of the blocks that match.

    Raises:
        InputError: a pattern matches none, or a block has a learned prompt already.
    """
    blocks = [*name_blocks(network, "encoder"), *name_blocks(network, "decoder")]
    for pattern in patterns:
        if not any(fnmatchcase(block, pattern) for block in blocks):
            raise InputError(f"finetune.blocks: there is no block {pattern!r}. There are: {', '.join(blocks)}.")
    chosen = [block for block in blocks if any(fnmatchcase(block, pattern) for pattern in patterns)]
    if not chosen:
        raise InputError(
            f"finetune.blocks is empty: it says where the {PROMPT} stands. For tokens alone: finetune.states=0."
        )
    if any(f".{PROMPT}." in name for name, _ in network.named_parameters()):
        raise InputError(
            "model.name_or_path: this Whisper has learned prompts in its blocks already, and others would replace "
            "them. Start from the model before it, or go on with finetune=full or layers."
        )
    return chosen
