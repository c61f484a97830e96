"""What a user did that cannot work, in one message."""

from typing import Any


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
