"""Gradual unfreezing: who joins when, whose optimiser state is kept, and that nobody moves before its time."""

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from whispers import awaken, copy_of, make_batch

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.finetune.base import advance, parameter_groups
from attune.model.finetune.gradual import Gradual
from attune.model.whisper import Whisper
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

FIRST = "model.decoder.layers.1.fc1.weight"
SECOND = "model.decoder.embed_tokens.weight"
LAST = "model.encoder.conv1.weight"


def learning(whisper: Whisper) -> set[str]:
    return {name for name, parameter in whisper.network.named_parameters() if parameter.requires_grad}


def test_groups_join_from_the_top_down(nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), Gradual(stages=4, last_at=0.6)  # a block each
    finetune.apply(whisper.network)
    everything = learning(whisper)
    found = []
    for progress in (0.0, 0.19, 0.21, 0.41, 0.6, 1.0):
        advance(finetune, whisper.network, progress)
        found.append(learning(whisper))
    tops = {name for name in everything if name.startswith(("model.decoder.layers.1.", "model.decoder.layer_norm."))}
    assert found[0] == found[1] == tops
    assert found[2] == {name for name in everything if name.startswith("model.decoder.")}
    above = ("model.decoder.", "model.encoder.layers.1.", "model.encoder.layer_norm.")
    assert found[3] == {name for name in everything if name.startswith(above)}
    assert found[4] == found[5] == everything
    assert "model.encoder.embed_positions.weight" not in everything


def test_only_so_many_blocks_ever_learn(nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), Gradual(blocks=3, stages=2, last_at=0.5)
    finetune.apply(whisper.network)
    advance(finetune, whisper.network, 1.0)
    never = ("model.encoder.layers.0.", "model.encoder.conv")
    assert not [name for name in learning(whisper) if name.startswith(never)]
    advance(finetune, whisper.network, 0.0)
    assert SECOND in learning(whisper)  # three blocks in two groups: two, then one
    assert "model.encoder.layers.1.fc1.weight" not in learning(whisper)


def take_step(
    whisper: Whisper, finetune: Gradual, optimizer: torch.optim.Optimizer, batch: Batch, progress: float
) -> dict[str, Tensor]:
    """One step as WhisperModule takes it; the gradients that it saw."""
    advance(finetune, whisper.network, progress)
    terms = CrossEntropy().loss(whisper, batch)
    (terms.total / terms.tokens).backward()
    seen = {name: p.grad.clone() for name, p in whisper.network.named_parameters() if p.grad is not None}
    optimizer.step()
    optimizer.zero_grad()
    return seen


def test_earlier_groups_keep_their_state_and_later_ones_wait_untouched(nano_like: Whisper) -> None:
    whisper, finetune = awaken(nano_like, seed=6, factor=3.0), Gradual(stages=4, last_at=0.6)
    finetune.apply(whisper.network)
    batch, named = make_batch(whisper.tokens, 200), dict(whisper.network.named_parameters())
    groups = parameter_groups(finetune, whisper.network, weight_decay=0.5, learning_rate=1e-3)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(named[name]) for name in learning(whisper)}
    before = {name: parameter.detach().clone() for name, parameter in named.items()}

    take_step(whisper, finetune, optimizer, batch, progress=0.0)
    take_step(whisper, finetune, optimizer, batch, progress=0.1)
    first = {name for name in named if finetune.joins_at(name) == 0.0}
    assert {name for name in named if not torch.equal(named[name], before[name])} == first
    assert set(optimizer.state) == {named[name] for name in first}  # no state, no weight decay, for those that wait

    moments = {name: optimizer.state[named[name]]["exp_avg"].clone() for name in first}
    seen = take_step(whisper, finetune, optimizer, batch, progress=0.25)
    for name in first:
        state = optimizer.state[named[name]]
        assert state["step"] == 3
        torch.testing.assert_close(state["exp_avg"], 0.9 * moments[name] + 0.1 * seen[name], atol=1e-6, rtol=1e-4)
    assert optimizer.state[named[SECOND]]["step"] == 1
    waiting = [name for name in named if finetune.joins_at(name) > 0.25]
    assert LAST in waiting and all(torch.equal(named[name], before[name]) for name in waiting)


