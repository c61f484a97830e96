"""The grammar of everyday English: rich, well formed, and never one sentence in two splits."""

import random
import re
from collections import Counter
from statistics import mean

import pytest

from attune.errors import InputError
from attune.text.sentences import SentenceGrammar, draw_sentences, load_everyday_grammar, sentence_split, split_words

# A change here would move test sentences into the training data of models that are already shipped.
PINNED_SPLITS = {
    "I think I twisted my leg.": "train",
    "It was an obvious choice.": "validation",
    "She imitated Angela.": "test",
}


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    grammar, rng = load_everyday_grammar(), random.Random(1)
    return [grammar.draw(rng) for _ in range(60_000)]


@pytest.fixture(scope="module")
def counts(sentences: list[str]) -> Counter[str]:
    return Counter(word for sentence in sentences for word in split_words(sentence))


def test_many_words_are_really_drawn(counts: Counter[str]) -> None:
    assert len(counts) >= 3_200
    assert sum(count >= 20 for count in counts.values()) >= 2_200
    assert sum(count < 5 for count in counts.values()) <= 0.03 * len(counts)
    assert counts.keys() <= load_everyday_grammar().vocabulary()


def test_no_word_but_the_articles_dominates(counts: Counter[str]) -> None:
    shares = {word: count / counts.total() for word, count in counts.items()}
    assert all(share < 0.03 for word, share in shares.items() if word != "the")
    assert sum(share for word, share in shares.items() if "'" in word) < 0.02


def test_lengths(sentences: list[str]) -> None:
    lengths = [len(split_words(sentence)) for sentence in sentences]
    assert min(lengths) >= 3
    assert max(lengths) <= 13
    assert 6 < mean(lengths) < 8


def test_every_sentence_is_printed_well(sentences: list[str]) -> None:
    well_formed = re.compile(r"[A-Z][A-Za-z']*(,? [A-Za-z']+)*[.?]")
    assert [sentence for sentence in sentences if not well_formed.fullmatch(sentence)] == []


def test_articles_agree(sentences: list[str]) -> None:
    text = "\n".join(sentences).lower()
    wrong = re.findall(r"\ba (?:[aeio]|u(?!ni(?!n|m)|se|ku))\w*|\ban (?:[^aeioush\s]|h(?!o(?:nest|ur|nor)))\w*", text)
    assert wrong == []
    assert re.search(r"\ba uniform\b", text)
    assert re.search(r"\ban honest\b", text)


def test_verbs_agree(sentences: list[str]) -> None:
    wrong = re.compile(
        r"\b(i (is|are|were|has)|you (is|was|has)|(we|they) (is|was|has)|(he|she) (are|were|have))\b", re.I
    )
    assert [sentence for sentence in sentences if wrong.search(sentence)] == []


def test_the_same_seed_gives_the_same_sentences() -> None:
    assert draw_sentences(200, seed=7, split="train") == draw_sentences(200, seed=7, split="train")
    assert draw_sentences(200, seed=7, split="train") != draw_sentences(200, seed=8, split="train")
    assert draw_sentences(300, seed=7, split="train")[:200] == draw_sentences(200, seed=7, split="train")


def test_splits_are_disjoint_and_stable(sentences: list[str]) -> None:
    shares = Counter(sentence_split(sentence) for sentence in set(sentences))
    assert shares["train"] / shares.total() == pytest.approx(0.90, abs=0.01)
    assert shares["test"] / shares.total() == pytest.approx(0.05, abs=0.01)
    assert shares["validation"] / shares.total() == pytest.approx(0.05, abs=0.01)
    drawn = {split: {" ".join(split_words(s)) for s in draw_sentences(2_000, 3, split)} for split in shares}
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]
    assert {len(distinct) for distinct in drawn.values()} == {2_000}


def test_a_split_ignores_case_and_punctuation_and_never_changes() -> None:
    assert sentence_split("Well, I can't.") == sentence_split("well i can't")
    assert {sentence: sentence_split(sentence) for sentence in PINNED_SPLITS} == PINNED_SPLITS


def test_words_of_a_symbol() -> None:
    assert {"panda", "camel"} <= set(load_everyday_grammar().words("animal"))
    with pytest.raises(InputError, match="no symbol 'anmal'"):
        load_everyday_grammar().words("anmal")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"sentence": ["{a} runs."]}, "does not define 'a'"),
        ({"sentence": ["Run."], "lost": ["x"]}, "these symbols of the grammar: lost"),
        ({"sentence": ["{x}."], "x": ["{y}"], "y": ["z {x}"]}, "sentence -> x -> y -> x"),
        ({"sentence": []}, "does not define 'sentence'"),
        ({}, "does not define 'sentence'"),
    ],
)
def test_a_bad_grammar_is_named(rules: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SentenceGrammar(rules)


def test_a_grammar_too_small_for_the_count_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SentenceGrammar({"sentence": ["{name} ran.", "{name} slept."], "name": ["Anna", "Tom"]})
    monkeypatch.setattr("attune.text.sentences.load_grammar", lambda _: small)
    with pytest.raises(InputError, match="ask for fewer"):
        draw_sentences(50, seed=1, split="train")


def test_an_unknown_split_lists_the_splits() -> None:
    with pytest.raises(InputError, match="train, validation, test"):
        draw_sentences(1, seed=1, split="dev")
