"""What several processes do with one corpus: each scores its share, and tells the others what it knows."""

from collections.abc import Sequence
from typing import Any

import torch

from attune.data.sampling import Draw


def share_out(batches: Sequence[list[Draw]], rank: int, ranks: int) -> tuple[list[list[Draw]], bool]:
    """What one of several processes scores, and whether it only repeats what another does.

    Each batch is one process's. Where there are fewer batches than processes the largest are cut, which no transcript
    depends on; where there are fewer utterances, the processes without one repeat the first: none may be without a
    batch, because all wait for each other.
    """
    shared = list(batches)
    while len(shared) < ranks and (size := max(map(len, shared))) > 1:
        place = next(index for index, batch in enumerate(shared) if len(batch) == size)
        shared[place : place + 1] = [shared[place][: size // 2], shared[place][size // 2 :]]
    own = shared[rank::ranks]
    return (own, False) if own else (shared[:1], True)


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank, in each of them; of any kind that can be pickled."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