class Snapshots(L.Callback):
    """Three weights after every optimiser step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: WhisperModule, *args: object) -> None:  # type: ignore
        named = dict(pl_module.whisper.network.named_parameters())
        self.after[trainer.global_step] = {name: named[name].detach().clone() for name in (FIRST, SECOND, LAST)}


def test_a_run_unfreezes_by_its_steps(nano_like: Whisper, tmp_path: Path) -> None:
    """Four steps of two micro-batches: groups join at 0, a quarter (step 2) and a half (step 3) of the run."""
    finetune, snapshots, batch = Gradual(stages=3, last_at=0.5), Snapshots(), make_batch(nano_like.tokens, 200)
    whisper = copy_of(nano_like)
    finetune.apply(whisper.network)
    assert [finetune.joins_at(name) for name in (FIRST, SECOND, LAST)] == [0.0, 0.0, 0.5]
    lower = "model.encoder.layers.1.fc1.weight"
    assert finetune.joins_at(lower) == 0.25
    start = {name: parameter.detach().clone() for name, parameter in whisper.network.named_parameters()}
    module = WhisperModule(whisper, finetune, CrossEntropy(), steps=4, learning_rate=1e-3, weight_decay=0.1)
    trainer = make_trainer(
        [snapshots], [MetricsFile(tmp_path)], str(tmp_path), max_steps=4, validate_every=1000, log_every=1,
        accumulate_grad_batches=2, accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch] * 8, batch_size=None))  # type: ignore[arg-type]
    assert not torch.equal(snapshots.after[1][FIRST], start[FIRST])
    assert torch.equal(snapshots.after[2][LAST], start[LAST])
    assert not torch.equal(snapshots.after[3][LAST], start[LAST])


class Loss(nn.Module):
    """What DDP wraps: Lightning's strategy calls `training_step` through its forward in the same way."""

    def __init__(self, whisper: Whisper):
        super().__init__()
        self.whisper = whisper

    def forward(self, batch: Batch) -> Tensor:
        return CrossEntropy().loss(self.whisper, batch).total


def train_three_steps(whisper: Whisper, ddp: dict[str, bool] | None) -> Whisper:
    """Two with the upper group alone, one with all. One process is enough to show what DDP's reducer waits for."""
    finetune, batch = Gradual(stages=2, last_at=0.5), make_batch(whisper.tokens, 200)
    finetune.apply(whisper.network)
    optimizer = torch.optim.AdamW(parameter_groups(finetune, whisper.network, 0.1, 1e-3), lr=1e-3)
    loss: nn.Module = Loss(whisper)
    loss = loss if ddp is None else DistributedDataParallel(loss, **ddp)
    for progress in (0.0, 0.0, 0.5):
        advance(finetune, whisper.network, progress)
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return whisper


def test_ddp_unfreezes_if_it_looks_for_unused_parameters(
    nano_like: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # this host's own name need not be known to anybody
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        alone = train_three_steps(awaken(nano_like, seed=6, factor=3.0), None)
        together = train_three_steps(awaken(nano_like, seed=6, factor=3.0), {"find_unused_parameters": True})
        with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
            train_three_steps(awaken(nano_like, seed=6, factor=3.0), {"find_unused_parameters": False})
    finally:
        torch.distributed.destroy_process_group()
    for (name, one), other in zip(alone.named_parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("blocks", [0, -1])
def test_gradual_without_blocks_is_refused(blocks: int) -> None:
    with pytest.raises(InputError, match=rf"finetune.blocks is {blocks}: without blocks there is nothing to unfreeze"):
        Gradual(blocks=blocks)


def test_stages_that_cannot_be(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match="finetune.stages is 1; unfreezing in stages needs at least 2"):
        Gradual(stages=1)
    with pytest.raises(InputError, match="finetune.last_at is 1.0; accepted: a share of the run"):
        Gradual(last_at=1.0)
    for finetune in (Gradual(stages=5), Gradual(blocks=9), Gradual(blocks=3, stages=4)):
        with pytest.raises(InputError, match=r"this model has 4 blocks. Accepted: no more blocks than that"):
            finetune.apply(copy_of(nano_like).network)
