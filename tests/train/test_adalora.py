"""AdaLoRA as Lightning trains it: ranks are taken once an optimiser step, down to the budget, by a resumed run too."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from whispers import copy_of, make_batch

from attune.data.module import SpeechDataModule
from attune.model.finetune.adalora import Adalora
from attune.model.finetune.base import after_step, apply_finetuning
from attune.model.whisper import Whisper
from attune.train.callbacks.checkpoints import Checkpoints
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

STEPS, EVERY, ACCUMULATED = 6, 3, 2
MATRICES, RANK, TARGET = 2 * 6 + 2 * 10, 4, 2


class Counted(Adalora):
    """Remembers at which steps it was called."""

    def __init__(self) -> None:
        super().__init__(rank=RANK, target_rank=TARGET, alpha=8, start_share=0.2, final_share=0.2)
        self.called: list[tuple[int, int]] = []

    def after_step(self, network, step: int, steps: int) -> dict[str, float]:  # type: ignore[no-untyped-def]
        self.called.append((step, steps))
        return super().after_step(network, step, steps)


def run(whisper: Whisper, data: SpeechDataModule, folder: Path, steps: int, resume: bool = False) -> WhisperModule:
    L.seed_everything(7, verbose=False)
    changed, finetune, checkpoints = copy_of(whisper), Counted(), Checkpoints(folder)
    apply_finetuning(finetune, changed.network)
    module = WhisperModule(changed, finetune, CrossEntropy(), steps=STEPS, learning_rate=1e-2)
    trainer = make_trainer(
        checkpoints.callbacks, [MetricsFile(folder)], str(folder), max_steps=steps, validate_every=EVERY,
        accumulate_grad_batches=ACCUMULATED, log_every=1, accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=checkpoints.resume_from if resume else None, weights_only=True)
    return module


def count_ranks(module: WhisperModule) -> int:
    named = module.whisper.network.named_parameters()
    return sum(int(torch.count_nonzero(weight)) for name, weight in named if ".lora_E." in name)


@pytest.fixture
def fresh_data(make_data: Callable[..., SpeechDataModule], nano_like: Whisper) -> Callable[[], SpeechDataModule]:
    return lambda: make_data(nano_like.tokens, batch_window_s=20, seed=5, workers=0)


def test_ranks_are_taken_to_the_budget_and_a_resumed_run_takes_the_same(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    whole = run(nano_like, fresh_data(), tmp_path / "whole", steps=STEPS)
    assert whole.finetune.called == [(step, STEPS) for step in range(1, STEPS + 1)]  # type: ignore[attr-defined]
    # An entry whose importance ties with the last one that is taken goes with it.
    assert 0.9 * MATRICES * TARGET <= count_ranks(whole) <= MATRICES * TARGET
    logged = [float(row["train/mean_rank"]) for row in MetricsFile(tmp_path / "whole").rows if row["train/mean_rank"]]
    assert logged[0] == RANK and logged == sorted(logged, reverse=True)
    assert logged[-1] == pytest.approx(count_ranks(whole) / MATRICES)

    run(nano_like, fresh_data(), tmp_path / "cut", steps=EVERY)  # in the middle of the decline
    resumed = run(nano_like, fresh_data(), tmp_path / "cut", steps=STEPS, resume=True)
    states = whole.state_dict(), resumed.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_step_without_usable_gradients_spoils_nothing(nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), Counted()
    apply_finetuning(finetune, whisper.network)
    batch, left = make_batch(whisper.tokens, positions=250), 0.0
    for step in range(1, 5):
        terms = CrossEntropy().loss(whisper, batch)
        whisper.network.zero_grad()
        (terms.total / terms.tokens).backward()
        for name, weight in whisper.network.named_parameters():
            if weight.grad is not None:
                with torch.no_grad():
                    weight.sub_(0.1 * weight.grad)
                if step == 1 and ".lora_A." in name:
                    weight.grad = None  # as if the objective had not used it
                elif step == 2:
                    weight.grad.fill_(torch.inf)  # as in a step that 16-mixed skips
        left = after_step(finetune, whisper.network, step, steps=4)["mean_rank"]
    assert 0.9 * TARGET <= left <= TARGET
    assert all(torch.isfinite(value).all() for value in whisper.network.state_dict().values())
