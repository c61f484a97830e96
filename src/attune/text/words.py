"""Ids -> words: which tokens spell which word."""

import unicodedata
from collections.abc import Sequence

from attune.text.normalise import spells_without_spaces
from attune.text.tokens import Tokens

HALF = "\ufffd"  # what a tokenizer makes of bytes that are not yet, or no longer, a character


def split_words(tokens: Tokens, ids: Sequence[int], language: str | None) -> list[tuple[str, int]]:
    """Words as they are written, with their punctuation, and how many of the ids spell each; the ids are all spent.

    In languages that are written without spaces every character that has tokens of its own is a word.

    Args:
        ids: of text alone, without times and other special tokens.
    """
    every = spells_without_spaces(language)
    words: list[tuple[str, int]] = []
    for text, count in _join_bytes(tokens, ids):
        _add(words, text, count, is_new=every or text[:1].isspace())
    spoken: list[tuple[str, int]] = []
    for text, count in words:  # punctuation that stands alone goes with the word before it, or with the first
        _add(spoken, text, count, is_new=bool(spoken) and _is_spoken(text) and _is_spoken(spoken[-1][0]))
    return [(text.strip(), count) for text, count in spoken]


def _add(words: list[tuple[str, int]], text: str, count: int, is_new: bool) -> None:
    if words and not is_new:
        before, more = words.pop()
        text, count = before + text, more + count
    words.append((text, count))


def _join_bytes(tokens: Tokens, ids: Sequence[int]) -> list[tuple[str, int]]:
    """The shortest runs of ids that are whole characters."""
    parts: list[tuple[str, int]] = []
    first = 0
    for end in range(1, len(ids) + 1):
        text = tokens.tokenizer.decode(list(ids[first:end]), clean_up_tokenization_spaces=False)
        if HALF not in text or end == len(ids):
            parts.append((str(text), end - first))
            first = end
    return parts


def _is_spoken(text: str) -> bool:
    """Whether there is more in it than spaces, punctuation and symbols."""
    return any(unicodedata.category(letter)[0] in "LMN" for letter in text)
