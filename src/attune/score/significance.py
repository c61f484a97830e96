"""Whether two systems differ: matched pairs, seeds beside test-set noise, many comparisons, and what a set can show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from statistics import fmean, stdev

from scipy import stats

from attune.score.metrics import align

CORRECT_BETWEEN = 2  # correct words that part two segments: the MIN_NUM_GOOD of NIST's sc_stats
POWER, LEVEL = 0.8, 0.05


@dataclass(frozen=True)
class MatchedPairs:
    """MAPSSWE of two systems. `mean` is of errors a segment, a's less b's; z and p are nan where they do not exist."""

    segments: int
    mean: float
    z: float
    p: float


@dataclass(frozen=True)
class Effect:
    """A difference of two rates, as a fraction, with its two kinds of noise apart.

    Args:
        value: b's rate less a's; below 0, b makes fewer errors.
        test_se: standard error over test sets (other speakers), of these very models.
        units: speakers, recordings or utterances that it is made of.
        seed_se: standard error over seeds, on this very test set; None where no setting has two runs.
        low, high: 95 % interval with both.
        p: of no difference, two-sided, with both; before any correction for many comparisons.
    """

    value: float
    test_se: float
    units: int
    seed_se: float | None
    low: float
    high: float
    p: float


def matched_pairs(references: Sequence[str], first: Sequence[str], second: Sequence[str]) -> MatchedPairs:
    """The matched-pairs sentence-segment word error test (Gillick and Cox, ICASSP 1989), as NIST's sc_stats defines it.

    Every utterance falls into segments that hold the errors of either system and are parted by at least two words that
    both have right, with nothing inserted between. With Z_i, the errors of the first system in segment i less those of
    the second, z = mean(Z) / (sd(Z) / sqrt(n)) is held against the normal distribution. It takes segments to be
    independent: with few speakers it is too sure of itself, and `weigh` is the test to believe.

    Args:
        references, first, second: one normalised text an utterance, in the same order.

    Returns:
        z and p are nan for fewer than two segments, or where all Z are the same and not 0; with no difference p is 1.
    """
    texts = zip(references, first, second, strict=True)
    differences = [one - other for text in texts for one, other in find_segments(*text)]
    count = len(differences)
    mean = fmean(differences) if differences else 0.0
    if not any(differences):
        return MatchedPairs(count, 0.0, 0.0, 1.0)
    spread = stdev(differences) if count > 1 else 0.0
    if not spread:
        return MatchedPairs(count, mean, nan, nan)
    z = mean / (spread / sqrt(count))
    return MatchedPairs(count, mean, z, float(2 * stats.norm.sf(abs(z))))


def find_segments(reference: str, first: str, second: str) -> Iterator[tuple[int, int]]:
    """(errors of the first, errors of the second) in each segment of one utterance, in spoken order."""
    counts, correct = (0, 0), 0
    for place, (one, other) in enumerate(
        zip(_place_errors(reference, first), _place_errors(reference, second), strict=True)
    ):
        if not one and not other:
            correct += place % 2  # a word; at even places stands what was inserted between two
            continue
        if any(counts) and correct >= CORRECT_BETWEEN:
            yield counts
            counts = (0, 0)
        counts, correct = (counts[0] + one, counts[1] + other), 0
    if any(counts):
        yield counts


def _place_errors(reference: str, hypothesis: str) -> list[int]:
    """Words inserted before the first reference word, whether that one is wrong, inserted before the second, ...;
    2 n + 1 numbers for n words."""
    errors = [0]
    for operation, said, _ in align(reference, hypothesis):
        if said:
            errors += [int(operation != "equal"), 0]
        else:
            errors[-1] += 1
    return errors


def weigh(value: float, test_se: float, units: int, seeds_a: Sequence[float], seeds_b: Sequence[float] = ()) -> Effect:
    """A difference of mean rates, with seeds as a random effect beside the noise of the test set.

    The rates of several seeds on one test set spread by s; their mean carries s^2 / k of it. This adds to the variance
    over test sets: se^2 = test_se^2 + s_a^2 / k_a + s_b^2 / k_b, and value / se follows Student's t with the degrees of
    freedom of Welch and Satterthwaite. With one seed a setting, nothing is known of other seeds: the p-value then is of
    these two models, and `seed_se` is None.

    Args:
        value: mean rate of b less mean rate of a.
        test_se, units: as `standard_error` gives them for the difference of the means.
        seeds_a, seeds_b: the rate of each seed; empty for a system without seeds, such as the untouched model.
    """
    parts = [(stdev(seeds) ** 2 / len(seeds), len(seeds) - 1) for seeds in (seeds_a, seeds_b) if len(seeds) > 1]
    seed_se = sqrt(sum(part for part, _ in parts)) if parts else None
    parts.append((test_se**2, units - 1))
    total = sum(part for part, _ in parts)
    if not isfinite(total) or units < 2:
        return Effect(value, test_se, units, seed_se, nan, nan, nan)
    if not total:  # the same errors in every unit, and in every seed
        return Effect(value, test_se, units, seed_se, value, value, nan if value else 1.0)
    freedom = total**2 / sum(part**2 / free for part, free in parts)
    reach = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * sqrt(total)
    p = float(2 * stats.t.sf(abs(value) / sqrt(total), freedom))
    return Effect(value, test_se, units, seed_se, value - reach, value + reach, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values that may be read together: the chance of one false claim among all of them is kept (Holm 1979).

    The i-th smallest of m, counted from 0, is multiplied by m - i, and none falls below a smaller one. What is None or
    nan was not tested: it stays None and does not count.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None and isfinite(p))
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = largest
    return adjusted


def detectable_difference(test_se: float, units: int) -> float:
    """The smallest true difference that this test set shows in four of five experiments, at the 5 % level.

    (t_{.975} + t_{.8}) * se, with units - 1 degrees of freedom (Bloom, "Minimum Detectable Effects", 1995).

    Args:
        test_se: standard error of a paired difference. Before there are two systems to compare, the standard error of
            one system's rate is a fair guess at it: they are equal where the errors of the two correlate by a half.
        units: that were resampled.

    Returns:
        A fraction; nan for fewer than two units.
    """
    if units < 2:
        return nan
    return float(stats.t.ppf(1 - LEVEL / 2, units - 1) + stats.t.ppf(POWER, units - 1)) * test_se
