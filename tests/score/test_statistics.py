import numpy as np
import pytest

from attune.score.statistics import bootstrap_interval, choose_units, paired_difference


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
    # error of .1 / sqrt(10) = .032, over 200 utterances one of .1 / sqrt(200) = .007: a factor of sqrt(20) = 4.47.
    units = [f"speaker {index // 20}" for index in range(200)]
    errors, words = [1 if index < 100 else 3 for index in range(200)], [10] * 200
    by_speaker, by_utterance = bootstrap_interval(errors, words, units), bootstrap_interval(errors, words)
    width, narrow = by_speaker[1] - by_speaker[0], by_utterance[1] - by_utterance[0]
    assert width / narrow == pytest.approx(20**0.5, rel=0.15)
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
