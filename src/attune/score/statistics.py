"""How sure an error rate is: bootstrap intervals over speakers, for one system and for the difference of two.

The rate of a corpus is a ratio of sums, so its interval comes from resampling whole units (speakers, recordings or
utterances) with replacement and taking the ratio again: Bisani and Ney, "Bootstrap estimates for confidence intervals
in ASR performance evaluation", ICASSP 2004. Utterances of one speaker are not independent; the unit has to hold them
together: Liu and Peng, "Statistical testing on ASR performance via blockwise bootstrap", 2020 (1912.09508).

Percentiles of n resampled units are too narrow where n is small. They are taken further out, by what Student's t has
over the normal distribution and by sqrt(n / (n - 1)): Hesterberg, "What Teachers Should Know About the Bootstrap", 2015
(1411.5279), the expanded percentile interval.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FEWEST_UNITS = 10
CHUNK_CELLS = 4_000_000  # int64 counts held at once: 32 MB
COST_OF_A_ROW = 6  # drawing how often a row occurs takes about as long as drawing and adding up so many units


def choose_units(speakers: Sequence[str | None], recordings: Sequence[str | None] = ()) -> tuple[list[str] | None, str]:
    """What to resample: speakers where all are known and there are at least ten of them, else recordings on the same
    terms, else utterances.

    A bootstrap over n units sees n values and no others. With few of them it misses the spread between speakers who
    are not in the test set: the variance comes out too small by (n - 1) / n, and intervals called 95 % hold the truth
    far less often (Cameron, Gelbach and Miller, "Bootstrap-based improvements for inference with clustered errors",
    2008). Resampling utterances is no cure: it says nothing of other speakers at all. So the name goes into the record,
    and an interval over utterances is read as one for these speakers.

    Args:
        speakers, recordings: one an utterance; None or "" where it is not known.

    Returns:
        (units, name): units as `bootstrap_interval` takes them; name is "speaker", "recording" or "utterance".
    """
    for units, name in ((speakers, "speaker"), (recordings, "recording")):
        known = [unit for unit in units if unit]
        if len(known) == len(units) and len(set(known)) >= FEWEST_UNITS:
            return known, name
    return None, "utterance"


def bootstrap_interval(
    errors: ArrayLike,
    words: ArrayLike,
    units: Sequence[str] | None = None,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Expanded percentile bootstrap interval of sum(errors) / sum(words).

    Args:
        errors: errors in each utterance, integers >= 0.
        words: reference words in each utterance, integers >= 1 (empty references have no rate: leave them out).
        units: the unit each utterance belongs to, resampled whole; None makes each utterance its own.
        draws: resamples; 10,000 leave about .3 % of noise in the tail probability.
        level: coverage, in (0, 1).

    Returns:
        (low, high), fractions; (nan, nan) for fewer than two units, which show no spread.

    Raises:
        ValueError: lengths differ, an utterance without words, draws or level out of range.
    """
    _check_draws(draws, level)
    sums = _sum_by_unit([errors, words], units)
    if len(sums) < 2:
        return float("nan"), float("nan")
    rates = np.concatenate([drawn[:, 0] / drawn[:, 1] for drawn in _resample(sums, draws, seed)])
    return _percentiles(rates, level, len(sums))


