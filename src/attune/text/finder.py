"""Where terms stand in a text, whatever their case and their punctuation, and which terms a text almost holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from attune.text.normalise import characters, normalise, spells_without_spaces
from attune.text.vocabulary import Term

ALIKE = 60.0  # of 100: a first guess at a term shares at least so much of its letters
WORDS_AS_ONE = 3  # so many written words may be one term misheard: "met four men"


@dataclass(frozen=True)
class Found:
    """A term in a text, from unit `start` to before `end`."""

    start: int
    end: int
    spelling: str


def split_units(text: str, language: str | None) -> list[str]:
    """What is counted: the normalised words, or the characters where a language is written without spaces."""
    text = normalise(text)
    return list(characters(text, language)) if spells_without_spaces(language) else text.split()


class TermFinder:
    """Finds the terms of a list in texts.

    Args:
        terms: a list without duplicates.
    """

    def __init__(self, terms: Sequence[Term]):
        self.terms = terms
        self.sounds = [_list_letters(term) for term in terms]
        self.of_words = _index(terms, None)
        self.of_characters = _index(terms, "zh")  # any language without spaces
        self.most_words, self.most_characters = (max(map(len, known)) for known in (self.of_words, self.of_characters))

    def find(self, text: str, language: str | None) -> list[Found]:
        """The terms in a text from left to right, the longest at each place, without overlap."""
        units = split_units(text, language)
        has_words = not spells_without_spaces(language)
        known, longest = (self.of_words, self.most_words) if has_words else (self.of_characters, self.most_characters)
        found: list[Found] = []
        start = 0
        while start < len(units):
            lengths = range(min(longest, len(units) - start), 0, -1)
            length = next((n for n in lengths if tuple(units[start : start + n]) in known), 0)
            if length:
                found.append(Found(start, start + length, known[tuple(units[start : start + length])]))
            start += length or 1
        return found

    def find_alike(self, text: str, language: str | None) -> list[str]:
        """The terms that a text holds or nearly holds, by their letters, the likeliest first.

        What is compared are all runs of up to three words (of a term's length in characters, where there are no
        spaces) with how a term is spelt and with the words that it sounds like.
        """
        units = split_units(text, language)
        longest = self.most_characters if spells_without_spaces(language) else WORDS_AS_ONE
        runs = ["".join(units[i : i + n]) for n in range(1, longest + 1) for i in range(len(units) - n + 1)]
        if not runs:
            return []
        owners = [index for index, sounds in enumerate(self.sounds) for _ in sounds]
        letters = [sound for sounds in self.sounds for sound in sounds]
        closest = process.cdist(letters, list(dict.fromkeys(runs)), scorer=fuzz.ratio, score_cutoff=ALIKE).max(axis=1)
        scores: dict[int, float] = {}
        for owner, score in zip(owners, closest.tolist(), strict=True):
            scores[owner] = max(scores.get(owner, 0.0), score)
        alike = sorted((index for index, score in scores.items() if score >= ALIKE), key=lambda i: (-scores[i], i))
        return [self.terms[index].spelling for index in alike]


def _index(terms: Iterable[Term], language: str | None) -> dict[tuple[str, ...], str]:
    return {tuple(split_units(term.spelling, language)): term.spelling for term in terms}


def _list_letters(term: Term) -> list[str]:
    """A term's letters, and those of the words that it sounds like; phonemes are no letters."""
    alike = [text for text in term.pronunciations if not text.startswith(("/", "[")) and not text.isupper()]
    return list(dict.fromkeys(normalise(text).replace(" ", "") for text in (term.spelling, *alike)))
