"""Several runs from one command, `python train.py -m finetune=full,lora seed=1,2`, and what comes of them together.

It knows Hydra because it is Hydra's callback: only Hydra says when a sweep begins and when its last run has ended.

    runs/DATE_TIME_ablation/
      sweep.json                 what was asked for: a run that never began is missed by name
      00_finetune=full,seed=1/   a run folder like any other
      ...
      ablation.html  ablation.md  ablation.csv  ablation.tex  figures/

A sweep that was stopped goes on by the same command: it finds its folder by its words, and leaves out every run that
has finished there with the same config. Another folder's sweep goes on by hydra.sweep.dir=FOLDER.
"""

import csv
import os
import platform
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attune.errors import InputError
from attune.report.ablation import report_ablation
from attune.report.record import RunRecord, write_record
from attune.report.runs import PLAN, count_finished, find_finished, note_name, read_plan, write_plan
from attune.text.cells import restore
from attune.train.callbacks.checkpoints import MONITORED
from attune.train.callbacks.throughput import reset_peak_memory
from attune.train.loggers import MetricsFile, log_sweep
from attune.use.config import Run, is_sweep, open_run, plain
from attune.use.faults import describe_fault, speak_plainly
from attune.use.screen import make_console


class Ablation(Callback):
    """What happens before the first run of a sweep, and after the last. configs/train.yaml names it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Find the sweep that this command began before, and tell every run which words are swept: they name it."""
        speak_plainly(lambda: check_sweep(config))
        fixed = [key for key, swept in find_words(config).items() if not swept]
        # Each run is composed anew from this list, by whichever launcher and in whichever process.
        quoted = ",".join(f"'{key}'" for key in fixed)
        config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]")
        speak_plainly(lambda: _plan(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Set all runs beside each other; the exit code is 1 where one of them failed."""
        folder = Path(config.hydra.sweep.dir)
        speak_plainly(lambda: _report(folder, plain(config.logger)))


def _report(folder: Path, logger: dict[str, Any]) -> None:
    faults = report_ablation([folder], folder, make_console())
    with (folder / "ablation.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: restore(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
        log_sweep(folder, rows, **logger)
    if faults:
        sys.exit(1)


def describe_wandb_sweep(name: str, folder: Path) -> str:
    """A named ablation as the YAML of a W&B sweep over the same grid: each of its agents calls train.py.

    Args:
        folder: of the configs.

    Raises:
        InputError: there is no such ablation.
    """
    if not (folder / "ablation" / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in (folder / "ablation").glob("*.yaml")))
        raise InputError(f"There is no ablation={name}. There are: {known}.")
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        config = compose("train", [f"ablation={name}", "name=sweep"], return_hydra_config=True)
        # The words of `compose` itself are no part of the sweep.
        words = [word for word in _parse(config) if word.get_key_element() not in ("ablation", "name")]
        parameters = {
            word.get_key_element(): {"values": list(word.sweep_string_iterator())}
            if word.is_sweep_override()
            else {"value": word.get_value_element_as_str()}
            for word in words
        }
    sweep = {
        "name": name,
        "program": "train.py",
        "method": "grid",
        "metric": {"name": "result.test.wer", "goal": "minimize"},
        "parameters": parameters,
        "command": ["${env}", "python", "${program}", "${args_no_hyphens}"],
    }
    return yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True)


def find_words(config: DictConfig) -> dict[str, bool]:
    """Every key of the command line and of hydra.sweeper.params, and whether it takes several values."""
    # The sweeper lets the last word about a key win: the command line over a named ablation.
    return {word.key_or_group: word.is_sweep_override() for word in _parse(config)}


def _parse(config: DictConfig) -> list[Override]:
    params = config.hydra.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    known = GlobalHydra.instance()
    loader = known.config_loader() if known.is_initialized() else None  # glob(*) asks it for the options of a group
    return OverridesParser.create(config_loader=loader).parse_overrides(words)


def list_jobs(config: DictConfig) -> list[list[str]]:
    """The swept words of each run, in the order in which Hydra's own sweeper takes them; [] for another sweeper."""
    target = str(config.hydra.sweeper.get("_target_", ""))
    if not target.endswith("BasicSweeper"):
        return []
    words = _parse(config)
    swept = {word.get_key_element(): word.is_sweep_override() for word in words}  # the last word about a key wins
    jobs = BasicSweeper.split_arguments(words, None)[0]
    return [kept for job in jobs if (kept := [word for word in job if swept[word.partition("=")[0]]])]


def check_sweep(config: DictConfig) -> None:
    """Refuse, before the first run, what cannot hold for several.

    Raises:
        InputError: with the word that is in the way.
    """
    if config.resume:
        raise InputError("resume continues one run, and -m asks for several. Leave one of the two out.")
    if config.folder:
        raise InputError(
            f"folder={config.folder} is the folder of one run, and -m asks for several. Say hydra.sweep.dir="
            f"{config.folder}: each gets a folder of its own in it."
        )


def _plan(config: DictConfig) -> None:
    """Choose the folder, say how much of it is done, and leave the plan in it."""
    jobs = list_jobs(config)
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    words = [*params, *config.hydra.overrides.task]
    if not any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra):
        folder = find_unfinished(Path(config.hydra.sweep.dir), words)
        if folder is not None:
            config.hydra.sweep.dir = str(folder)
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
    folder = Path(config.hydra.sweep.dir)
    if not jobs:
        return
    write_plan(folder, {"words": words, "jobs": jobs, "host": platform.node(), "process": os.getpid()})
    if done := count_finished(folder):
        print(f"sweep: goes on in {folder}, where {done} of {len(jobs)} runs have finished", flush=True)
    else:
        print(f"sweep: {len(jobs)} runs, in {folder}", flush=True)


def find_unfinished(default: Path, words: list[str]) -> Path | None:
    """The latest folder beside the default one in which a sweep of these very words was stopped; None for none.

    One whose process is still at work is left to it. One that has finished is done: the same command begins anew.
    """
    for path in sorted(default.parent.glob(f"*/{PLAN}"), reverse=True):
        plan = read_plan(path.parent)
        if plan.get("words") == words and not _is_at_work(plan) and count_finished(path.parent) < len(plan["jobs"]):
            return path.parent
    return None


def _is_at_work(plan: dict[str, Any]) -> bool:
    """Whether the process that wrote a plan lives; on another machine nobody can tell, and it is taken to be dead."""
    process = plan.get("process")
    if plan.get("host") != platform.node() or not isinstance(process, int) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)  # signal 0 asks and does nothing
    except ProcessLookupError:
        return False
    except OSError:  # it lives, and is somebody else's
        return True
    return True