def paired_difference(
    errors_a: ArrayLike,
    errors_b: ArrayLike,
    words: ArrayLike,
    units: Sequence[str] | None = None,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The rate of b less the rate of a on the same utterances, with its paired bootstrap interval.

    Both systems are scored on the same resample, so that what makes a test set hard cancels out: the interval is
    narrower than those of a and b suggest. Below 0, b makes fewer errors. Where the interval holds 0, the test set
    does not tell the two apart.

    Args:
        errors_a, errors_b, words: one integer an utterance, in the same order; the rest as in `bootstrap_interval`.

    Returns:
        (difference, low, high), fractions; low and high are nan for fewer than two units.
    """
    _check_draws(draws, level)
    sums = _sum_by_unit([errors_a, errors_b, words], units)
    total_a, total_b, total_words = sums.sum(axis=0)
    difference = float((total_b - total_a) / total_words)
    if len(sums) < 2:
        return difference, float("nan"), float("nan")
    drawn = np.concatenate([(drawn[:, 1] - drawn[:, 0]) / drawn[:, 2] for drawn in _resample(sums, draws, seed)])
    return difference, *_percentiles(drawn, level, len(sums))


def standard_error(errors: ArrayLike, words: ArrayLike, units: Sequence[str] | None = None) -> tuple[float, int]:
    """The standard error of sum(errors) / sum(words) over test sets of as many units, without resampling.

    With the residual z_u = errors_u - rate * words_u of each of the n units it is sqrt(n / (n - 1) sum(z_u^2)) / words:
    the linearised variance of a ratio (Cochran, "Sampling Techniques", 1977, section 6.4), the units taken whole.

    Args:
        errors: one integer an utterance; of a difference of two systems, b's less a's.
        words, units: as in `bootstrap_interval`.

    Returns:
        (standard error, n); the former a fraction, nan for fewer than two units.
    """
    sums = _sum_by_unit([errors, words], units)
    count, total = len(sums), sums[:, 1].sum()
    if count < 2:
        return float("nan"), count
    residuals = sums[:, 0] - sums[:, 0].sum() / total * sums[:, 1]
    return float(np.sqrt(count / (count - 1) * np.square(residuals).sum()) / total), count


def _check_draws(draws: int, level: float) -> None:
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"got draws={draws}, level={level}; accepted: draws >= 1 and 0 < level < 1")


def _sum_by_unit(columns: Sequence[ArrayLike], units: Sequence[str] | None) -> NDArray[np.int64]:
    """(unit, column) sums of the counts; the last column is the reference words."""
    arrays = [np.asarray(column, dtype=np.int64) for column in columns]
    lengths = [len(array) for array in arrays] + ([] if units is None else [len(units)])
    if len(set(lengths)) > 1:
        raise ValueError(f"counts and units belong together, one an utterance: got lengths {lengths}")
    utterances = np.stack(arrays, axis=1)
    if not len(utterances) or utterances[:, -1].min() < 1:
        raise ValueError(
            "a rate needs utterances that have reference words, each at least one: "
            f"got {len(utterances)} utterances, {int((utterances[:, -1] < 1).sum())} of them without; leave those out"
        )
    if units is None:
        return utterances
    names, unit_of = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), len(arrays)), dtype=np.int64)
    np.add.at(sums, unit_of, utterances)
    return sums


def _resample(sums: NDArray[np.int64], draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """(draw, column) sums over as many units as there are, drawn with replacement, a chunk of draws at a time.

    Units with the same counts cannot be told apart. Drawing how often each distinct row occurs, from the multinomial
    that counts its copies, is the same distribution, and 10,000 utterances come down to a few hundred rows. Where most
    rows differ, as in sums over several seeds, the units themselves are drawn: that is then several times faster.
    """
    rng = np.random.default_rng(seed)
    rows, copies = np.unique(sums, axis=0, return_counts=True)
    if COST_OF_A_ROW * len(rows) > len(sums):
        columns = np.ascontiguousarray(np.repeat(rows, copies, axis=0).T)  # sorted: their order says nothing
        chunk = max(1, CHUNK_CELLS // len(sums))
        for first in range(0, draws, chunk):
            drawn = rng.integers(len(sums), size=(min(chunk, draws - first), len(sums)))
            yield np.stack([column[drawn].sum(axis=1) for column in columns], axis=1)
        return
    chunk = max(1, CHUNK_CELLS // len(rows))
    for first in range(0, draws, chunk):
        occurrences = rng.multinomial(len(sums), copies / len(sums), size=min(chunk, draws - first))
        yield occurrences @ rows


def _percentiles(values: NDArray[np.float64], level: float, units: int) -> tuple[float, float]:
    reach = float(stats.t.ppf((1 + level) / 2, units - 1)) * (units / (units - 1)) ** 0.5
    outside = float(stats.norm.sf(reach))
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)
