"""The only library code that knows Hydra: build what a YAML describes; say plainly what is wrong with one.

Two entrances use it, train.py and the `attune` command. It stands apart from them so that neither repeats the other.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from attune.errors import InputError


def build(node: DictConfig | None, **more: Any) -> Any:
    """Call the node's `_target_` with its other keys, as plain Python values; None gives None.

    Raises:
        InputError: a key that must be given is not, or has no place in the target's signature.
    """
    if node is None:
        return None
    try:
        values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        return instantiate(values, **more, _convert_="all")
    except HydraException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise InputError(f"{node.get('_target_')}: {error.__cause__ or error}") from None


def plain(node: DictConfig) -> dict[str, Any]:
    """A config as plain Python values, interpolations resolved: for run.json, config.yaml and keyword arguments."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


@dataclass(frozen=True)
class Run:
    """A run's config, its folder, and whether it goes on where an earlier process stopped."""

    config: DictConfig
    folder: Path
    resumed: bool

    def settings(self, group: str) -> dict[str, Any]:
        """A group's own scalars as keyword arguments: what has no `_target_` of its own."""
        return {key: value for key, value in plain(self.config[group]).items() if not isinstance(value, dict)}

    def start(self) -> None:
        """Make the folder and leave config.yaml in it."""
        self.folder.mkdir(parents=True, exist_ok=self.resumed)
        OmegaConf.save(self.config, self.folder / "config.yaml", resolve=True)


def open_run(config: DictConfig) -> Run:
    """Choose the folder of a new run, or find the one that `resume` names and read its config.

    Raises:
        InputError: the folder of a new run exists, or the one to resume holds no checkpoint.
    """
    if config.resume:
        folder = Path(config.resume)
        if not (folder / "checkpoints" / "last.ckpt").is_file():
            raise InputError(
                f"resume={folder}: there is no checkpoints/last.ckpt in it, so there is nothing to continue."
            )
        return Run(OmegaConf.load(folder / "config.yaml"), folder, resumed=True)  # type: ignore[arg-type]
    if config.folder and Path(config.folder).exists():
        raise InputError(
            f"folder={config.folder} exists, and a run is never written over another. Name a new one, or continue it "
            f"with resume={config.folder}."
        )
    return Run(config, Path(config.folder) if config.folder else _new_folder(str(config.name)), resumed=False)


def _new_folder(name: str) -> Path:
    """runs/DATE_TIME_NAME, with a number behind it where two runs start in one second."""
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}"
    candidates = (Path("runs") / (stem if number == 1 else f"{stem}_{number}") for number in count(1))
    return next(path for path in candidates if not path.exists())


def speak_plainly(main: Callable[[], None]) -> None:
    """Run a command; turn what the user did wrong into one message on stderr and exit code 2, without a traceback."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints the error itself, and exits
    try:
        main()
    except InputError as error:
        _stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _stop(explain(error))


def explain(error: Exception) -> str:
    """Hydra's complaint, and the nearest keys or options that would have been right."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        wanted = error.missing_cfg_file.rpartition("/")[2]
        group = error.missing_cfg_file.rpartition("/")[0]
        return f"There is no {group}={wanted}. {_suggest(wanted, error.options)}"
    if isinstance(cause, MissingMandatoryValue | InterpolationResolutionError):
        return f"{cause.full_key or ''}: {str(cause).splitlines()[0]}"
    if isinstance(cause, ConfigKeyError | OmegaConfBaseException) and cause.parent_node is not None:
        keys = [str(key) for key in cause.parent_node]  # type: ignore[attr-defined]
        return f"There is no config key {cause.full_key!r}. {_suggest(str(cause.key), keys)}"
    return str(error).splitlines()[0]


def _suggest(wanted: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = get_close_matches(wanted, known, n=3, cutoff=0.4)
    return f"Nearest: {', '.join(near)}." if near else f"There are: {', '.join(known)}."


def _stop(message: str) -> None:
    print(f"attune: {message}", file=sys.stderr)
    sys.exit(2)
