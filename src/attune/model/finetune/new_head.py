"""The output vocabulary replaced by one that is learnt from the training texts: a narrow domain."""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer
from transformers import WhisperForConditionalGeneration

from attune.errors import InputError, check_whole
from attune.model.finetune.base import RateFactor, freeze, unfreeze_matching
from attune.model.finetune.vocabulary import NewVocabulary, refuse_head, replace_vocabulary, require
from attune.text.tokenizer import exchange_pieces, learn_pieces, read_pieces
from attune.text.tokens import Tokens


class NewHead:
    """Text is spelt with byte-level pieces of the training texts; Whisper's special tokens and times stay.

    A piece that the old vocabulary has keeps its row, another starts from the mean of the old pieces that spell it. So
    the decoder begins with what it knows, but it has to learn to write in other pieces. As it stands everything learns:
    texts that are new enough to want a vocabulary of their own are of sounds that are new too.
    Fewer, longer pieces make decoding faster, and with a large Whisper the output matrix is most of a small decoder.

    Args:
        merges: byte pairs that are learnt: the vocabulary has 256 bytes and as many pieces, or as the texts have.
        train: shell-like patterns of the parameters that learn; the new embedding is model.decoder.embed_tokens.weight.
        rate_factor: times the default learning rate of the model's size.
    """

    def __init__(self, merges: int = 400, train: Sequence[str] = ("*",), rate_factor: RateFactor = 1.0):
        check_whole("finetune", merges=merges)
        if merges < 0:
            raise InputError(f"finetune.merges is {merges}; 0 spells everything in bytes, more in longer pieces.")
        self.merges = merges
        self.train = list(train)
        self.rate_factor = rate_factor
        self.change: NewVocabulary | None = None

    def change_tokens(self, tokens: Tokens, transcripts: Iterable[str]) -> Tokens:
        learner = learn_pieces((text.strip() for text in transcripts), self.merges)
        new = Tokens(exchange_pieces(tokens.tokenizer, learner), tokens.is_multilingual, tokens.max_tokens)
        self.change = NewVocabulary(tokens, new, spell_pieces(tokens.tokenizer.backend_tokenizer, learner))
        return new

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        refuse_head(network)
        replace_vocabulary(network, require(self.change))
        freeze(network)
        unfreeze_matching(network, self.train)


def spell_pieces(old: Tokenizer, learner: Tokenizer) -> dict[int, list[int]]:
    """Id of each piece that is new -> the ids of the old pieces that spell it; a piece may be half a letter's bytes."""
    known, _ = read_pieces(old)
    pieces, _ = read_pieces(learner)
    return {id: [token.id for token in old.model.tokenize(piece)] for piece, id in pieces.items() if piece not in known}
