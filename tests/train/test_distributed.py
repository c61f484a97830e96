"""Two processes and their reductions: gradients, losses and scores are those of one that has heard it all."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import launch
from test_accumulation import LENGTHS_S, TEXTS, compute_gradients, cut, distance
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from whispers import awaken, copy_of, make_batch

from attune.data.batch import Batch
from attune.data.processes import gather, share_out
from attune.data.sampling import Draw
from attune.errors import InputError, ToldError
from attune.model.finetune.adalora import Adalora
from attune.model.finetune.base import FineTuning
from attune.model.finetune.full import Full
from attune.model.finetune.gradual import Gradual
from attune.model.whisper import Whisper
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.objective.mwer import Mwer
from attune.train.ranks import Ranks, count_begun, find_number, leave
from attune.train.sharding import check_sharding, choose_module
from attune.train.trainer import make_trainer


@pytest.fixture(scope="module")
def whisper(nano_like: Whisper) -> Whisper:
    return awaken(nano_like, seed=5, factor=3.0)


@pytest.fixture(scope="module")
def batch(whisper: Whisper) -> Batch:
    return make_batch(whisper.tokens, 250, TEXTS, LENGTHS_S)


class Loader(DataLoader[Batch]):
    def __init__(self, batches: Sequence[Batch], repeats: bool = False):
        super().__init__(batches, batch_size=None)  # type: ignore[arg-type]
        self.repeats = repeats


def fit(
    strategy: str,
    whisper: Whisper,
    finetune: FineTuning,
    parts: Sequence[Batch],
    folder: Path,
    validated: Loader | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train on one process's micro-batches; its used gradients, weights and logged values."""
    used: list[dict[str, torch.Tensor]] = []

    class Watched(choose_module(strategy)):  # type: ignore[misc]
        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            super().configure_gradient_clipping(*args, **kwargs)
            named = {name: each.grad for name, each in self.whisper.network.named_parameters() if each.grad is not None}
            whole = {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in named.items()}
            used.append({name: each.clone() for name, each in whole.items()})

    changed = copy_of(whisper)
    finetune.apply(changed.network)
    module: WhisperModule = Watched(changed, finetune, CrossEntropy(), steps=4, learning_rate=1e-4)
    many = {} if strategy == "auto" else {"devices": 2}
    trainer = make_trainer(
        [], [MetricsFile(folder)], str(folder), accelerator="cpu", strategy=strategy, gradient_clip_val=1e9,
        log_every=1, **{"validate_every": 1000, **many, **settings},
    )  # fmt: skip
    trainer.fit(module, Loader(parts), validated)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"used": used, "weights": module.whisper.network.state_dict(), "logged": logged}


def fit_two(
    strategy: str,
    whisper: Whisper,
    finetune: FineTuning,
    parts: Sequence[Sequence[Batch]],
    folder: Path,
    validated: Sequence[Loader] = (),
    **settings: Any,
) -> list[dict[str, Any]]:
    """The same by two processes; `parts` and `validated` are each one's."""

    def begin(rank: int) -> None:
        Ranks("cpu", 2, 1, strategy)
        own = validated[rank] if validated else None
        torch.save(fit(strategy, whisper, finetune, parts[rank], folder, own, **settings), folder / f"{rank}.pt")

    assert launch(2, begin) == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "tolerance"), [("ddp", 1e-5), ("fsdp", 1e-5)])
