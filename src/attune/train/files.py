"""Files that are whole or not there: written beside their place, forced to the disk, moved in one step.

A process may be killed, and a disk may fill, at any moment. Whoever reads then meets the old file or the new one.
"""

import errno
import logging
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from attune.errors import InputError

log = logging.getLogger(__name__)
LAST, BEFORE = "last.ckpt", "before_last.ckpt"  # the two states that a run can go on from
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the quota, in what one file may take


@contextmanager
def replace_file(path: Path, writer: str = "") -> Iterator[IO[bytes]]:
    """What is written in the block takes the place of `path` when the block ends, and nothing does if it fails.

    Args:
        writer: tells processes apart that write one file; without it, what a kill leaves is replaced by the next.

    Raises:
        InputError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        f".{path.name}.{writer}partial"
    )  # the same folder: a move across disks is a copy, in many steps
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save says RuntimeError of a write that failed
        if is_disk_full(error):
            raise InputError(
                f"The disk is full: {path} could not be written. What was there before is whole. Make room, and go on "
                "with: python train.py resume=RUN"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> Path:
    """Replace a text file. A lone surrogate, which UTF-8 cannot hold and a decoded byte-level token can be, is written
    as its escape.

    Raises:
        InputError: the disk is full.
    """
    with replace_file(path, f"{os.getpid()}.") as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))
    return path


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a write failed, at its root, because there was no room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _sync_folder(folder: Path) -> None:
    """Force the move itself to the disk: after a power cut the file's new name would else be missing."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints; of the last state, the one before is kept too.

    Lightning's own writer builds the file in memory a second time, then moves it from /tmp: often another disk, so that
    the move is a copy, which a kill cuts in two; and it forces nothing to the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        with replace_file(path) as file:
            torch.save(checkpoint, file)
            if path.name == LAST and path.is_file():  # between the two moves only the one before is there: it will do
                file.flush()
                os.fsync(file.fileno())
                os.replace(path, path.with_name(BEFORE))


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read to its end: torch writes an archive with a checksum of every part."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError):
        return False


def find_last(folder: Path) -> Path | None:
    """The newest state in a folder of checkpoints that is whole; None where none was written yet.

    Raises:
        InputError: there are some, and all are damaged.
    """
    found = [folder / name for name in (LAST, BEFORE) if (folder / name).is_file()]
    for path in found:
        if is_whole(path):
            return path
        log.warning("attune: %s is damaged, and is left aside.", path)
    if found:
        raise InputError(
            f"{folder}: no state that the run could go on from is whole. What there is: "
            f"{', '.join(sorted(path.name for path in folder.glob('*.ckpt')))}. Start the run anew, in a new folder."
        )
    return None
