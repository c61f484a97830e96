"""What memory there is, and what fits into it."""

import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from attune.train.memory import Job, Load

USABLE = 0.9  # of a device's memory: the rest is the driver's, and what lies between blocks
BATCHES_S = (10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 1920)


def costliest(job: Job, loads: Sequence[Load]) -> Job:
    """The job with that of the loads which needs most."""
    return max((replace(job, load=load) for load in loads), key=lambda each: each.need().total)


def find_largest(job: Job, available: float) -> int | None:
    """The largest data.batch_window_s of which a batch fits into so many bytes; None: not even ten seconds do."""
    fitting = [seconds for seconds in BATCHES_S if replace(job, load=job.load.fill(seconds)).need().total <= available]
    return max(fitting, default=None)


def advise(job: Job, others: Sequence[tuple[str, Job]], available: float, batch_window_s: float, parts: int) -> str:
    """What to say on the command line for a run to fit, the least change first.

    Args:
        others: words and the job that they make.
        available: bytes.
        batch_window_s, parts: the run's own batch and accumulation.
    """
    for words, each in [("", job), *others]:
        largest = find_largest(each, available)
        if largest is None:
            continue
        if largest >= batch_window_s:
            return f"{words} fits, up to data.batch_window_s={largest}".strip()
        more = -(-int(parts * batch_window_s) // largest)
        return f"{words} data.batch_window_s={largest} trainer.accumulate_grad_batches={more}".strip()
    return "does not fit: take a smaller model"


def find_available(device: torch.device) -> int:
    """Bytes that this process may use on a device, those that it has already included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(USABLE * (free + torch.cuda.memory_reserved(device)))
    limits = [_read_number("/sys/fs/cgroup/memory.max"), _read_number("/proc/meminfo", "MemAvailable:", 1024)]
    resident = find_resident()
    found = [limit + (resident if place else 0) for place, limit in enumerate(limits) if limit is not None]
    return int(USABLE * min(found, default=2**63))


def find_resident() -> int:
    """Bytes that this process has in memory now; its peak so far where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def find_process(module: nn.Module) -> int:
    """Bytes that this process has in memory beside the module's. Weights that were mapped from a file are in memory
    once they have been read: so they are read here."""
    tensors = [*module.parameters(), *module.buffers()]
    for tensor in tensors:
        if tensor.device.type == "cpu":
            tensor.detach().sum()
    return max(0, find_resident() - sum(tensor.nbytes for tensor in tensors))


def _read_number(path: str, name: str = "", unit: int = 1) -> int | None:
    """The number in a file of the system, behind a name if there is one; None where it is not there."""
    try:
        words = Path(path).read_text().split()
        return unit * int(words[words.index(name) + 1] if name else words[0])
    except (OSError, ValueError, IndexError):
        return None
