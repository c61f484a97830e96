"""Fleiss' kappa against worked examples."""

import math

import pytest

from attune.score.agreement import compute_agreement

# Fourteen raters, ten items, five categories: the worked example of Wikipedia's article "Fleiss' kappa".
COUNTS = [
    (0, 0, 0, 0, 14),
    (0, 2, 6, 4, 2),
    (0, 0, 3, 5, 6),
    (0, 3, 9, 2, 0),
    (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0),
    (2, 5, 3, 2, 2),
    (6, 5, 2, 1, 0),
    (0, 2, 2, 3, 7),
]


def spell(counts: tuple[int, ...]) -> list[int]:
    return [category for category, count in enumerate(counts) for _ in range(count)]


def test_a_worked_example() -> None:
    found = compute_agreement(list(map(spell, COUNTS)))
    assert found is not None and (found.items, found.raters) == (10, 14)
    assert found.observed == pytest.approx(0.378, abs=5e-4)
    assert found.expected == pytest.approx(0.213, abs=5e-4)
    assert found.kappa == pytest.approx(0.210, abs=5e-4)


def test_two_raters_are_scotts_pi() -> None:
    """Two of four agree: P = 1/2. Of eight answers four are a, three b, one c: P_e = (16 + 9 + 1) / 64."""
    found = compute_agreement(["aa", "bb", "ab", "ac", "b"])  # the last one was rated once, and is left out
    assert found is not None and found.items == 4
    assert found.kappa == pytest.approx((1 / 2 - 26 / 64) / (1 - 26 / 64))


def test_items_may_have_different_numbers_of_raters() -> None:
    """P = (1 + 1/3) / 2; p = (3/5, 2/5)."""
    found = compute_agreement(["aa", "abb"])
    assert found is not None and found.raters == 3
    assert found.observed == pytest.approx(2 / 3) and found.expected == pytest.approx(13 / 25)


def test_what_says_nothing() -> None:
    assert compute_agreement(["a", ""]) is None
    same = compute_agreement(["aa", "aaa"])
    assert same is not None and same.observed == 1 and math.isnan(same.kappa)