def test_gradients_are_of_the_mean_over_all_tokens(
    strategy: str, tolerance: float, whisper: Whisper, batch: Batch, tmp_path: Path
) -> None:
    """Eight utterances, three to one process and five to the other, in two micro-batches each."""
    rows = [[0, 1], [2], [3], [4, 5, 6, 7]]
    counts = [cut(batch, each).supervised for each in rows]
    assert max(counts) > 5 * min(counts)  # so the mean of means would be seen
    parts = [[cut(batch, each) for each in rows[:2]], [cut(batch, each) for each in rows[2:]]]
    found = fit_two(strategy, whisper, Full(), parts, tmp_path, max_steps=1, accumulate_grad_batches=2)
    right = compute_gradients(whisper, [batch], of_means=False)
    for each in found:
        assert distance(each["used"][0], right) < tolerance
    alone = fit("auto", whisper, Full(), [batch], tmp_path, max_steps=1)
    for each in found:
        assert each["logged"]["train/loss"] == pytest.approx(alone["logged"]["train/loss"], abs=1e-5)
        for name, weight in alone["weights"].items():
            # Adam's first step is the gradient's sign times the rate: only signs of what is as good as zero may differ.
            large = right[name].abs() > 1e-5 if name in right else torch.ones_like(weight, dtype=torch.bool)
            torch.testing.assert_close(each["weights"][name][large], weight[large], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_ddp_looks_for_what_a_schedule_leaves_out(whisper: Whisper, batch: Batch, tmp_path: Path) -> None:
    """finetune=gradual: two steps of the upper half alone, then one of all; no other word has to be said."""
    steps = [[cut(batch, [row])] for row in range(6)]
    parts = [[each for (each,) in steps[rank::2]] for rank in (0, 1)]
    found = fit_two("ddp", whisper, Gradual(stages=2, last_at=0.5), parts, tmp_path, max_steps=3)
    both = [each for (each,) in steps]
    alone = fit("auto", whisper, Gradual(stages=2, last_at=0.5), both, tmp_path, max_steps=3, accumulate_grad_batches=2)
    assert [len(used) for used in found[0]["used"]] == [len(used) for used in alone["used"]]
    assert len(alone["used"][0]) < len(alone["used"][2])
    for one, other in zip(found[0]["used"], alone["used"], strict=True):
        assert distance(one, other) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[[[0, 1], [5]], [[3]]], [[[1, 3, 4]], [[5, 0]]]], ids=["odd", "one repeats"])
def test_validation_counts_every_utterance_once(
    rows: list[list[list[int]]], whisper: Whisper, batch: Batch, tmp_path: Path
) -> None:
    """Three batches for two processes; or one, and what the second process does to be there counts for nothing."""
    repeats = len(rows[0]) == len(rows[1])
    loaders = [Loader([cut(batch, each) for each in own], repeats and rank == 1) for rank, own in enumerate(rows)]
    heard = [row for own in (rows[:1] if repeats else rows) for each in own for row in each]
    settings = {"max_steps": 1, "validate_every": 1}
    trained = [cut(batch, [6]), cut(batch, [7])]
    found = fit_two("ddp", whisper, Full(), [trained[:1], trained[1:]], tmp_path, loaders, **settings)
    whole = Loader([cut(batch, heard)])
    alone = fit(
        "auto", whisper, Full(), trained, tmp_path, whole, accumulate_grad_batches=2, max_steps=1, validate_every=1
    )
    for name in ("val/loss", "val/wer", "val/raw_wer"):
        assert alone["logged"][name] > 0
        assert [each["logged"][name] for each in found] == pytest.approx([alone["logged"][name]] * 2, rel=1e-5)


@pytest.mark.parametrize(("utterances", "ranks"), [(23, 1), (23, 2), (23, 5), (7, 7), (3, 8), (1, 2)])
def test_every_utterance_is_scored_by_one_process(utterances: int, ranks: int) -> None:
    draws = [Draw(index, 100) for index in range(utterances)]
    batches = [draws[first : first + 4] for first in range(0, utterances, 4)]
    shares = [share_out(batches, rank, ranks) for rank in range(ranks)]
    assert all(own for own, _ in shares)
    counted = [draw.index for own, repeats in shares if not repeats for batch in own for draw in batch]
    assert sorted(counted) == list(range(utterances))
    assert sum(repeats for _, repeats in shares) == max(0, ranks - utterances)
    largest, smallest = (choose(len(own) for own, _ in shares) for choose in (max, min))
    assert largest - smallest <= 1


