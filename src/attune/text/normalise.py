"""What WER is computed on: the words that were spoken, without the way in which they were written down."""

import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

import regex
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

NORMALISER = "attune 2"  # in every record; the number goes up when `normalise` gives other words for some text
UNSPACED_LANGUAGES = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km"})  # Whisper's codes; CER is their headline

# Every way to type an apostrophe, unified before NFKC, which would make a space and a mark of the acute accent.
APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼʻ´`＇", "'"))
INVISIBLE = regex.compile(r"[\p{Cf}\p{Variation_Selector}]")  # joiners, soft hyphens, direction marks, glyph variants
NOT_SPOKEN = regex.compile(r"[^\P{P}']|\p{S}")  # punctuation other than the apostrophe; symbols
WORD_EDGE = regex.compile(r"(?<!\S)['\p{M}]+|'+(?!\S)")  # a quotation mark; a mark that has lost its letter


def normalise(text: str, language: str | None = None) -> str:
    """Reduce a transcript to its spoken words, in any language.

    1. Apostrophes are unified; characters that cannot be seen (Cf, variation selectors) are dropped.
    2. Compatibility forms and case are folded: NFKC(casefold(NFKC(text))), Unicode's caseless matching.
    3. Punctuation and symbols (P*, S*) become spaces, except an apostrophe inside a word: "don't", "l'été".
    4. Runs of white space become one space.

    Marks (M*) are kept. Whisper's BasicTextNormalizer makes them spaces: "हिन्दी में" -> "ह न द म", so that words which
    differ in a vowel compare as equal, and what is counted are no longer words (openai/whisper#2849).

    Numbers are left as they were written. Whisper's English normaliser joins number words ("zero six two" -> "062"), so
    that one misheard digit costs a whole number, the count of reference words depends on it, and there is nothing like
    it for any other language. A corpus that writes "62" where the model writes "sixty two" shows as errors in the
    prediction table, where it can be seen and mended. For the same reason words in brackets are kept.

    Args:
        text: a transcript as written; any Unicode string.
        language: Whisper's code. Where words are not separated by spaces each character becomes a word, so that what is
            counted as WER, with its interval and its tests, is CER, as in the Whisper paper.

    Returns:
        Words joined by single spaces; "" where there are none. `normalise(normalise(text)) == normalise(text)`.
    """
    text = INVISIBLE.sub("", text.translate(APOSTROPHES))
    text = unicodedata.normalize("NFKC", text)
    text = unicodedata.normalize("NFKC", text.casefold())
    text = text.replace("i\u0307", "i")  # what folding makes of the Turkish İ, and nobody types
    words = WORD_EDGE.sub("", NOT_SPOKEN.sub(" ", text)).split()
    return " ".join("".join(words) if spells_without_spaces(language) else words)


def normalise_as_whisper(text: str, language: str | None, spellings: Mapping[str, str] | None = None) -> str:
    """What Whisper's authors count words of: their English normaliser for en, their basic one for all others.

    Published results are of it, so that WER is told by it too. It is no headline here: it drops the vowel signs of
    scripts that have them, and joins English number words.

    Args:
        spellings: British -> American, as published Whispers have them (`tokenizer.english_spelling_normalizer`); those
            without leave the spelling as it is.
    """
    if find_whisper_normaliser(language) == "English":
        return _make_english(tuple(sorted((spellings or {}).items())))(text).strip()
    return _make_basic(spells_without_spaces(language))(text).strip()


def find_whisper_normaliser(language: str | None) -> str:
    """The name of the normaliser that Whisper's authors use for a language: English or basic."""
    return (
        "English" if language is not None and regex.split("[-_]", language.lower())[0] in ("en", "english") else "basic"
    )


def describe_normalisers(languages: Iterable[str | None]) -> str:
    """One sentence: what WER is counted on in these languages."""
    codes = sorted({language for language in languages if language})
    unspaced = [code for code in codes if spells_without_spaces(code)]
    theirs = sorted({find_whisper_normaliser(code) for code in codes}) or ["basic"]
    told = f"WER of {', '.join(codes) or 'unknown languages'}: {NORMALISER}, which keeps combining marks"
    if unspaced:
        told += f"; of {', '.join(unspaced)} each character is a word, so that WER is CER"
    return f"{told}; beside it raw, and by Whisper's {' and '.join(theirs)} normaliser{'s' * (len(theirs) > 1)}"


@lru_cache(maxsize=4)
def _make_english(spellings: tuple[tuple[str, str], ...]) -> EnglishTextNormalizer:
    return EnglishTextNormalizer(dict(spellings))


@lru_cache(maxsize=2)
def _make_basic(split_letters: bool) -> BasicTextNormalizer:
    return BasicTextNormalizer(split_letters=split_letters)


@lru_cache(maxsize=1000)
def spells_without_spaces(language: str | None) -> bool:
    """Whether a language is written without spaces between words, so that CER and not WER is its headline.

    Args:
        language: Whisper's code, with or without a region ("zh", "zh-TW"); None where it is unknown.
    """
    return language is not None and regex.split("[-_]", language.lower())[0] in UNSPACED_LANGUAGES


def characters(text: str, language: str | None = None) -> str:
    """What CER compares: the text itself, less its spaces where the language spells without them.

    There a space stands where punctuation was, and "你好，世界" against "你好世界" has no wrong character.
    """
    return "".join(text.split()) if spells_without_spaces(language) else text
