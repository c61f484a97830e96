"""Train, validation and test out of one pile, so that no speaker, or no recording, stands in two of them."""

import random
from collections.abc import Mapping

from attune.errors import InputError

SPLITS = ("train", "validation", "test")
HELD_OUT = ("test", "validation")  # filled first: what they leave is trained on


def divide(sizes: Mapping[str, float], shares: Mapping[str, float], seed: int, of: str) -> dict[str, str]:
    """Give each group (a speaker, a recording) to one split.

    Groups are drawn in an order that depends on their names and the seed alone. A held-out split takes each that fits
    into what is left of its share: one that is larger than the share (a speaker with half the corpus) is trained on.
    If none fits it takes the smallest.

    Args:
        sizes: of each group, in any one unit.
        shares: split -> its part of the whole, above 0; only their ratios matter. `train` is one of them.
        seed: of the order.
        of: what a group is, for the error: "speakers".

    Raises:
        InputError: there are fewer groups than splits.
    """
    if len(sizes) < len(shares):
        raise InputError(
            f"{len(sizes)} {of} cannot be divided into {', '.join(shares)}: each needs one that no other has."
        )
    order = sorted(sizes)
    random.Random(f"{seed} division").shuffle(order)
    size_of_a_share = sum(sizes.values()) / sum(shares.values())
    places: dict[str, str] = {}
    for split in [split for split in HELD_OUT if split in shares]:
        room = shares[split] * size_of_a_share
        free = [group for group in order if group not in places]
        for group in free:
            if sizes[group] <= room:
                places[group] = split
                room -= sizes[group]
        if split not in places.values():
            places[min(free, key=lambda group: sizes[group])] = split
    return {group: places.get(group, "train") for group in order}


def check_shares(shares: Mapping[str, float] | None) -> dict[str, float]:
    """Of train, validation and test.

    Raises:
        InputError: one is missing or is not above 0.
    """
    read = dict(shares or {"train": 0.8, "validation": 0.1, "test": 0.1})
    if set(read) != set(SPLITS) or not all(isinstance(share, int | float) and share > 0 for share in read.values()):
        raise InputError(
            f"data.shares is {read}. Accepted: a share above 0 for each of {', '.join(SPLITS)}, as in "
            "{train: 0.8, validation: 0.1, test: 0.1}."
        )
    return read
