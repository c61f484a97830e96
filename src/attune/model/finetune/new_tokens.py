"""New vocabulary: terms, symbols, a new language. Only its rows learn."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import regex
from transformers import WhisperForConditionalGeneration

from attune.errors import InputError, check_whole
from attune.model.finetune.base import RateFactor, freeze
from attune.model.finetune.lora import Lora
from attune.model.finetune.vocabulary import NewVocabulary, grow_vocabulary, merge_vocabulary, refuse_head, require
from attune.text.tokenizer import add_to_tokenizer
from attune.text.tokens import Tokens
from attune.text.vocabulary import Term

VOCABULARY = "vocabulary"
WORD = regex.compile(r"(?<= )\p{L}[\p{L}\p{M}]*(?:['’-][\p{L}\p{M}]+)*")


class NewTokens:
    """Whisper is frozen; its token embedding, and the output tied to it, gain a row for every new token.

    A term's row starts from the mean of the pieces that spelt it, a language's from its relative's row, so that the
    model is not thrown off at step 0. Merging leaves a plain Whisper with a larger vocabulary and its own tokenizer.

    Plain transformers is asked for a new language by its token: `generate(..., language="<|gsw|>")`. It knows the codes
    of its own list alone, so `language="gsw"` and `WhisperTokenizer.from_pretrained(..., language="gsw")` raise there.

    Args:
        terms: words, phrases and symbols of the training texts, as they stand in a sentence; null chooses the `count`
            words that one token each shortens most; "vocabulary" takes those of the run's list (vocabulary=file) that
            stand in the training texts and are spelt in several pieces.
        count: of the words that are chosen, at least 1.
        languages: new code -> the known language whose token it starts from: {gsw: de}.
        rank: of a low-rank adaptation of all linear layers that learns beside the rows; null is none.
        alpha: of that adaptation, whose scale is alpha / rank.
        rate_factor: times the default learning rate of the model's size.
    """

    def __init__(
        self,
        terms: Sequence[str] | str | None = None,
        count: int = 64,
        languages: Mapping[str, str] | None = None,
        rank: int | None = None,
        alpha: int = 64,
        rate_factor: RateFactor = 10.0,
    ):
        if terms is not None and not terms and not languages:
            raise InputError(
                "finetune.terms is empty and finetune.languages too, so there is no new token. List terms, leave "
                "finetune.terms=null to have words chosen, or give a language: +finetune.languages.gsw=de."
            )
        check_whole("finetune", count=count)
        if count < 1:
            raise InputError(f"finetune.count is {count}; at least 1 word must be chosen, or finetune.terms listed.")
        if isinstance(terms, str) and terms != VOCABULARY:
            raise InputError(f"finetune.terms={terms}: accepted are a list, [{terms}], null and {VOCABULARY}.")
        self.terms = terms if terms is None or isinstance(terms, str) else list(terms)
        self.given: list[str] = []  # of the run's vocabulary
        self.count = count
        self.languages = {code.lower(): relative for code, relative in (languages or {}).items()}
        self.lora = None if rank is None else Lora(rank=rank, alpha=alpha)
        self.rate_factor = rate_factor
        self.change: NewVocabulary | None = None

    def change_tokens(self, tokens: Tokens, transcripts: Iterable[str]) -> Tokens:
        texts = [" " + text.strip() for text in transcripts]
        terms = self._choose_terms(tokens, texts)
        relatives = read_languages(tokens, self.languages)
        tokenizer = add_to_tokenizer(tokens.tokenizer, terms, list(relatives))
        new = Tokens(tokenizer, tokens.is_multilingual, tokens.max_tokens)
        starts = {new.end_of_text - len(terms) + index: spell(tokens, term) for index, term in enumerate(terms)}
        for id, term in zip(starts, terms, strict=True):
            if tokenizer.decode([id]) != term:
                raise InputError(
                    f"finetune.terms: transformers cannot write {term!r} as one token: its decoder takes letters such "
                    "as é, ß and ° for single bytes, unless a space stands beside them. Leave it out."
                )
        starts |= {new.languages[code]: [relative] for code, relative in relatives.items()}
        new.relatives = self.languages
        self.change = NewVocabulary(tokens, new, starts)
        return new

    def _choose_terms(self, tokens: Tokens, texts: Sequence[str]) -> list[str]:
        if self.terms is None:
            return choose_words(tokens, texts, self.count)
        if isinstance(self.terms, str):
            return choose_given(tokens, texts, self.given)
        return read_terms(tokens, texts, self.terms)

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        change = require(self.change)
        if change.new.end_of_text != change.old.end_of_text:  # a language stands behind all text
            refuse_head(network)
        freeze(network)
        if self.lora:
            self.lora.apply(network)
        grow_vocabulary(network, change)

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        if self.lora:
            self.lora.merge(network)
        merge_vocabulary(network)


def give_terms(finetune: object, terms: Sequence[Term]) -> None:
    """Hand a run's list to the type that can make tokens of it."""
    if isinstance(finetune, NewTokens):
        finetune.given = [term.spelling for term in terms]


