"""What a user did that cannot work, in one message."""

import os
from pathlib import Path
from typing import Any

CACHE = "the environment variable ATTUNE_CACHE=ANOTHER/PLACE"  # for `check_writable`


class InputError(Exception):
    """Bad input: what is wrong, what was got, what is accepted, how to mend it. Shown without a traceback."""


class ToldError(InputError):
    """One that another process of the run has met, and tells the user."""


def is_whole(value: Any) -> bool:
    """Whether a setting is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_whole(group: str, **counts: Any) -> None:
    """Raises InputError where a count of this config group is no whole number."""
    for name, count in counts.items():
        if not is_whole(count):
            raise InputError(f"{group}.{name}={count}: accepted are whole numbers.")


def check_writable(path: Path, mend: str) -> None:
    """Look, before hours of work, whether something could be written to a place.

    Args:
        path: a file or a folder, there or not yet.
        mend: the word that names another place.

    Raises:
        InputError: a part of it is a file, or may not be written into.
    """
    nearest = next((part for part in (path, *path.parents) if os.path.lexists(part)), path)
    if nearest != path and not nearest.is_dir():
        raise InputError(describe_unwritable(path, f"{nearest} is a file", mend))
    if not os.access(nearest, os.W_OK):
        raise InputError(describe_unwritable(path, f"{nearest}: Permission denied", mend))


def describe_unwritable(path: Path, reason: str, mend: str) -> str:
    return f"{path} cannot be written ({reason}). Name another place: {mend}"
