import time

import numpy as np
import pytest

from attune.score.statistics import bootstrap_interval, choose_units, paired_difference, standard_error


def test_the_interval_of_a_coin_is_the_binomial_one() -> None:
    # 100 one-word utterances, 20 wrong: a resample is Binomial(100, .2) / 100, with 2.5 and 97.5 % points .12 and .28.
    errors, words = np.array([1] * 20 + [0] * 80), np.ones(100, dtype=int)
    assert bootstrap_interval(errors, words) == (0.12, 0.28)


def test_the_interval_of_a_ratio_weighs_words() -> None:
    # Two units, (3 of 10) and (0 of 2): a resample is both of one or one of each: 3/10, 0 or 3/12.
    assert bootstrap_interval([3, 0], [10, 2]) == (0.0, 0.3)
    assert bootstrap_interval([3, 0], [10, 2], level=0.1) == (0.25, 0.25)


def test_it_agrees_with_drawing_indices() -> None:
    # The grouped multinomial against the bootstrap as textbooks write it.
    rng = np.random.default_rng(1)
    words = rng.integers(1, 20, size=200)
    errors = rng.binomial(words, 0.2)
    drawn = rng.integers(0, 200, size=(20_000, 200))
    expected = np.quantile(errors[drawn].sum(axis=1) / words[drawn].sum(axis=1), [0.025, 0.975])
    low, high = bootstrap_interval(errors, words, draws=20_000)
    assert (low, high) == pytest.approx(expected, abs=1.5e-3)
    assert low < errors.sum() / words.sum() < high


def test_chunks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    words = rng.integers(1, 20, size=50)
    errors = rng.binomial(words, 0.3)
    whole = bootstrap_interval(errors, words, draws=999)
    monkeypatch.setattr("attune.score.statistics.CHUNK_CELLS", 1000)
    assert bootstrap_interval(errors, words, draws=999) == whole


def test_identical_utterances_have_no_width() -> None:
    assert bootstrap_interval([1] * 30, [4] * 30) == (0.25, 0.25)


def test_one_unit_shows_no_spread() -> None:
    assert np.isnan(bootstrap_interval([1], [4])).all()
    assert np.isnan(bootstrap_interval([1, 2], [4, 4], ["ann", "ann"])).all()


def test_speakers_who_differ_widen_the_interval() -> None:
    # Ten speakers of 20 ten-word utterances; five read at .1 and five at .3. Over 10 speakers the rate has a standard
    # error of .1 / sqrt(10) = .032, over 200 utterances one of .1 / sqrt(200) = .007: a factor of sqrt(20) = 4.47. Ten
    # units reach 2.38 of them to either side (Student's t, times sqrt(10 / 9)), 200 reach 1.98.
    units = [f"speaker {index // 20}" for index in range(200)]
    errors, words = [1 if index < 100 else 3 for index in range(200)], [10] * 200
    by_speaker, by_utterance = bootstrap_interval(errors, words, units), bootstrap_interval(errors, words)
    width, narrow = by_speaker[1] - by_speaker[0], by_utterance[1] - by_utterance[0]
    assert width / narrow == pytest.approx(20**0.5 * 2.38 / 1.98, rel=0.3)  # ten speakers: steps of a tenth
    assert by_speaker[0] < 0.2 < by_speaker[1]


def test_the_seed_decides_and_order_does_not() -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(1, 20, size=60)
    errors = rng.binomial(words, 0.2)
    shuffle = rng.permutation(60)
    interval = bootstrap_interval(errors, words, draws=500)
    assert interval == bootstrap_interval(errors[shuffle], words[shuffle], draws=500)
    assert interval != bootstrap_interval(errors, words, draws=500, seed=1)