def spell(tokens: Tokens, text: str) -> list[int]:
    """The ids of a text, its spaces as they are."""
    return tokens.tokenizer.encode(text, add_special_tokens=False)


def choose_words(tokens: Tokens, texts: Sequence[str], count: int) -> list[str]:
    """The words that the texts spell with the most pieces beyond the first, all their occurrences together.

    Raises:
        InputError: every word is one token already.
    """
    seen = Counter(f" {word}" for text in texts for word in WORD.findall(text))
    saved = {word: times * (len(spell(tokens, word)) - 1) for word, times in seen.items()}
    useful = sorted((word for word in saved if saved[word] > 0), key=lambda word: (-saved[word], word))
    if not useful:
        raise InputError(
            "finetune.terms=null: every word of the training texts is one token already. List phrases or symbols in "
            "finetune.terms, or finetune.terms=[] for a new language alone."
        )
    return useful[:count]


def read_terms(tokens: Tokens, texts: Sequence[str], terms: Sequence[str]) -> list[str]:
    """Terms as they stand in a text: with the space in front of them where the training texts write one.

    Raises:
        InputError: a term is listed twice, is a token already, or stands in no training text.
    """
    found = [place_term(term.strip(), texts) for term in terms]
    for term, times in Counter(found).items():
        ids = spell(tokens, term)
        if times > 1:
            raise InputError(f"finetune.terms lists {term.strip()!r} {times} times.")
        if len(ids) == 1:
            raise InputError(
                f"finetune.terms: {term.strip()!r} is a token already (id {ids[0]}), which finetune=full or layers can "
                "train. Leave it out."
            )
    return found


def choose_given(tokens: Tokens, texts: Sequence[str], spellings: Sequence[str]) -> list[str]:
    """Of a long list the terms that can learn: in the training texts, and spelt in several pieces.

    Raises:
        InputError: none can.
    """
    said = [spelling for spelling in spellings if any(spelling in text for text in texts)]
    useful = [term for term in (place_term(each, texts) for each in said) if len(spell(tokens, term)) > 1]
    if not useful:
        raise InputError(
            f"finetune.terms={VOCABULARY}: the run's list has {len(spellings)} terms, {len(said)} of which stand in "
            "the training texts, and none there needs a token. Give a list (vocabulary=file), and texts or synthetic "
            "speech that say its terms (vocabulary.synthetic=0.5)."
        )
    return useful


def place_term(term: str, texts: Sequence[str]) -> str:
    """A term with or without the space in front of it, whichever the texts have more often.

    Raises:
        InputError: the term is empty, or no text has it.
    """
    everywhere = sum(text.count(term) for text in texts) if term else 0
    if not everywhere:
        raise InputError(
            f"finetune.terms: {term!r} stands in no training text, so that its row would only learn to stay away. "
            "Leave it out, or write it as the texts do."
        )
    behind_a_space = sum(text.count(f" {term}") for text in texts)
    return f" {term}" if 2 * behind_a_space >= everywhere else term


def read_languages(tokens: Tokens, languages: Mapping[str, str]) -> dict[str, int]:
    """New code -> the id of its relative's token.

    Raises:
        InputError: the Whisper is English-only, has the language already, or does not know the relative.
    """
    if languages and not tokens.is_multilingual:
        raise InputError("finetune.languages: this Whisper is English-only and takes no language token.")
    for code in languages:
        if code in tokens.languages or f"<|{code}|>" in tokens.tokenizer.get_vocab():
            raise InputError(
                f"finetune.languages: <|{code}|> is a token already. Train on it with data.language={code}, or choose "
                "another code."
            )
    return {code: tokens.languages[tokens.language_code(relative)] for code, relative in languages.items()}