def carry_out(train: Callable[[DictConfig], None], config: DictConfig) -> float | None:
    """Train one run. What a user did wrong is one message; in a sweep, a run that fails does not stop the others, and
    one that has finished before is not run again.

    Returns:
        Of a run in a sweep, the least WER on validation, a fraction: what a sweeper that searches goes by. None where
        there is none.
    """
    if not is_sweep():
        speak_plainly(lambda: train(config))
        return None
    reset_peak_memory()
    run = open_run(config)  # a folder is chosen and not yet made
    try:
        if (done := find_finished(run.folder.parent, plain(run.config))) is not None:
            print(f"{run.config.name}: finished before, in {done}", flush=True)
            note_name(done, run.config.name)
            return find_least(done)
        train(config)
        return find_least(run.folder)
    except Exception as error:
        _record_failure(run, error)
        return None


def find_least(folder: Path) -> float | None:
    """The least WER on validation that a run has logged; the test set would choose what it has to judge."""
    found = [float(row[MONITORED]) for row in MetricsFile(folder).rows if row.get(MONITORED)]
    return min(found, default=None)


def _read_settings(config: DictConfig) -> dict[str, Any]:
    try:
        return plain(config)
    except OmegaConfBaseException:  # a word that must be given was not: that is the failure
        return OmegaConf.to_container(config)  # type: ignore[return-value]


def _record_failure(run: Run, error: Exception) -> None:
    """Name the fault, and leave a run.json where the run came to none, so that the table shows it too."""
    expected = isinstance(error, InputError | HydraException | OmegaConfBaseException)
    said = describe_fault(error) if expected else f"{type(error).__name__}: {error}"
    if not expected:
        traceback.print_exc()
    print(f"attune: {run.config.name} failed, the sweep goes on: {said}", file=sys.stderr)
    if not (run.folder / "run.json").is_file():
        run.folder.mkdir(parents=True, exist_ok=True)
        settings = _read_settings(run.config)
        write_record(
            RunRecord(name=settings["name"], seed=settings["seed"], config=settings, status="failed", error=said),
            run.folder,
        )
