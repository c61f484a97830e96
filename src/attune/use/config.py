"""What the library knows of Hydra: build what a YAML describes, name a run.

Two entrances use it, train.py and the `attune` command. It stands apart from them so that neither repeats the other.
What is wrong with a config is said in use/faults.py; sweeps are in use/sweep.py.
"""

import copy
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attune.errors import InputError, check_writable, describe_unwritable
from attune.train.files import write_atomically
from attune.use.numbers import check_numbers, check_seed

FOLDER = "folder=ANOTHER/PLACE"


def build(node: DictConfig | None, **more: Any) -> Any:
    """Call the node's `_target_` with its other keys, as plain Python values; None gives None.

    Raises:
        InputError: a key that must be given is not, has no place in the target's signature, or is to be a number and is
            none.
    """
    if node is None:
        return None
    try:
        values: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        check_numbers(values, str(node._get_full_key(None)))
        return instantiate(values, **more, _convert_="all")
    except HydraException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise InputError(f"{node.get('_target_')}: {error.__cause__ or error}") from None


def compose_run(words: Sequence[str]) -> DictConfig:
    """What train.py would be given for these words of its command line.

    Raises:
        InputError: there is no configs folder.
    """
    with initialize_config_dir(str(find_configs().resolve()), version_base="1.3"):
        return compose("train", ["name=plan", *words])


def find_configs() -> Path:
    """The folder of the configs: the one beside train.py.

    Raises:
        InputError: there is none.
    """
    folders = (Path.cwd() / "configs", Path(__file__).parents[3] / "configs")
    folder = next((folder for folder in folders if (folder / "train.yaml").is_file()), None)
    if folder is None:
        raise InputError("There is no configs/train.yaml here. Run this in the folder that holds train.py.")
    return folder


def build_corpus(data: DictConfig) -> Any:
    """The corpus of an option of data. The parts of a mixture, each another such option, are built one by one and
    handed to it: no `_target_` stands inside another's arguments."""
    if "parts" not in data:
        return build(data.corpus)
    return build(data.corpus, parts={str(name): build_corpus(part) for name, part in data.parts.items()})


