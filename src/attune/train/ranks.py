"""The processes of a run: one, or one for each device, on one machine or on several.

torchrun or SLURM begins them (Lightning itself does, on one machine), and Lightning brings them together, here before
anything is read or written: all of them then have one run folder, one audit and one cache, and the first alone writes.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities import rank_zero_only

from attune.errors import InputError, ToldError

Made = TypeVar("Made")


class Ranks:
    """This process among those of the run; `rank` of `world`, and `first` is the one that writes.

    Args:
        accelerator, devices, num_nodes, strategy: those of the trainer. `auto` devices and nodes are as many as
            torchrun or SLURM has begun processes for, or else all of this machine.

    Raises:
        InputError: several processes were begun, and the trainer is of one.
    """

    def __init__(
        self, accelerator: str = "auto", devices: int | str = 1, num_nodes: int | str = 1, strategy: str = "auto"
    ):
        begun = count_begun()
        if strategy == "auto" and begun > 1:
            raise InputError(
                f"{begun} processes were begun, and trainer.strategy=auto is a run of one: each would train by itself. "
                "Say trainer=ddp, or trainer=fsdp."
            )
        self.devices = find_number(devices, "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", otherwise="auto")
        self.nodes = int(find_number(num_nodes, "GROUP_WORLD_SIZE", "SLURM_NNODES", otherwise=1))
        kind = "auto" if strategy == "auto" else "ddp"  # what joins the processes is the same for all strategies
        try:
            self.fabric = Fabric(accelerator=accelerator, devices=self.devices, num_nodes=self.nodes, strategy=kind)
            self.fabric.launch()
        except ValueError as error:  # fewer or more processes than were named
            raise InputError(
                f"trainer.devices={devices} and trainer.num_nodes={num_nodes} are not what was begun: {error} Leave "
                "both at auto, or give the numbers that torchrun or SLURM was given."
            ) from None
        self.rank, self.world = self.fabric.global_rank, self.fabric.world_size
        self.first = self.rank == 0

    def share(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, in all of them, however long it takes; where it fails, all do.

        Raises:
            ToldError: the first process's fault, in the others.
        """
        if self.world == 1:
            return make()
        made: Made | None = None
        error: Exception | None = None
        with self.fabric.rank_zero_first():
            if self.first:
                try:
                    made = make()
                except Exception as met:
                    error = met
        made, fault = self.fabric.broadcast((made, error and f"process 0: {error}"))
        if fault is not None:
            raise error or ToldError(fault)
        return made  # type: ignore[return-value]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process of each machine goes through the block before the others of it: what it leaves in a cache
        they find there."""
        with self.fabric.rank_zero_first(local=True) if self.world > 1 else nullcontext():
            yield

    def part(self) -> None:
        """Wait for the others at the end of a run: the first still writes the report when the rest have nothing left to
        do, and a launcher that one of them fails under ends it too. The group is left when the interpreter ends:
        threads of its own that still run then would abort the process."""
        if self.world > 1:
            self.fabric.barrier()
            atexit.register(leave)


def leave() -> None:
    """Leave the group of processes, if this one is in any."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def find_number(wanted: int | str, *names: str, otherwise: int | str) -> int | str:
    """A number as it was given; for `auto` that of the first of these environment variables that is set."""
    if wanted != "auto":
        return int(wanted)
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), otherwise)


def count_begun() -> int:
    """How many processes torchrun or srun has begun for this run; 1 where neither did."""
    if torch.distributed.is_torchelastic_launched():
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))  # of this srun; a job may hold more tasks than are begun


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return getattr(rank_zero_only, "rank", 0) == 0