def run_ranks(check: Callable[[Ranks, int], None]) -> list[int | None]:
    return launch(2, lambda rank: check(Ranks("cpu", "auto", "auto", "ddp"), rank))


def test_the_first_process_makes_and_its_faults_are_shared() -> None:
    def check(ranks: Ranks, rank: int) -> None:
        assert (ranks.rank, ranks.world, ranks.first) == (rank, 2, rank == 0)
        assert (ranks.devices, ranks.nodes) == (2, 1)
        assert ranks.share(lambda: {"made by": rank}) == {"made by": 0}
        assert gather(rank) == [0, 1]
        for fault, told in ((InputError("no such file"), "no such file"), (OSError("full"), "full")):
            with pytest.raises(type(fault) if rank == 0 else ToldError, match=told):
                ranks.share(lambda fault=fault: raise_(fault))

    assert run_ranks(check) == [0, 0]


def raise_(error: Exception) -> None:
    raise error


def test_the_first_process_of_a_machine_goes_before_the_others(tmp_path: Path) -> None:
    def check(ranks: Ranks, rank: int) -> None:
        with ranks.in_turn():
            found = (tmp_path / "cache").exists()
            (tmp_path / "cache").touch()
        assert found == (rank == 1)

    assert run_ranks(check) == [0, 0]


def test_no_process_ends_before_the_first_has_written(tmp_path: Path) -> None:
    def check(ranks: Ranks, rank: int) -> None:
        if rank == 0:
            time.sleep(1.0)
            (tmp_path / "report").touch()
        ranks.part()
        assert (tmp_path / "report").exists() and torch.distributed.is_initialized()
        leave()
        assert not torch.distributed.is_initialized()

    assert run_ranks(check) == [0, 0]


def test_one_process_is_a_run_by_itself() -> None:
    ranks = Ranks("cpu")
    assert (ranks.rank, ranks.world, ranks.first, ranks.devices, ranks.nodes) == (0, 1, True, 1, 1)
    assert ranks.share(lambda: 5) == 5 and gather(3) == [3]
    with ranks.in_turn():
        pass
    ranks.part()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("cpu", 1, 1, "auto"), "2 processes were begun, and trainer.strategy=auto is a run of one"),
        (("cpu", 3, 1, "ddp"), "trainer.devices=3 and trainer.num_nodes=1 are not what was begun"),
    ],
)
def test_processes_that_do_not_fit_the_trainer(settings: tuple[Any, ...], told: str) -> None:
    def begin(rank: int) -> None:
        with pytest.raises(InputError, match=told):
            Ranks(*settings)

    assert launch(2, begin) == [0, 0]


def test_slurm_tells_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_begun() == 1
    assert find_number("auto", "SLURM_NTASKS_PER_NODE", otherwise="auto") == "auto"
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    monkeypatch.setenv("SLURM_NNODES", "4")
    monkeypatch.setenv("SLURM_NTASKS", "32")
    assert count_begun() == 1  # the job's own script, and no srun
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "32")
    assert count_begun() == 32
    assert find_number("auto", "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", otherwise="auto") == 8
    assert find_number("auto", "GROUP_WORLD_SIZE", "SLURM_NNODES", otherwise=1) == 4
    assert find_number(2, "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", otherwise="auto") == 2


def test_what_works_on_whole_weights_is_refused_with_fsdp() -> None:
    check_sharding("ddp", Adalora(), Mwer(), ema=0.9)
    check_sharding("fsdp", Full(), CrossEntropy(), ema=None, penalty=None)
    with pytest.raises(InputError, match="trainer=fsdp holds weights in parts, and finetune Adalora works on whole"):
        check_sharding("fsdp", Adalora(), CrossEntropy())
    with pytest.raises(InputError, match="objective Mwer asks it as often as its hypotheses are long"):
        check_sharding("fsdp", Full(), Mwer())
    with pytest.raises(InputError, match="trainer=fsdp does not go with ema"):
        check_sharding("fsdp", Full(), CrossEntropy(), penalty=None, ema=0.9)
