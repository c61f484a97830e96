"""A run that dies between two checkpoints, in the middle of an accumulation window, ends as if it had not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from whispers import copy_of

from attune.audio.context import AudioContext
from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.model.finetune.full import Full
from attune.model.whisper import Whisper
from attune.train.callbacks.checkpoints import Checkpoints
from attune.train.callbacks.throughput import COUNTED, Throughput
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

STEPS, EVERY, ACCUMULATED = 6, 2, 2
DEATH = 9  # micro-batches: one and a half steps behind the second checkpoint


class Heard(CrossEntropy):
    """Cross-entropy that remembers which utterances it was given, and dies."""

    def __init__(self, death: int | None):
        super().__init__()
        self.heard: list[list[str]] = []
        self.death = death

    def loss(self, whisper: Whisper, batch: Batch) -> Any:
        if len(self.heard) == self.death:
            raise MemoryError("it did not fit")
        self.heard.append(batch.ids)
        return super().loss(whisper, batch)


def run(
    whisper: Whisper, data: SpeechDataModule, folder: Path, death: int | None = None, resume: Path | None = None
) -> tuple[Heard, WhisperModule]:
    L.seed_everything(7, verbose=False)
    objective, checkpoints = Heard(death), Checkpoints(folder)
    module = WhisperModule(copy_of(whisper), Full(), objective, steps=STEPS, learning_rate=1e-3)
    trainer = make_trainer(
        [Throughput(0.0), *checkpoints.callbacks], [MetricsFile(folder)], str(folder), max_steps=STEPS,
        validate_every=EVERY, accumulate_grad_batches=ACCUMULATED, log_every=1, accelerator="cpu", devices=1,
    )  # fmt: skip
    if death is None:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    else:
        with pytest.raises(MemoryError):
            trainer.fit(module, datamodule=data)
    return objective, module


def flatten(state: Any, path: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {name: leaf for key, value in state.items() for name, leaf in flatten(value, f"{path}/{key}").items()}
    if isinstance(state, list | tuple):
        return flatten(dict(enumerate(state)), path)
    return {path: state}


def test_a_run_that_died_ends_as_if_it_had_not(
    nano_like: Whisper, make_data: Callable[..., SpeechDataModule], tmp_path: Path
) -> None:
    def data() -> SpeechDataModule:
        return make_data(nano_like.tokens, AudioContext(), batch_window_s=20, seed=5, workers=0)

    whole, finished = run(nano_like, data(), tmp_path / "whole")
    dead, _ = run(nano_like, data(), tmp_path / "cut", death=DEATH)
    last = Checkpoints(tmp_path / "cut").resume_from
    assert torch.load(last, weights_only=True)["global_step"] == 4
    resumed, again = run(nano_like, data(), tmp_path / "cut", resume=last)

    assert dead.heard == whole.heard[:DEATH]
    assert resumed.heard == whole.heard[4 * ACCUMULATED :]
    for (name, weight), other in zip(finished.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(weight, other[1]), name

    assert finished.utterances_seen > 0  # a run in two parts tells of both
    assert [getattr(again, name) for name in COUNTED] == [getattr(finished, name) for name in COUNTED]

    states = [
        flatten(torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)) for name in ("whole", "cut")
    ]
    compared = [name for name in states[0] if name.startswith(("/state_dict", "/optimizer_states", "/lr_schedulers"))]
    assert len(compared) > 200
    for name in compared:
        one, other = (state[name] for state in states)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, name
    rows = [MetricsFile(tmp_path / name).rows for name in ("whole", "cut")]
    steps = [int(row["step"]) for row in rows[1]]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS - 1
    kept = [[{key: row[key] for key in ("step", "train/loss", "val/loss", "val/wer")} for row in each] for each in rows]
    assert kept[0] == kept[1]


def test_a_moved_run_knows_its_best_state(
    nano_like: Whisper, make_data: Callable[..., SpeechDataModule], tmp_path: Path
) -> None:
    """Under another mount, or copied to another machine. A worse state took the place of the best one."""
    checkpoints = Checkpoints(tmp_path / "there", keep="top2")
    run(nano_like, make_data(nano_like.tokens, batch_window_s=20, seed=5, workers=0), tmp_path / "there", death=DEATH)
    state = torch.load(checkpoints.resume_from, weights_only=True)["callbacks"]
    (kept,) = [each for name, each in state.items() if name.startswith("ModelCheckpoint") and each["best_k_models"]]
    shutil.move(tmp_path / "there", tmp_path / "here")
    moved = Checkpoints(tmp_path / "here").best
    assert moved.state_key in state
    moved.load_state_dict(kept)
    assert moved.best_k_models == {str(tmp_path / "here/checkpoints/best.ckpt"): kept["best_model_score"]}
    assert moved.best_model_score == kept["best_model_score"] and Path(moved.best_model_path).is_file()


def test_a_checkpoint_holds_primitives_only(
    nano_like: Whisper, make_data: Callable[..., SpeechDataModule], tmp_path: Path
) -> None:
    run(nano_like, make_data(nano_like.tokens, batch_window_s=10, workers=0), tmp_path)
    for name in ("best", "last"):
        state = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert {type(leaf) for leaf in flatten(state).values()} <= {Tensor, int, float, bool, str, type(None)}
        assert "hyper_parameters" not in state
        assert not [key for key in state["state_dict"] if "log_mel" in key]
