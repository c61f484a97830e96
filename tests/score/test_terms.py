"""Terms counted by hand."""

import pytest

from attune.score.metrics import Prediction
from attune.score.panel import score_panel
from attune.score.terms import score_terms
from attune.text.finder import TermFinder
from attune.text.vocabulary import Term

FINDER = TermFinder([Term("warfarin"), Term("atrial flutter"), Term("femur")])


def predict(id: str, reference: str, hypothesis: str, language: str = "en") -> Prediction:
    return Prediction(id, reference, hypothesis, None, language, 2.0)


PREDICTIONS = [
    predict("a", "She takes Warfarin daily.", "she takes warfarin"),  # a hit; one other word deleted
    predict("b", "Atrial flutter was seen.", "a trial flatter was seen"),  # missed: two words of it wrong, one inserted
    predict("c", "The bone is long.", "The femur is long."),  # written, not said
    predict("d", "Femur, femur.", "femur"),  # one of two
]


def test_recall_precision_and_false_insertions() -> None:
    score = score_terms(PREDICTIONS, FINDER, {"warfarin": 12, "femur": 3})
    assert (score.said, score.written, score.hits, score.false_insertions) == (4, 3, 2, 1)
    assert (score.recall, score.precision) == (0.5, pytest.approx(2 / 3))
    assert score.f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert score.missed == {"b": ["atrial flutter"], "d": ["femur"]}
    low, high = score.recall_ci95 or (1, 0)
    assert 0 <= low <= 0.5 <= high <= 1


def test_by_frequency() -> None:
    groups = score_terms(PREDICTIONS, FINDER, {"warfarin": 12, "femur": 3}).by_frequency
    assert groups["common"] == {"said": 1, "recall": 1.0}
    assert groups["rare"] == {"said": 2, "recall": 0.5}
    assert groups["unseen"] == {"said": 1, "recall": 0.0}


def test_biased_and_unbiased_errors_are_all_errors() -> None:
    panel = score_panel(PREDICTIONS, seconds=1.0, finder=FINDER, frequency={})
    terms = panel.terms
    assert terms is not None
    assert (terms.biased_words, terms.unbiased_words) == (5, 9)
    errors = (terms.biased_wer or 0) * 5 + (terms.unbiased_wer or 0) * 9
    assert errors == pytest.approx(panel.wer * panel.words)
    # a: 0 and 1; b: 2 and 1 (the inserted word is in no term); c: "bone" is no term: 0 and 1; d: 1 and 0
    assert ((terms.biased_wer or 0) * 5, (terms.unbiased_wer or 0) * 9) == (pytest.approx(3), pytest.approx(3))


def test_an_insertion_belongs_to_the_term_that_was_written() -> None:
    score = score_terms([predict("a", "it is long", "it is femur long")], FINDER, {})
    assert score.biased_wer is None and score.unbiased_wer == 0 and score.false_insertions == 1


def test_characters_where_there_are_no_words() -> None:
    finder = TermFinder([Term("北京")])
    score = score_terms([predict("a", "我在北京。", "我在背景", "zh")], finder, {})
    assert (score.recall, score.biased_wer, score.unbiased_wer) == (0.0, 1.0, 0.0)


def test_without_terms_there_is_no_rate() -> None:
    score = score_terms([predict("a", "it is long", "it is long")], FINDER, {})
    assert (score.recall, score.precision, score.f1, score.recall_ci95) == (None, None, None, None)
    assert score_panel(PREDICTIONS, seconds=1.0).terms is None