def test_units_are_speakers_from_ten_on_if_all_are_known() -> None:
    ten = [str(index) for index in range(10)]
    assert choose_units(ten * 2) == (ten * 2, "speaker")
    assert choose_units(ten[:9] * 3) == (None, "utterance")
    assert choose_units([*ten, None]) == (None, "utterance")
    assert choose_units([*ten, ""]) == (None, "utterance")
    assert choose_units([]) == (None, "utterance")
    assert choose_units([None] * 10, ten) == (ten, "recording")
    assert choose_units(ten[:2] * 5, [None] * 10) == (None, "utterance")


def test_the_standard_error_of_a_ratio_by_hand() -> None:
    # Rate 3 / 12; residuals 3 - 2.5 and 0 - .5; sqrt(2 / 1 * (.25 + .25)) / 12.
    assert standard_error([3, 0], [10, 2]) == (pytest.approx(1 / 12), 2)
    assert standard_error([1, 2, 0], [5, 5, 2], ["a", "a", "b"]) == standard_error([3, 0], [10, 2])
    assert standard_error([-1, 1], [5, 5]) == (pytest.approx(0.2), 2)
    assert np.isnan(standard_error([3], [10])[0])


def test_the_standard_error_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(5)
    words = rng.integers(1, 20, size=400)
    errors = rng.binomial(words, 0.2)
    low, high = bootstrap_interval(errors, words)
    error, units = standard_error(errors, words)
    assert units == 400
    assert error == pytest.approx((high - low) / 2 / 1.97, rel=0.05)


def test_both_ways_of_drawing_are_one_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    words = rng.integers(1, 20, size=300)
    errors = rng.binomial(words, 0.2)
    found = []
    for cost in (0, 1_000_000):  # always how often, always which
        monkeypatch.setattr("attune.score.statistics.COST_OF_A_ROW", cost)
        found.append(bootstrap_interval(errors, words, draws=20_000))
    assert found[0] == pytest.approx(found[1], abs=1e-3)


@pytest.mark.slow
def test_ten_thousand_draws_of_ten_thousand_utterances_take_less_than_five_seconds() -> None:
    rng = np.random.default_rng(7)
    words = rng.integers(1, 60, size=10_000)
    errors_a, errors_b = (rng.binomial(words, 0.2) for _ in range(2))
    started = time.perf_counter()
    paired_difference(3 * errors_a + rng.integers(0, 9, 10_000), errors_b, 3 * words)  # hardly two rows are alike
    assert time.perf_counter() - started < 5


def test_pairing_sees_a_small_difference_that_two_intervals_hide() -> None:
    # b makes one error less in every tenth utterance of 20 words: (b - a) = -.1 / 20 = -.005, and is never worse.
    rng = np.random.default_rng(4)
    words = np.full(400, 20)
    errors_b = rng.integers(0, 12, size=400)
    errors_a = errors_b + (np.arange(400) % 10 == 0)
    difference, low, high = paired_difference(errors_a, errors_b, words)
    assert difference == pytest.approx(-0.005)
    # 40 of 400 rows: Binomial(400, .1) / 8000, whose standard deviation is 6 / 8000.
    assert (low, high) == pytest.approx((-0.005 - 1.96 * 6 / 8000, -0.005 + 1.96 * 6 / 8000), abs=1.5e-4)
    assert bootstrap_interval(errors_a, words)[0] < bootstrap_interval(errors_b, words)[1]


def test_a_system_does_not_differ_from_itself() -> None:
    assert paired_difference([1, 2, 3], [1, 2, 3], [4, 5, 6]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [3]), r"lengths \[2, 1\]"),
        (([1, 2], [3, 4], ["ann"]), r"lengths \[2, 2, 1\]"),
        (([1, 2], [3, 0]), "got 2 utterances, 1 of them without"),
        (([], []), "got 0 utterances"),
        (([1, 2], [3, 4], None, 0), "draws=0"),
        (([1, 2], [3, 4], None, 10, 0, 95), "level=95"),
    ],
)
def test_what_cannot_be_resampled_is_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(*arguments)


def test_a_pair_needs_three_equal_lengths() -> None:
    with pytest.raises(ValueError, match=r"lengths \[2, 1, 2\]"):
        paired_difference([1, 2], [1], [3, 4])
