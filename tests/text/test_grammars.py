"""The grammars of the embedded adaptations: rich enough, well formed, and about something that nano has not heard."""

import random
import re
from collections import Counter

import pytest

from attune.errors import InputError
from attune.text.sentences import draw_sentences, load_everyday_grammar, load_grammar, split_words
from attune.text.tokenizer import train_tokenizer
from attune.text.tokens import Tokens

TERMS = ("specialty", "image", "lesion", "symptom", "anatomy", "procedure", "diagnosis", "drug")


def draw(name: str, count: int = 6_000) -> list[str]:
    grammar, rng = load_grammar(name), random.Random(1)
    return [grammar.draw(rng) for _ in range(count)]


@pytest.mark.parametrize(("name", "words"), [("russian", 300), ("russian_phrases", 72), ("clinical", 250)])
def test_many_words_are_really_drawn(name: str, words: int) -> None:
    counts = Counter(word for sentence in draw(name) for word in split_words(sentence))
    assert sum(count >= 5 for count in counts.values()) >= words
    assert counts.keys() <= load_grammar(name).vocabulary()


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("russian", r"[А-ЯЁ][А-Яа-яЁё]*(,? [А-Яа-яЁё]+)*[.?]"),
        ("russian_phrases", r"[А-ЯЁ][А-Яа-яЁё]*(,? [А-Яа-яЁё]+)*[.?]"),
        ("clinical", r"[A-Z][A-Za-z]*(,? [A-Za-z]+)*\."),
    ],
)
def test_every_sentence_is_printed_well(name: str, form: str) -> None:
    sentences = draw(name)
    assert [sentence for sentence in sentences if not re.fullmatch(form, sentence)] == []
    assert all(2 <= len(split_words(sentence)) <= 14 for sentence in sentences)


@pytest.mark.parametrize("name", ["russian", "russian_phrases", "clinical"])
def test_each_split_has_sentences_of_its_own(name: str) -> None:
    drawn = {split: set(draw_sentences(count, 0, split, name)) for split, count in (("train", 1_800), ("test", 160))}
    assert not drawn["train"] & drawn["test"]
    assert draw_sentences(80, 5, "test", name) == draw_sentences(160, 5, "test", name)[:80]


def test_the_phrase_book_is_small() -> None:
    words = load_grammar("russian_phrases").vocabulary()
    assert len(words) == 72 and len(set(draw("russian_phrases", 20_000))) > 2_500


def test_russian_verbs_and_adjectives_agree() -> None:
    text, grammar = "\n".join(draw("russian")), load_grammar("russian")

    def count(*symbols: str) -> int:
        """How often words of these lists follow one another."""
        lists = " ".join(f"({'|'.join(grammar.words(each))})" for each in symbols)
        return len(re.findall(rf"\b{lists}\b", text, re.IGNORECASE))

    for right, wrong in (("got_m", "got_f"), ("ate_m", "ate_f")):
        assert count("man", right) > 50 and count("man", wrong) == 0
        assert count("woman", wrong) > 50 and count("woman", right) == 0
    own = {"adj_m": "thing_m", "adj_f": "thing_f_nom", "adj_f_acc": "thing_f_acc", "adj_n": "thing_n"}
    for adjective, noun in own.items():
        assert count(adjective, noun) > 20, adjective
        assert not any(count(adjective, other) for other in own.values() if other != noun), adjective


def test_clinical_articles_agree() -> None:
    text = "\n".join(draw("clinical")).lower()
    assert re.findall(r"\ba [aeiou]\w*|\ban [^aeiou\s]\w*", text) == []
    assert re.search(r"\ban appendectomy\b", text) and re.search(r"\ba hysterectomy\b", text)


def test_the_general_text_holds_no_clinical_term() -> None:
    grammar = load_grammar("clinical")
    terms = {word for symbol in TERMS for word in grammar.words(symbol)}
    assert len(terms) >= 200
    assert not terms & load_everyday_grammar().vocabulary()
    sentences = draw("clinical", 2_000)
    assert sum(bool(terms & set(split_words(sentence))) for sentence in sentences) > 0.95 * len(sentences)


def test_a_tokenizer_of_english_spells_russian_in_bytes() -> None:
    tokens = Tokens(train_tokenizer(draw_sentences(2_000, 0, "train"), merges=100))
    ids = tokens.text("Мама купила хлеб.", "ru")
    assert len(ids) == 2 * len("Мамакупилахлеб") + 3 + 1  # three spaces and a full stop
    assert tokens.transcript(ids) == "Мама купила хлеб."


def test_an_unknown_grammar_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"no grammar 'greek'.*clinical, everyday, russian, russian_phrases"):
        load_grammar("greek")
