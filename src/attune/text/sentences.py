"""Sentences drawn from the grammars that attune ships, and the one rule that says to which split a sentence belongs."""

import hashlib
import random
import re
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple, get_args

import yaml

from attune.errors import InputError

Split = Literal["train", "validation", "test"]

START_SYMBOL = "sentence"
EVERYDAY = "everyday"
VALIDATION_PERCENT = 5
TEST_PERCENT = 5
# A list this short (digits, pronouns) may repeat a word within a sentence: "seven two seven".
LONGEST_LIST_THAT_REPEATS = 20
TRIES_PER_SENTENCE = 200
# The article follows the sound, which the first letter gives away except here.
SOUNDS_LIKE_CONSONANT = re.compile(r"(uni(?!n|m)|use|usual|uku|eu|one\b|once\b)", re.IGNORECASE)
SOUNDS_LIKE_VOWEL = re.compile(r"(hour|honest|honor|heir)", re.IGNORECASE)


class Part(NamedTuple):
    """A piece of a production: literal text, or a symbol to expand, perhaps after its article."""

    text: str
    is_symbol: bool
    takes_article: bool = False


class SentenceGrammar:
    """A context-free grammar: each symbol maps to its productions, which are drawn with equal chance.

    `{symbol}` in a production is expanded, `{a:symbol}` is expanded after "a" or "an". No word of a long list is drawn
    twice in one sentence. Raises InputError if a symbol is undefined, unreachable from `sentence`, or contains itself.
    """

    def __init__(self, rules: dict[str, list[str]]) -> None:
        self._literals = {symbol: [text for text in texts if "{" not in text] for symbol, texts in rules.items()}
        self._productions = {symbol: [_parse(text) for text in texts] for symbol, texts in rules.items()}
        self._check()

    def draw(self, rng: random.Random) -> str:
        """One sentence, capitalised; the same for the same state of `rng`."""
        sentence = self._expand(START_SYMBOL, rng, set())
        return sentence[0].upper() + sentence[1:]

    def words(self, symbol: str) -> list[str]:
        """The productions of `symbol` that are plain text, such as every name of an animal: a list of terms."""
        if symbol not in self._literals:
            raise InputError(f"the grammar has no symbol {symbol!r}; it has: {', '.join(sorted(self._literals))}")
        return list(self._literals[symbol])

    def vocabulary(self) -> set[str]:
        """Every word that a sentence may hold, lower-cased, without punctuation."""
        parts = [part for productions in self._productions.values() for parts in productions for part in parts]
        articles = {"a", "an"} if any(part.takes_article for part in parts) else set()
        return articles.union(*(split_words(part.text) for part in parts if not part.is_symbol))

    def _expand(self, symbol: str, rng: random.Random, used: set[str]) -> str:
        pieces = []
        for part in self._choose(symbol, rng, used):
            text = self._expand(part.text, rng, used) if part.is_symbol else part.text
            pieces.append(f"{_article(text)} {text}" if part.takes_article else text)
        return "".join(pieces)

    def _choose(self, symbol: str, rng: random.Random, used: set[str]) -> list[Part]:
        productions = self._productions[symbol]
        while True:
            parts = rng.choice(productions)
            if len(parts) > 1 or parts[0].is_symbol or len(productions) <= LONGEST_LIST_THAT_REPEATS:
                return parts
            if parts[0].text not in used:
                used.add(parts[0].text)
                return parts

    def _check(self) -> None:
        reached: set[str] = set()
        self._visit(START_SYMBOL, (), reached)
        unreachable = sorted(self._productions.keys() - reached)
        if unreachable:
            raise InputError(f"no sentence can reach these symbols of the grammar: {', '.join(unreachable)}")

    def _visit(self, symbol: str, path: tuple[str, ...], reached: set[str]) -> None:
        if symbol in path:
            raise InputError(f"the grammar never ends: {' -> '.join((*path, symbol))}")
        if not self._productions.get(symbol):
            raise InputError(f"the grammar does not define {symbol!r}, reached by {' -> '.join(path) or 'the start'}")
        if symbol in reached:
            return
        reached.add(symbol)
        for parts in self._productions[symbol]:
            for part in parts:
                if part.is_symbol:
                    self._visit(part.text, (*path, symbol), reached)


@cache
def load_grammar(name: str) -> SentenceGrammar:
    """A grammar that attune ships.

    Args:
        name: everyday (American English, more than 2,000 words), clinical (dictation), russian
            (everyday, some four hundred words) or russian_phrases (a phrase book of 72).

    Raises:
        InputError: there is no such grammar.
    """
    shipped = {path.name: path for path in files("attune").joinpath("assets").iterdir()}
    if f"{name}.yaml" not in shipped:
        names = sorted(each.removesuffix(".yaml") for each in shipped if each.endswith(".yaml"))
        raise InputError(f"there is no grammar {name!r}; accepted (a panel's `grammar`): {', '.join(names)}.")
    return SentenceGrammar(yaml.safe_load(shipped[f"{name}.yaml"].read_text(encoding="utf-8")))


def load_everyday_grammar() -> SentenceGrammar:
    return load_grammar(EVERYDAY)


def split_words(sentence: str) -> list[str]:
    """The lower-cased words of a sentence; an apostrophe inside a word belongs to it: "I can't." -> ["i", "can't"]."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", sentence.lower())


def sentence_split(sentence: str) -> Split:
    """The split to which a sentence belongs, whichever corpus draws it: 90 % train, 5 % validation, 5 % test.

    Only the words count, neither case nor punctuation; sha256 because `hash()` changes from one process to the next.
    """
    digest = hashlib.sha256(" ".join(split_words(sentence)).encode()).digest()
    percent = int.from_bytes(digest[:8], "big") % 100
    if percent < TEST_PERCENT:
        return "test"
    return "validation" if percent < TEST_PERCENT + VALIDATION_PERCENT else "train"


def draw_sentences(count: int, seed: int, split: str, grammar: str = EVERYDAY) -> list[str]:
    """`count` distinct sentences of `split`; a longer draw with the same seed begins with the shorter one."""
    if split not in get_args(Split):
        raise InputError(f"split={split!r} is not a split; accepted: {', '.join(get_args(Split))}")
    rng, source = random.Random(seed), load_grammar(grammar)
    sentences: dict[str, str] = {}
    for _ in range(count * TRIES_PER_SENTENCE):
        if len(sentences) == count:
            break
        sentence = source.draw(rng)
        if sentence_split(sentence) == split:
            sentences.setdefault(" ".join(split_words(sentence)), sentence)
    if len(sentences) < count:
        raise InputError(
            f"the grammar {grammar} gave {len(sentences)} distinct {split} sentences of {count}; ask for fewer"
        )
    return list(sentences.values())


def _parse(production: str) -> list[Part]:
    """ "the {a:b}" -> [Part("the "), Part("b", is_symbol, takes_article)]."""
    pieces = re.split(r"(\{[^{}]*\})", production)
    return [_part(piece) for piece in pieces if piece]


def _part(piece: str) -> Part:
    if not piece.startswith("{"):
        return Part(piece, is_symbol=False)
    symbol = piece[1:-1]
    return Part(symbol.removeprefix("a:"), is_symbol=True, takes_article=symbol.startswith("a:"))


def _article(phrase: str) -> str:
    if SOUNDS_LIKE_CONSONANT.match(phrase):
        return "a"
    return "an" if phrase[0].lower() in "aeiou" or SOUNDS_LIKE_VOWEL.match(phrase) else "a"
