"""A DataLoader that outlives its workers, and utterances whose files have gone."""

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from attune.data.batch import Batch, Example
from attune.data.late import Late
from attune.data.sampling import Draw

log = logging.getLogger(__name__)
RESTARTS = 3  # of one pass: workers that die again and again have a reason


class _Remaining:
    """The batches that have not been given out yet."""

    def __init__(self, batches: Iterable[list[Draw]]):
        self.batches = batches
        self.taken = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        return islice(iter(self.batches), self.taken, None)

    def __len__(self) -> int:
        return len(cast(Sequence[Any], self.batches))  # TypeError where they are endless, which DataLoader expects


class EnduringLoader(DataLoader[Batch]):
    """Where a worker dies, new ones go on with the batch that comes next: none is lost, none comes twice.

    What kills workers is nearly always a lack of memory outside the GPU; it can pass.

    Args:
        batches: what each batch holds; an endless stream, or a list.
        workers: processes; 0 for none.
        repeats: whether its batches are another process's, and do not count (`share_out`).
        note: told, here and not in a worker, what could not be used of a batch before the batch is given out.

    Raises:
        RuntimeError: torch's own, where workers have died more than three times in one pass.
    """

    def __init__(
        self,
        dataset: Dataset[Example | Late],
        batches: Iterable[list[Draw]],
        collate_fn: Callable[[Sequence[Example]], Batch],
        workers: int,
        repeats: bool = False,
        note: Callable[[Late], None] | None = None,
    ):
        self.note = note
        super().__init__(
            dataset,  # type: ignore[arg-type]
            batch_sampler=_Remaining(batches),  # type: ignore[arg-type]
            collate_fn=partial(_part, collate_fn),  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else passes draw from the run's own, and a resumed run makes fewer
        )
        self.repeats = repeats

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        remaining = cast(_Remaining, self.batch_sampler)
        remaining.taken = deaths = 0
        while True:
            try:
                for batch, late in self._begin():
                    remaining.taken += 1
                    for each in late if self.note else ():
                        self.note(each)  # type: ignore[misc]
                    yield batch
                return
            except (RuntimeError, OSError, EOFError) as error:
                if not is_death(error) or not self.num_workers:
                    raise
                deaths += 1
                if deaths > RESTARTS:
                    error.add_note(
                        "attune: workers die again and again. Most often memory outside the GPU is short: set a lower "
                        "data.workers, or 0 to decode in the main process."
                    )
                    raise
                log.warning("attune: a worker process that decodes audio has died; new ones go on. (%s)", error)
                self._iterator = None

    def _begin(self) -> Iterator[tuple[Batch, Sequence[Late]]]:
        batches = cast(Iterator[tuple[Batch, Sequence[Late]]], super().__iter__())
        if self.num_workers and threading.current_thread() is threading.main_thread():
            # torch's handler would raise wherever the main process happens to be, in the middle of a step; without it
            # the loader sees the death when it waits for a batch.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches


def _part(
    collate_fn: Callable[[Sequence[Example]], Batch], given: Sequence[Example | Late]
) -> tuple[Batch, tuple[Late, ...]]:
    """The batch, and beside it what was to be in it."""
    examples = [each for each in given if isinstance(each, Example)]
    return collate_fn(examples), tuple(each for each in given if isinstance(each, Late))


def is_death(error: RuntimeError | OSError | EOFError) -> bool:
    """Whether a worker died, and not something in it that it lived to tell. A batch that it had made and not yet handed
    over cannot be fetched from it: that is an error of the connection."""
    told = str(error)
    return "Caught " not in told and (not isinstance(error, RuntimeError) or "DataLoader worker (pid" in told)