def plain(node: DictConfig) -> dict[str, Any]:
    """A config as plain Python values, interpolations resolved: for run.json, config.yaml and keyword arguments."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


@dataclass(frozen=True)
class Run:
    """A run's config, its folder, and whether it goes on where an earlier process stopped.

    Args:
        opened_at: `time.time()` where others have run in this process before; None: it began with the program.
    """

    config: DictConfig
    folder: Path
    resumed: bool
    opened_at: float | None = None

    def settings(self, group: str) -> dict[str, Any]:
        """A group's own scalars as keyword arguments: what has no `_target_` of its own."""
        return {key: value for key, value in plain(self.config[group]).items() if not isinstance(value, dict)}

    def start(self) -> "Run":
        """Make the folder and leave config.yaml in it.

        Returns:
            the run with the folder that it has: another may have taken the name since it was chosen, then this one gets
            the next number behind it.

        Raises:
            InputError: another run has taken `folder`, or it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=self.resumed)
        except FileExistsError:
            if self.config.folder:
                raise InputError(describe_taken(self.config.folder)) from None
            return replace(self, folder=_find_free(self.folder.parent, self.folder.name)).start()
        except OSError as error:
            raise InputError(describe_unwritable(self.folder, error.strerror or str(error), FOLDER)) from None
        write_atomically(self.folder / "config.yaml", OmegaConf.to_yaml(self.config, resolve=True))
        return self


def open_run(config: DictConfig) -> Run:
    """Choose the folder of a new run, or find the one that `resume` names and read its config.

    The config gains `choices`, the option of each group by name: `finetune: lora` says more than forty keys do. In a
    sweep the run's name and its folder below the sweep's say what differs between the runs.

    Raises:
        InputError: the seed is none, the folder of a new run exists or cannot be made, the one to resume is none, or
            `resume` stands beside other words.
    """
    if config.resume:
        check_resume(config.resume)
    if config.resume or is_requeued(config.folder):
        folder = Path(config.resume or config.folder)
        return Run(read_config(folder), folder, resumed=True)
    check_seed(config.seed)
    check_numbers(plain(config.trainer), "trainer")  # before the data: the trainer itself is made when a model is there
    if config.folder and Path(config.folder).exists():
        raise InputError(describe_taken(config.folder))
    config = copy.deepcopy(config)
    if HydraConfig.initialized():
        chosen = {group: name for group, name in HydraConfig.get().runtime.choices.items() if "hydra/" not in group}
        with open_dict(config):
            config.choices = {group: name for group, name in chosen.items() if name}
    if is_sweep():
        return _open_in_sweep(config)
    folder = Path(config.folder) if config.folder else _new_folder(str(config.name))
    check_writable(folder, FOLDER)
    return Run(config, folder, resumed=False)


def describe_taken(folder: str) -> str:
    return (
        f"folder={folder} exists, and a run is never written over another. Name a new one, or continue it with "
        f"resume={folder}."
    )


def check_resume(folder: str) -> None:
    """Refuse words beside resume=: the run goes on with its own config, and they would change nothing.

    Raises:
        InputError: with these words.
    """
    if not HydraConfig.initialized():
        return
    words = [word for word in HydraConfig.get().overrides.task if word.lstrip("+").partition("=")[0] != "resume"]
    if words:
        raise InputError(
            f"resume={folder} goes on with the run's own config, and reads no other words; got {' '.join(words)}. "
            f"Change it in {Path(folder) / 'config.yaml'}, or begin a new run: model.name_or_path={folder}."
        )


def find_processes(config: DictConfig) -> dict[str, Any]:
    """The arguments of `Ranks`: of the run that goes on, where one does.

    Raises:
        InputError: a sweep of runs with several processes each.
    """
    folder = config.resume or (config.folder if is_requeued(config.folder) else None)
    trainer = read_config(Path(folder)).trainer if folder else config.trainer
    if is_sweep() and trainer.strategy != "auto":
        raise InputError(
            f"-m runs one after the other in one process, and trainer.strategy={trainer.strategy} gives each several. "
            "Begin each run by itself; attune report sets them beside each other."
        )
    names = ("accelerator", "devices", "num_nodes", "strategy")
    return {name: trainer[name] for name in names if name in trainer}  # a run from before they were there may go on


def open_evaluation(words: Sequence[str], name: str) -> Run:
    """The run folder of a model that is only scored, and not by train.py: as for these words of its command line.

    Args:
        name: of the run, where the words give none.
    """
    with initialize_config_dir(str(find_configs().resolve()), version_base="1.3"):
        config = compose("train", [f"name={name}", *words], return_hydra_config=True)
    chosen = {group: option for group, option in config.hydra.runtime.choices.items() if "hydra/" not in group}
    with open_dict(config):
        del config.hydra
        config.choices = {group: option for group, option in chosen.items() if option}
    return open_run(config)


def is_requeued(folder: str | None) -> bool:
    """Whether SLURM began this job before, with the same words: then the run in its folder goes on."""
    return bool(folder) and Path(str(folder), "config.yaml").is_file() and "SLURM_RESTART_COUNT" in os.environ


def _open_in_sweep(config: DictConfig) -> Run:
    """Name a run by what is swept (use/sweep.py leaves only that in override_dirname), and count them in the folder.

    An earlier attempt at the same run keeps its folder: this one's gets a number behind it.
    """
    hydra = HydraConfig.get()
    config.name = hydra.job.override_dirname or config.name
    stem = f"{hydra.job.num:02d}_{_to_file_name(config.name)}"
    folder = _find_free(Path(os.path.relpath(hydra.runtime.output_dir)), stem)
    return Run(config, folder, resumed=False, opened_at=time.time() if hydra.job.num else None)


def is_sweep() -> bool:
    """Whether this run is one of several: `python train.py -m`."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _to_file_name(text: str) -> str:
    """finetune=lora,seed=1 as it is; what a path cannot hold becomes a dash, and the longest still leaves room."""
    return re.sub(r"[^\w=,.+-]+", "-", text)[:120]


def _new_folder(name: str) -> Path:
    """runs/DATE_TIME_NAME, with a number behind it where two runs start in one second."""
    return _find_free(Path("runs"), f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}")


def _find_free(parent: Path, stem: str) -> Path:
    candidates = (parent / (stem if number == 1 else f"{stem}_{number}") for number in count(1))
    return next(path for path in candidates if not path.exists())


def read_config(folder: Path) -> DictConfig:
    """The config of a run that was started.

    Raises:
        InputError: it is no run folder.
    """
    path = folder / "config.yaml"
    try:
        config = OmegaConf.load(path)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
        config = None
    if not isinstance(config, DictConfig) or not {"model", "data", "finetune"} <= config.keys():
        raise InputError(
            f"{folder} is no run folder: it has no config.yaml of a run. Give a folder that train.py wrote, such as "
            "runs/DATE_TIME_NAME."
        )
    return config
