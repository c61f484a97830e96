"""A NaN in a loss or a gradient: its step changes nothing, is counted, and too many end the run."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from whispers import awaken, copy_of, make_batch

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.finetune.full import Full
from attune.model.whisper import Whisper
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy, LossTerms
from attune.train.trainer import make_trainer

ACCUMULATED = 2


class Poisons(torch.autograd.Function):
    """The identity, with a NaN in its gradient."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return torch.full_like(gradient, float("nan"))


class Poisoned(CrossEntropy):
    """NaN in the loss, or in the gradient alone, of the given micro-batches."""

    def __init__(self, batches: range, inside: str):
        super().__init__()
        self.batches, self.inside, self.count = batches, inside, 0

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        self.count += 1
        if self.count - 1 not in self.batches:
            return super().loss(whisper, batch)
        if self.inside == "loss":
            terms = super().loss(whisper, batch)
            return replace(terms, total=terms.total * float("nan"))
        return self.loss_from_states(whisper, Poisons.apply(whisper.encode(batch.waveform)), batch)


class Watched(WhisperModule):
    def on_train_batch_end(self, *args: Any) -> None:
        if not hasattr(self, "seen"):
            self.seen: list[list[torch.Tensor]] = []
        self.seen.append([parameter.detach().clone() for parameter in self.parameters()])


def fit(nano_like: Whisper, folder: Path, batches: range, inside: str, steps: int = 4, limit: int = 10) -> Watched:
    whisper = awaken(nano_like, seed=5, factor=3.0)
    batch = make_batch(whisper.tokens, 250)
    module = Watched(copy_of(whisper), Full(), Poisoned(batches, inside), steps=steps + 1, learning_rate=1e-3)
    trainer = make_trainer(
        [], [MetricsFile(folder)], str(folder), max_steps=steps, accumulate_grad_batches=ACCUMULATED,
        validate_every=1000, log_every=1, accelerator="cpu", devices=1, max_skipped=limit,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch] * (ACCUMULATED * steps), batch_size=None))  # type: ignore[arg-type]
    return module


@pytest.mark.parametrize("inside", ["loss", "gradient"])
def test_its_step_changes_nothing_and_is_counted(
    inside: str, nano_like: Whisper, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        module = fit(nano_like, tmp_path, range(3, 4), inside)  # the second micro-batch of the second step
    assert module.skipped_steps == 1 and "step 1 is left out" in caplog.text and "utterance 0" in caplog.text
    after = [module.seen[index] for index in (1, 3, 5, 7)]
    changes = [
        sum(float((one - other).abs().sum()) for one, other in zip(*pair, strict=True))
        for pair in zip(after, after[1:], strict=False)
    ]
    assert changes[0] == 0 and changes[1] > 0 and changes[2] > 0
    assert all(torch.isfinite(weight).all() for weight in after[-1])
    steps = {int(state["step"]) for state in module.optimizers(use_pl_optimizer=False).state.values()}  # type: ignore[union-attr]
    assert steps == {3}
    assert [row.get("train/skipped") for row in MetricsFile(tmp_path).rows] == ["", "1.0", "1.0", "1.0"]


def test_too_many_end_the_run_and_leave_the_batch(nano_like: Whisper, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 steps had a gradient .* trainer.max_skipped=2.*not_finite.pt"):
        fit(nano_like, tmp_path, range(100), "loss", limit=2)
    saved = torch.load(tmp_path / "not_finite.pt", weights_only=True)
    assert saved["step"] == 2 and len(saved["batches"]) == ACCUMULATED
    assert saved["batches"][0]["ids"] == [f"utterance {index}" for index in range(3)]
    assert saved["batches"][0]["waveform"].shape[0] == 3
