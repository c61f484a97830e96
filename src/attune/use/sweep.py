"""Several runs from one command, `python train.py -m finetune=full,lora seed=1,2`, and what comes of them together.

It knows Hydra because it is Hydra's callback: only Hydra says when a sweep begins and when its last run has ended.

    runs/DATE_TIME_ablation/
      00_finetune=full,seed=1/   a run folder like any other
      ...
      ablation.csv  ablation.md  figures/ablation.png
"""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from attune.errors import InputError
from attune.report.ablation import report_ablation
from attune.report.record import RunRecord, write_record
from attune.train.callbacks.throughput import reset_peak_memory
from attune.use.config import describe_fault, is_sweep, open_run, plain, speak_plainly
from attune.use.screen import make_console


class Ablation(Callback):
    """What happens before the first run of a sweep, and after the last. configs/train.yaml names it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell every run which words are swept: it is named by them."""
        speak_plainly(lambda: check_sweep(config))
        fixed = [key for key, swept in find_words(config).items() if not swept]
        # Each run is composed anew from this list, by whichever launcher and in whichever process.
        quoted = ",".join(f"'{key}'" for key in fixed)
        config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Set all runs beside each other; the exit code is 1 where one of them failed."""
        folder = Path(config.hydra.sweep.dir)
        speak_plainly(lambda: _report(folder))


def _report(folder: Path) -> None:
    if report_ablation([folder], folder, make_console()):
        sys.exit(1)


def find_words(config: DictConfig) -> dict[str, bool]:
    """Every key of the command line and of hydra.sweeper.params, and whether it takes several values."""
    params = config.hydra.sweeper.get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    # The sweeper lets the last word about a key win: the command line over a named ablation.
    return {word.key_or_group: word.is_sweep_override() for word in OverridesParser.create().parse_overrides(words)}


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
    folder = Path(config.hydra.sweep.dir)
    if any(folder.glob("*/run.json")):
        raise InputError(f"hydra.sweep.dir={folder} holds runs, and none is ever written over. Name a new folder.")


def carry_out(train: Callable[[DictConfig], None], config: DictConfig) -> None:
    """Train one run. What a user did wrong is one message; in a sweep, a run that fails does not stop the others."""
    if not is_sweep():
        speak_plainly(lambda: train(config))
        return
    reset_peak_memory()
    try:
        train(config)
    except Exception as error:
        _record_failure(config, error)


def _record_failure(config: DictConfig, error: Exception) -> None:
    """Name the fault, and leave a run.json where the run came to none, so that the table shows it too."""
    expected = isinstance(error, InputError | HydraException | OmegaConfBaseException)
    said = describe_fault(error) if expected else f"{type(error).__name__}: {error}"
    if not expected:
        traceback.print_exc()
    run = open_run(config)
    print(f"attune: {run.config.name} failed, the sweep goes on: {said}", file=sys.stderr)
    if not (run.folder / "run.json").is_file():
        run.folder.mkdir(parents=True, exist_ok=True)
        settings = plain(run.config)
        write_record(
            RunRecord(name=settings["name"], seed=settings["seed"], config=settings, status="failed", error=said),
            run.folder,
        )
