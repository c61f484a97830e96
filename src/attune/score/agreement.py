"""How far people who rate the same things agree, beyond what chance would give."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Of the items that two or more people rated.

    Args:
        items: how many there are.
        raters: the most that any of them has.
        observed: the chance, in [0, 1], that two raters of an item agree, as a mean over the items.
        expected: the same for answers drawn at random from all that were given.
        kappa: (observed - expected) / (1 - expected): 1 is full agreement, 0 is chance, below 0 is less than chance.
            NaN where everybody gave one answer everywhere: chance would agree as well.
    """

    items: int
    raters: int
    observed: float
    expected: float
    kappa: float


def compute_agreement(items: Sequence[Sequence[Hashable]]) -> Agreement | None:
    """Fleiss' kappa (Fleiss 1971, Psychological Bulletin 76, 378-382).

    With n_ij answers of category j among the n_i of item i:

        P_i = sum_j n_ij (n_ij - 1) / (n_i (n_i - 1)),  P = mean_i P_i
        p_j = sum_i n_ij / sum_i n_i,  P_e = sum_j p_j^2,  kappa = (P - P_e) / (1 - P_e)

    Fleiss has n raters of every item. Here people stop when they like, so n_i may differ: each item counts once in P,
    each answer once in P_e. With two raters everywhere it is Scott's pi.

    Args:
        items: the answers to each; those with fewer than two are left out.

    Returns:
        None where no item has two answers.
    """
    counts = [Counter(answers) for answers in items if len(answers) > 1]
    if not counts:
        return None
    observed = math.fsum(_agree(count) for count in counts) / len(counts)
    together: Counter[Hashable] = sum(counts, Counter())
    expected = math.fsum((each / together.total()) ** 2 for each in together.values())
    kappa = (observed - expected) / (1 - expected) if len(together) > 1 else math.nan
    return Agreement(len(counts), max(count.total() for count in counts), observed, expected, kappa)


def _agree(count: Counter[Hashable]) -> float:
    total = count.total()
    return sum(each * (each - 1) for each in count.values()) / (total * (total - 1))
