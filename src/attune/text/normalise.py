"""What WER is computed on: the words that were spoken, without the way in which they were written down."""

import unicodedata

import regex

NORMALISER = "attune 1"  # in every record; the number goes up when `normalise` gives other words for some text
UNSPACED_LANGUAGES = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km"})  # Whisper's codes; CER is their headline

# Every way to type an apostrophe, unified before NFKC, which would make a space and a mark of the acute accent.
APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼʻ´`＇", "'"))
INVISIBLE = regex.compile(r"[\p{Cf}\p{Variation_Selector}]")  # joiners, soft hyphens, direction marks, glyph variants
NOT_SPOKEN = regex.compile(r"[^\P{P}']|\p{S}")  # punctuation other than the apostrophe; symbols
WORD_EDGE = regex.compile(r"(?<!\S)['\p{M}]+|'+(?!\S)")  # a quotation mark; a mark that has lost its letter


def normalise(text: str) -> str:
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

    Returns:
        Words joined by single spaces; "" where there are none. `normalise(normalise(text)) == normalise(text)`.
    """
    text = INVISIBLE.sub("", text.translate(APOSTROPHES))
    text = unicodedata.normalize("NFKC", text)
    text = unicodedata.normalize("NFKC", text.casefold())
    text = text.replace("i\u0307", "i")  # what folding makes of the Turkish İ, and nobody types
    return " ".join(WORD_EDGE.sub("", NOT_SPOKEN.sub(" ", text)).split())


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
