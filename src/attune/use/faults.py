"""What is wrong with a config, or with the words of a command line, said plainly."""

import os
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from attune.errors import InputError, ToldError

PLACES = {"train": "FILE", "validation": "FILE", "test": "FILE", "root": "FOLDER", "language": "CODE"}


def speak_plainly(main: Callable[[], None]) -> None:
    """Run a command; turn what the user did wrong into one message on stderr and exit code 2, without a traceback."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints the error itself, and exits
    try:
        main()
    except ToldError:
        sys.exit(2)
    except (InputError, HydraException, OmegaConfBaseException) as error:
        print(f"attune: {describe_fault(error)}", file=sys.stderr)
        sys.exit(2)


def describe_fault(error: Exception) -> str:
    """What a user did wrong, in one message."""
    return str(error) if isinstance(error, InputError) else explain(error)


def explain(error: Exception) -> str:
    """Hydra's complaint, and the nearest keys or options that would have been right."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        wanted = error.missing_cfg_file.rpartition("/")[2]
        group = error.missing_cfg_file.rpartition("/")[0]
        return f"There is no {group}={wanted}. {_suggest(wanted, error.options)}"
    if isinstance(error, OverrideParseException):
        return _explain_word(error.override)
    if several := re.match(r"Ambiguous value for argument '(.*)'\n", str(error)):
        key, _, value = several[1].partition("=")
        return (
            f"{several[1]}: a comma separates the values of a sweep, which begins with -m. A list stands in brackets: "
            f"{key}=[{value}]. A value that holds a comma is quoted, twice for the shell's sake: {_quote(key, value)}"
        )
    if missing := re.search(r"[Mm]issing mandatory value: (\S+)", str(cause)):
        return f"{missing[1]} is missing. Give {missing[1]}={PLACES.get(missing[1].rpartition('.')[2], 'VALUE')}"
    if isinstance(cause, MissingMandatoryValue | InterpolationResolutionError):
        return f"{cause.full_key or ''}: {str(cause).splitlines()[0]}"
    if isinstance(cause, ConfigKeyError | OmegaConfBaseException) and cause.parent_node is not None:
        return _explain_key(error, cause)
    return str(error).splitlines()[0]


def _explain_key(error: Exception, cause: OmegaConfBaseException) -> str:
    parent, key = cause.parent_node, f"There is no config key {cause.full_key!r}"
    if not isinstance(parent, DictConfig):
        return f"{key}: {str(cause.full_key).rpartition('.')[0]} is a value and holds no keys."
    if not (keys := [] if parent._is_none() else [str(key) for key in parent]):
        word = re.search(r"To append to your config use (\+.*)", str(error))
        return (
            f"{key}: what has no keys yet takes one with a plus. Write {word[1] if word else f'+{cause.full_key}=...'}"
        )
    return f"{key}. {_suggest(str(cause.key), keys)}"


def _explain_word(word: str) -> str:
    """Of a word that Hydra's grammar does not hold, which is one of a path as a rule."""
    key, is_pair, value = word.partition("=")
    if not is_pair:
        return f"{word!r} is no word of a run: it needs a value, as in finetune=lora."
    home = " ~ is no folder here: the shell puts none in its place behind a =." if value.startswith("~") else ""
    return (
        f"{word} cannot be read: a value with other characters than A to z, digits and . _ / - is quoted, twice for "
        f"the shell's sake.{home} Write {_quote(key, value)}"
    )


def _quote(key: str, value: str) -> str:
    plain = value.strip("'").replace("\\'", "'")
    plain = str(Path(plain).expanduser()) if plain.startswith("~/") else plain
    escaped = plain.replace("'", "\\'")
    return f"\"{key}='{escaped}'\""


def _suggest(wanted: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = get_close_matches(wanted, known, n=3, cutoff=0.4)
    return f"Nearest: {', '.join(near)}." if near else f"There are: {', '.join(known)}."
