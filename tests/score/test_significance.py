"""Tests between systems: by hand, by NIST's definition, and by what they do where there is nothing to find."""

import math

import numpy as np
import pytest
from scipy import stats

from attune.score.significance import detectable_difference, find_segments, holm, matched_pairs, weigh
from attune.score.statistics import bootstrap_interval, standard_error

# The worked example of Pallett, Fisher and Fiscus (ICASSP 1990), also in Jurafsky and Martin, "Speech and Language
# Processing": four segments, in which the systems differ by 2, -1, -1 and 1 errors.
REFERENCE = "it was the best of times it was the worst of times it was"
SYSTEM_A = "its the best of times it is the worst of times or it was"
SYSTEM_B = "it was the best times it won the test of times it was"


def test_the_segments_of_the_example_in_the_literature() -> None:
    assert list(find_segments(REFERENCE, SYSTEM_A, SYSTEM_B)) == [(2, 0), (0, 1), (1, 2), (1, 0)]
    result = matched_pairs([REFERENCE], [SYSTEM_A], [SYSTEM_B])
    # Mean 1/4, variance (1.75^2 + 2 * 1.25^2 + .75^2) / 3 = 2.25, z = .25 / (1.5 / sqrt(4)).
    assert (result.segments, result.mean) == (4, 0.25)
    assert result.z == pytest.approx(1 / 3)
    assert result.p == pytest.approx(2 * stats.norm.sf(1 / 3))


def test_two_correct_words_of_both_systems_part_two_segments() -> None:
    assert list(find_segments("a b c d", "x b c y", "a b c d")) == [(1, 0), (1, 0)]
    assert list(find_segments("a b c d", "x b c y", "a z c d")) == [(2, 1)]  # the other one has b wrong
    assert list(find_segments("a b d", "x b y", "a b d")) == [(2, 0)]  # one word does not part
    assert list(find_segments("a b c d", "x b w c y", "a b c d")) == [(3, 0)]  # nor do two with something between
    assert list(find_segments("a b", "a b", "a b")) == []
    assert list(find_segments("", "x y", "")) == [(2, 0)]
    assert list(find_segments("a", "", "b c")) == [(1, 2)]


def test_what_has_no_z_has_none() -> None:
    same = matched_pairs(["a b"], ["a x"], ["a x"])
    assert (same.segments, same.z, same.p) == (1, 0.0, 1.0)
    always = matched_pairs(["a b", "c d"], ["a x", "c x"], ["a b", "c d"])
    assert always.mean == 1 and math.isnan(always.z) and math.isnan(always.p)
    assert matched_pairs([], [], []).p == 1.0


def test_matched_pairs_of_equal_systems_are_seldom_called_different() -> None:
    rng = np.random.default_rng(0)
    words = " ".join(f"w{index}" for index in range(12))

    def mishear() -> list[str]:
        wrong = rng.random((60, 12)) < 0.2
        return [" ".join("x" if bad else word for bad, word in zip(row, words.split(), strict=True)) for row in wrong]

    found = [matched_pairs([words] * 60, mishear(), mishear()).p for _ in range(200)]
    assert sum(p < 0.05 for p in found) / 200 < 0.12  # 5 % of 200 with a deviation of 1.5 %
    assert 0.35 < np.median(found) < 0.65


def test_the_noise_of_seeds_is_added_to_that_of_the_test_set() -> None:
    effect = weigh(-0.1, 0.01, 101, [0.19, 0.21], [0.1])
    assert effect.seed_se == pytest.approx(0.01)  # sqrt(.0002 / 2)
    freedom = 0.0002**2 / (0.0001**2 / 1 + 0.0001**2 / 100)
    assert effect.p == pytest.approx(2 * stats.t.sf(0.1 / 0.0002**0.5, freedom))
    reach = stats.t.ppf(0.975, freedom) * 0.0002**0.5
    assert (effect.low, effect.high) == pytest.approx((-0.1 - reach, -0.1 + reach))
    alone = weigh(-0.1, 0.01, 101, [0.2], [0.1])
    assert alone.seed_se is None and alone.p < effect.p
    assert alone.p == pytest.approx(2 * stats.t.sf(10, 100))


def test_an_effect_without_noise() -> None:
    assert weigh(0.0, 0.0, 20, [0.2], [0.2]).p == 1.0
    assert math.isnan(weigh(0.1, 0.0, 20, [0.2], [0.3]).p)
    assert math.isnan(weigh(0.1, math.nan, 1, [0.2], [0.3]).p)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9, math.nan]) == [1.0, None, 1.0, None]
    assert holm([]) == []


def test_the_detectable_difference_has_the_power_that_it_promises() -> None:
    difference = detectable_difference(0.01, 101)
    assert difference == pytest.approx(0.01 * (1.98397 + 0.84523), rel=1e-4)
    # Of draws around it, with an error of .01, four of five are significant.
    found = np.random.default_rng(1).normal(difference, 0.01, 20_000)
    assert (np.abs(found) > 1.98397 * 0.01).mean() == pytest.approx(0.8, abs=0.015)
    assert math.isnan(detectable_difference(0.01, 1))


def simulate(
    rng: np.random.Generator, speakers: int, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """(words, errors of one system, errors of another as good, speaker) of each utterance; both rates are .2.

    A speaker's rate is Beta(2, 8) for both systems, and each system has moods of its own about a speaker.
    """
    of = np.repeat(np.arange(speakers), rng.integers(5, 20, size=speakers))
    words = rng.integers(3, 15, size=len(of))
    rates = rng.beta(2, 8, speakers)
    moods = [rates * (1 + rng.uniform(-spread, spread, speakers)) for _ in range(2)]
    errors = [rng.binomial(words, np.clip(mood[of], 0, 1)) for mood in moods]
    return words, errors[0], errors[1], [f"speaker {index}" for index in of]


def cover(sets: int, draws: int) -> tuple[float, float]:
    """The share of test sets whose 95 % interval holds the truth: over speakers, and over utterances."""
    rng = np.random.default_rng(2)
    held = np.zeros(2)
    for _ in range(sets):
        words, errors, _, speakers = simulate(rng, 60, spread=0.0)
        for kind, units in enumerate((speakers, None)):
            low, high = bootstrap_interval(errors, words, units, draws)
            held[kind] += low <= 0.2 <= high
    return float(held[0] / sets), float(held[1] / sets)


def test_intervals_over_speakers_hold_the_truth_and_those_over_utterances_do_not() -> None:
    by_speaker, by_utterance = cover(sets=120, draws=600)
    assert by_speaker > 0.87  # 95 % of 120 sets, less four deviations of 2 %
    assert by_utterance < 0.75  # the utterances of a speaker are six times less independent than they are many


@pytest.mark.slow
def test_coverage_of_a_thousand_test_sets() -> None:
    by_speaker, by_utterance = cover(sets=1000, draws=2000)
    assert 0.93 <= by_speaker <= 0.97
    assert by_utterance < 0.7


def test_p_values_are_uniform_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(600):
        words, one, other, speakers = simulate(rng, 40, spread=0.3)
        error, units = standard_error(other - one, words, speakers)
        rates = [float(errors.sum() / words.sum()) for errors in (one, other)]
        found.append(weigh(rates[1] - rates[0], error, units, rates[:1], rates[1:]).p)
    assert stats.kstest(found, "uniform").pvalue > 0.001
    assert 0.02 < sum(p < 0.05 for p in found) / 600 < 0.09
