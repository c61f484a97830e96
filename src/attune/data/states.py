"""Stored encoder states: written once, in shards that are mapped into memory, read by any run with the same encoder.

    CACHE/encoder/ENCODER/      one folder an encoder, named by a hash of its weights
      3f2a....bf16              states of many windows one behind another: (position, width + 1), bfloat16
      3f2a....json              key of a window -> where it begins, in positions, how many it has, samples of sound
      in_use                    locked by each run that reads or writes here, so that no other removes the folder

A shard appears whole or not at all: its index is written last, in one move. Several processes may write into a folder
at the same time, each its own shards. What two of them have both computed lies there twice, and either is right.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attune.errors import InputError

SHARD_BYTES = 2**28
BYTES = 2  # of a bfloat16
STALE_S = 24 * 3600  # a shard without an index is no longer being written
HELD = "in_use"


def key_of(row: Mapping[str, Any], positions: int, number: int, changes: str) -> str:
    """What the states of a window depend on, beside the encoder: the sound, the window, and what was done to it.

    A file is told by its path, size and time, not by its bytes: reading a corpus would take longer than encoding it.

    Args:
        row: of the schema.
        number: of the draw of window and augmentation.
        changes: a description of the augmentation.
    """
    audio = row["audio"]
    told = [row["start_s"], row["end_s"], positions, number, changes]
    if audio["bytes"] is not None:
        told.append(hashlib.blake2b(audio["bytes"], digest_size=16).hexdigest())
    else:
        path = Path(audio["path"]).absolute()
        stat = path.stat()
        told += [str(path), stat.st_size, stat.st_mtime_ns]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


class StoredStates:
    """The states of one encoder.

    Args:
        folder: of this encoder.
        width: of its states, with the number that is told behind each (`Whisper.encode`).
    """

    def __init__(self, folder: Path, width: int):
        self.folder = folder
        self.width = width

    @cached_property
    def index(self) -> dict[str, tuple[str, int, int, int]]:
        """key -> (shard, first position, positions, samples of sound), of all shards that are whole."""
        found: dict[str, tuple[str, int, int, int]] = {}
        for path in sorted(self.folder.glob("*.json")):
            found |= {key: (path.stem, *place) for key, place in json.loads(path.read_text()).items()}
        return found

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def read(self, key: str) -> tuple[Float[Tensor, "position told"], int]:
        """States as they were stored (bfloat16), and how many samples of sound they are of."""
        shard, first, positions, samples = self.index[key]
        rows = self._map(shard)[first : first + positions]
        return torch.from_numpy(np.array(rows)).view(torch.bfloat16), samples

    def _map(self, shard: str) -> np.ndarray:
        path = self.folder / f"{shard}.bf16"
        # Mapped anew for each window: cheap, and a run with a thousand shards keeps no thousand files open.
        return np.memmap(path, dtype=np.int16, mode="r").reshape(-1, self.width)

    def refresh(self) -> None:
        """Look again at what lies there."""
        self.__dict__.pop("index", None)


class ShardWriter:
    """Writes shards into an encoder's folder; a context manager, which finishes the last one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._begin()

    def _begin(self) -> None:
        self.stem = self.folder / uuid.uuid4().hex
        self.file = self.stem.with_suffix(".bf16").open("wb")
        self.places: dict[str, tuple[int, int, int]] = {}
        self.positions = 0

    def write(self, key: str, states: Float[Tensor, "position told"], samples: int) -> None:
        rows = states.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy()
        self.file.write(rows.tobytes())
        self.places[key] = (self.positions, len(rows), samples)
        self.positions += len(rows)
        if self.file.tell() >= SHARD_BYTES:
            self._finish()
            self._begin()

    def _finish(self) -> None:
        self.file.close()
        if not self.places:
            self.stem.with_suffix(".bf16").unlink()
            return
        partial = self.stem.with_suffix(".partial")
        partial.write_text(json.dumps(self.places))
        partial.rename(self.stem.with_suffix(".json"))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._finish()  # after an error too: what was encoded is right, and the next run need not do it again


def hold(folder: Path) -> IO[bytes]:
    """Keep a folder, which is made, from giving way to other encoders (`make_room`): until the file is closed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / HELD).open("ab")
            _lock(file, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(file.fileno()), (folder / HELD).stat()):
                return file
            file.close()
        except FileNotFoundError:
            pass  # it was removed meanwhile


def _lock(file: IO[bytes], kind: int) -> None:
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a disk that knows no locks


def _give_way(folder: Path) -> bool:
    """Remove a folder that no run holds; whether it is gone."""
    try:
        with (folder / HELD).open("ab") as file:
            _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def make_room(root: Path, folder: Path, needed_bytes: int, budget_bytes: int) -> None:
    """Remove what other encoders have left, the longest unused first, until `needed_bytes` more are within the budget.

    What another run is using stays (`hold`).

    Args:
        root: CACHE/encoder.
        folder: this run's, which stays.

    Raises:
        InputError: it does not fit even then, or the disk is too full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    _remove_stale(folder)
    own = _size(folder)
    others = sorted((path for path in root.iterdir() if path.is_dir() and path != folder), key=_time)
    sizes = {path: _size(path) for path in others}
    for path in others:
        if own + sum(sizes.values()) + needed_bytes <= budget_bytes:
            break
        if _give_way(path):
            del sizes[path]
    free, held = shutil.disk_usage(folder).free, sum(sizes.values())
    if own + held + needed_bytes > budget_bytes or needed_bytes > 0.95 * free:
        others_too = f" and {held / 1e9:.1f} GB that other runs are using" if held else ""
        raise InputError(
            f"cache=encoder: the encoder's states need {needed_bytes / 1e9:.1f} GB more in {root}, beside "
            f"{own / 1e9:.1f} GB of the same encoder{others_too}. cache.budget_gb is {budget_bytes / 1e9:g}, and "
            f"{free / 1e9:.1f} GB of the disk are free. Raise cache.budget_gb, lower cache.draws, take context=audio "
            "instead of full, name another disk in cache.folder, or leave cache=none."
        )


def _remove_stale(folder: Path) -> None:
    for path in folder.glob("*.bf16"):
        if not path.with_suffix(".json").exists() and time.time() - path.stat().st_mtime > STALE_S:
            path.unlink(missing_ok=True)


def _time(path: Path) -> float:
    return path.stat().st_mtime


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
