"""Words of a config that are to be numbers, and are none: said before anything is done with them."""

from collections.abc import Mapping
from pkgutil import resolve_name
from types import NoneType
from typing import Any, get_args, get_type_hints

from attune.errors import InputError, is_whole


def check_numbers(values: Mapping[str, Any], node: str) -> None:
    """Hold what the signature of a `_target_` declares to be a number against what it is given.

    Args:
        node: the config's name for the target, for the message.

    Raises:
        InputError: a word stands where a number should.
    """
    try:
        target = resolve_name(values["_target_"])
        hints = get_type_hints(target.__init__ if isinstance(target, type) else target)
    except (KeyError, ImportError, ValueError, NameError, AttributeError):  # which building it will tell
        return
    for name in values.keys() & hints.keys():
        kinds = set(get_args(hints[name]) or [hints[name]])
        value, numbers = values[name], kinds & {int, float}
        if not numbers or not kinds <= {int, float, NoneType}:
            continue
        counts = not isinstance(value, bool) and isinstance(value, int | float) and value == value // 1
        if (value is None and NoneType in kinds) or counts or (float in kinds and isinstance(value, float)):
            continue
        accepted = f"{'numbers' if float in kinds else 'whole numbers'}{' and null' if NoneType in kinds else ''}"
        raise InputError(f"{node.removesuffix('.corpus')}.{name}={value}: accepted are {accepted}.")


def check_seed(seed: Any) -> None:
    """A run's seed is one that every generator takes.

    Raises:
        InputError: it is none that they all take.
    """
    if not is_whole(seed) or not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: accepted are whole numbers from 0 to {2**32 - 1}.")
