"""Where metrics go: metrics.csv always, Weights & Biases by default. Neither ever asks a question or ends a run."""

import csv
import io
import logging
import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.train.files import write_atomically
from attune.train.reach import is_answering

log = logging.getLogger(__name__)
WANDB_HOST = "api.wandb.ai"
# What waits for W&B waits so long and no longer: it may hang, and a machine with a GPU is dear. The default run, of 150
# seconds, loses less than 5 % of its time to a server that hangs, at whichever moment it begins to.
ANSWER_S, INIT_S, FINISH_S = 2.0, 5.0, 4.0
Shown = tuple[str, str, str, str, Float[Tensor, "sample"]]  # id, reference, before, after, audio


class MetricsFile(Logger):
    """metrics.csv: a row for each step at which something was logged, empty cells where it was something else.

    Lightning's own CSVLogger deletes the file of the run that is being continued; this one keeps its rows.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.rows and int(self.rows[-1]["step"]) == step:
            self.rows[-1].update(metrics)
        else:
            self.rows = [row for row in self.rows if step is None or int(row["step"]) < step]  # a resumed run repeats
            self.rows.append({"step": step, **metrics})

    @rank_zero_only
    def save(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row if key != "epoch"))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


class GuardedWandb(WandbLogger):
    """W&B's logger; the first fault of its process while the run is under way is told, and the run goes on without it.

    What the network does is no matter of this one: metrics go to that process, which tries again by itself.
    """

    is_lost = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.is_lost:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:
            self.is_lost = True
            log.warning("attune: W&B takes no more metrics (%s); metrics.csv has them all.", error)


def make_loggers(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    project: str | None = "attune",
    mode: Literal["auto", "online", "offline", "none"] = "auto",
    finish_s: float = FINISH_S,
) -> list[Logger]:
    """metrics.csv, and W&B unless `mode` is none.

    Args:
        mode: auto is online where a key is found (WANDB_API_KEY or ~/.netrc) and offline elsewhere; WANDB_MODE wins.
        finish_s: seconds that the end of the run waits for what is still to be sent.
    """
    loggers: list[Logger] = [MetricsFile(folder)]
    if mode != "none" and project:
        try:
            loggers.append(_make_wandb(folder, name, config, project, mode, finish_s))
        except Exception as error:  # no fault of W&B may cost a run; metrics.csv has everything
            log.warning("W&B could not start (%s); metrics go to metrics.csv alone.", error)
    return loggers


def has_wandb_key() -> bool:
    """Whether W&B would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _choose_mode(mode: str, folder: Path) -> str:
    """Online only where the server answers: to wait for one that hangs, and only then to go offline, takes longer."""
    # W&B tells of its own faults to the very server that hangs: the process would live 14 seconds longer for it.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    chosen = os.environ.get("WANDB_MODE") or (("online" if has_wandb_key() else "offline") if mode == "auto" else mode)
    if chosen == "online" and not is_answering(url := _find_server(), ANSWER_S):
        _tell_unreached(f"{url} does not answer", folder)
        return "offline"
    return chosen


def _find_server() -> str:
    import wandb

    return wandb.setup().settings.base_url


def _tell_unreached(why: object, folder: Path) -> None:
    log.warning("attune: W&B was not reached (%s); the run is kept in %s/wandb: wandb sync.", why, folder)


def _make_wandb(
    folder: Path, name: str, config: Mapping[str, Any], project: str, mode: str, finish_s: float
) -> WandbLogger:
    import wandb

    chosen = _choose_mode(mode, folder)
    # The runs of a sweep, whose plan lies in the folder around them, are one group; options of groups are tags.
    group = folder.parent.name if (folder.parent / "sweep.json").is_file() else None
    tags = [f"{key}={option}" for key, option in (config.get("choices") or {}).items()]
    about = {"group": group, "tags": tags, "config": dict(config), "resume": "allow"}
    about |= {
        "project": project,
        "name": name,
        "dir": folder,
        "id": _read_id(folder),
        "settings": _make_settings(finish_s),
    }
    try:
        run = wandb.init(mode=chosen, **about)  # type: ignore[arg-type]
    except Exception as error:
        if chosen != "online":
            raise
        _tell_unreached(error, folder)
        wandb.teardown()  # its process would go on trying
        run = wandb.init(mode="offline", **about)  # type: ignore[arg-type]
    return GuardedWandb(experiment=run)


def _make_settings(finish_s: float) -> Any:
    """finish_previous: in a sweep, a run that failed has not closed its own, and the next one would go on writing in
    it."""
    import wandb

    waits = {"init_timeout": INIT_S, "finish_timeout": finish_s, "finish_timeout_raises": True}
    known = {name: value for name, value in waits.items() if name in wandb.Settings.model_fields}  # the oldest has less
    return wandb.Settings(console="off", silent=True, reinit="finish_previous", **known)  # type: ignore[arg-type]


def _read_id(folder: Path) -> str:
    """The run's name inside W&B: of its own making and kept, so that a run that goes on is the same one there."""
    path = folder / "wandb" / "id"
    if not path.is_file():
        write_atomically(path, uuid.uuid4().hex[:12])
    return path.read_text("utf-8")


def log_sweep(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    project: str | None = "attune",
    mode: str = "auto",
    finish_s: float = FINISH_S,
) -> None:
    """One more run in the sweep's group, which holds its table alone. A fault costs only that."""
    if mode == "none" or not project or not rows:
        return
    try:
        import wandb

        table = wandb.Table(columns=list(rows[0]), allow_mixed_types=True)
        for row in rows:
            table.add_data(*row.values())
        chosen = _choose_mode(mode, folder)
        settings = _make_settings(finish_s)
        with wandb.init(
            project=project,
            name=f"{folder.name}: table",
            group=folder.name,
            job_type="summary",
            dir=folder,
            mode=chosen,  # type: ignore[arg-type]
            settings=settings,
        ) as run:
            run.log({"ablation": table})
    except Exception as error:
        log.warning("W&B did not take the sweep's table (%s); ablation.csv has it.", error)


def close_wandb(loggers: Sequence[Logger], summary: Mapping[str, Any], shown: Sequence[Shown]) -> None:
    """Log the shown utterances as a table with audio, write the summary, close. A fault costs only the table."""
    logger = next((logger for logger in loggers if isinstance(logger, WandbLogger)), None)
    if logger is None:
        return
    run = logger.experiment
    try:
        if run.offline or is_answering(_find_server(), ANSWER_S):  # for a table W&B asks the server, for 20 seconds
            run.log({"predictions/test": _make_table(shown)})
        run.summary.update(dict(summary))
        run.finish()
    except TimeoutError:
        log.warning(
            "attune: W&B did not take everything in the time of logger.finish_s. The run folder is complete; the rest "
            "is sent by: wandb sync %s", Path(run.dir).parent,
        )  # fmt: skip
    except Exception as error:
        log.warning("W&B did not close cleanly (%s); the run folder is complete.", error)


def _make_table(shown: Sequence[Shown]) -> Any:
    import wandb

    table = wandb.Table(columns=["id", "audio", "reference", "before", "after"])
    for identifier, reference, before, after, waveform in shown:
        audio = wandb.Audio(waveform.numpy(), sample_rate=SAMPLE_RATE_HZ)
        table.add_data(identifier, audio, reference, before, after)
    return table
