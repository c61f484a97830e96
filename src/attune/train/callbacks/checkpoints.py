"""Keep the last state of a run, and the best ones."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from attune.errors import InputError
from attune.train.callbacks.moving_average import MovingAverage
from attune.train.callbacks.random_state import RandomState
from attune.train.files import LAST, find_last, is_whole
from attune.train.module import WhisperModule

log = logging.getLogger(__name__)
MONITORED = "val/wer"


class Best(ModelCheckpoint):
    """Lightning's, which knows its files again where their folder was moved: it would take the next state for the best,
    whatever its WER, and write over the best one."""

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        paths = {name: self._find(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")}
        best = {self._find(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})

    def _find(self, path: str) -> str:
        return str(Path(self.dirpath or "", Path(path).name)) if path else path


class Checkpoints:
    """checkpoints/last.ckpt, from which a run continues (before_last.ckpt, where that is damaged), and the best by
    validation WER: best.ckpt, or top-STEP.ckpt.

    Args:
        folder: of the run.
        keep: whose weights the run ends with: `best`, `last`, or `topK`, the uniform average of the K best (Wortsman et
            al. 2022, arXiv:2203.05482, within one run). K checkpoints lie on the disk meanwhile.
        ema: decay of a moving average that takes the place of the weights in all of these; None for the weights.
        monitored: the logged value that the best have the least of; an objective may have one of its own.

    Raises:
        InputError: `keep` is none of these, or `ema` no decay.
    """

    def __init__(self, folder: Path, keep: str = "best", ema: float | None = None, monitored: str = MONITORED):
        count = re.fullmatch(r"top([1-9]\d*)", keep)
        if keep not in ("best", "last") and not count:
            raise InputError(f"keep={keep} is not known. Accepted: best, last, top3 (or another number).")
        self.folder = folder / "checkpoints"
        self.keep = keep
        self.monitored = monitored
        self.average = [] if ema is None else [MovingAverage(ema)]
        # One callback for both: Lightning tells two of the same monitor apart by nothing.
        self.best = Best(
            self.folder,
            "top-{step}" if count else "best",
            monitor=monitored,
            save_top_k=int(count[1]) if count else 1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.last = ModelCheckpoint(self.folder, "last", monitor=None, save_top_k=1, enable_version_counter=False)

    @property
    def callbacks(self) -> list[Callback]:
        return [*self.average, RandomState(), self.best, self.last]

    @property
    def resume_from(self) -> Path:
        return self.folder / LAST

    def find_last(self) -> Path | None:
        """The newest state that is whole; None where none was written yet, so that the run begins anew."""
        path = find_last(self.folder)
        if path is None:
            log.warning("attune: no checkpoint was written yet; the run begins anew.")
        elif path.name != LAST:
            log.warning("attune: the run goes on from the state before, %s.", path)
        return path

    def load_kept(self, module: WhisperModule) -> None:
        """Put the weights back that the run ends with; where no validation was reached, the last ones stay."""
        paths = [self.folder / "best.ckpt"] if self.keep == "best" else map(Path, sorted(self.best.best_k_models))
        paths = [path for path in paths if path.is_file()]
        damaged = [str(path) for path in paths if not is_whole(path)]
        if self.keep != "last" and damaged:
            raise InputError(
                f"{', '.join(damaged)} is damaged, and keep={self.keep} asks for it. Go on with the last weights: set "
                f"keep: last in {self.folder.parent / 'config.yaml'}, then python train.py resume={self.folder.parent}"
            )
        if self.keep != "last" and paths:
            module.load_state_dict(average_checkpoints(paths))


def find_monitored(objective: object) -> str:
    """What the best have the least of: the WER, unless the objective teaches something else than to write."""
    return getattr(objective, "monitored", MONITORED)


def average_checkpoints(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The mean of the weights in some checkpoints, by a running mean: one of them at a time is in memory."""
    mean: dict[str, Tensor] = {}
    for number, path in enumerate(paths, start=1):
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        # Copies: the output projection is the token embedding, and the two names share one tensor in the file.
        mean = mean or {name: weight.clone() for name, weight in state.items()}
        for name, weight in state.items():
            if weight.is_floating_point():
                mean[name].lerp_(weight, 1 / number)  # at equal weights exact, so what was frozen stays what it was
    return mean
