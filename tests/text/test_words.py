"""Words out of tokens: none is lost, and each stands with its punctuation."""

import pytest

from attune.model.whisper import Whisper
from attune.text.tokens import Tokens
from attune.text.words import split_words

TEXTS = [
    ("en", "Seven blue boats.", ["Seven", "blue", "boats."]),
    ("en", 'He said: "No, it\'s - well - mine!"', ["He", "said:", '"No,', "it's -", "well -", 'mine!"']),
    ("en", "naïve café 😀 end", ["naïve", "café 😀", "end"]),
    ("ru", "Привет, мир.", ["Привет,", "мир."]),
    ("ja", "世界へ。", ["世", "界", "へ。"]),
    ("en", "", []),
    ("en", "...", ["..."]),
]


@pytest.mark.parametrize(("language", "text", "words"), TEXTS)
def test_words(nano_tokens: Tokens, language: str, text: str, words: list[str]) -> None:
    ids = nano_tokens.text(text, language)
    found = split_words(nano_tokens, ids, language)
    assert [word for word, _ in found] == words
    assert sum(count for _, count in found) == len(ids) and all(count for _, count in found)


@pytest.mark.parametrize(("language", "text", "words"), TEXTS[:4])
def test_words_of_openais_tokens(real_tokenizer_whisper: Whisper, language: str, text: str, words: list[str]) -> None:
    tokens = real_tokenizer_whisper.tokens
    assert [word for word, _ in split_words(tokens, tokens.text(text, language), language)] == words


def test_half_a_character_is_kept(nano_tokens: Tokens) -> None:
    ids = nano_tokens.text("Мир", "ru")[:-1]  # nano spells it in bytes
    ((word, count),) = split_words(nano_tokens, ids, "ru")
    assert word.startswith("Ми") and count == len(ids)
