"""MWER and GRPO on a real Whisper: what moves, what is left alone, and that it composes with every type."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from test_accumulation import Gradients, Watched, cut, distance
from torch.utils.data import DataLoader
from whispers import awaken, change, copy_of, make_batch, read_settings

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.finetune.base import parameter_groups
from attune.model.finetune.full import Full
from attune.model.finetune.lora import Lora
from attune.model.save import save_whisper
from attune.model.whisper import Whisper
from attune.train.loggers import MetricsFile
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.objective.grpo import Grpo, compute_advantages
from attune.train.objective.hypotheses import FromHypotheses
from attune.train.objective.mwer import Mwer, count_errors
from attune.train.objective.preparation import Prepared
from attune.train.objective.reference import check_vocabulary
from attune.train.objective.rewards import Candidate
from attune.train.trainer import make_trainer

FINETUNE = Path(__file__).parents[2] / "configs" / "finetune"
TYPES = sorted(path.stem for path in FINETUNE.glob("*.yaml") if path.stem != "none")
TEXTS, LENGTHS_S = ("Seven blue boats.", "No.", "Three."), (0.5, 0.3, 0.4)
OWN = {"rewards": {"own": 1.0}}


def constant(candidate: Candidate) -> float:
    return 0.1


def length(candidate: Candidate) -> float:
    """Differs between samples of random weights."""
    return float(len(candidate.hypothesis) % 7)


def broken(candidate: Candidate) -> float:
    return float("nan")


@pytest.fixture
def whisper(nano_like: Whisper) -> Whisper:
    return awaken(nano_like, seed=5, factor=3.0)


@pytest.fixture
def batch(whisper: Whisper) -> Batch:
    return make_batch(whisper.tokens, 150, TEXTS, LENGTHS_S)


def prepare(objective: Any, whisper: Whisper, finetune: Any) -> Any:
    change(whisper, finetune)
    objective.prepare(whisper, seed=3, is_varied=False)
    return objective


def compute_gradients(objective: Any, whisper: Whisper, batch: Batch) -> tuple[Gradients, dict[str, float]]:
    whisper.network.zero_grad()
    terms = objective.loss(whisper, batch)
    terms.total.backward()
    assert terms.tokens == len(batch)
    named = whisper.network.named_parameters()
    return {name: each.grad.clone() for name, each in named if each.grad is not None}, terms.logged


def largest(gradients: Gradients) -> float:
    return max(float(each.abs().max()) for each in gradients.values())


@pytest.mark.parametrize("finetune", [Full, lambda: Lora(rank=4)])
@pytest.mark.parametrize("refresh_every", [1, 3])
def test_at_step_0_there_is_no_divergence_and_nothing_is_clipped(
    finetune: Callable[[], Any], refresh_every: int, whisper: Whisper, batch: Batch
) -> None:
    objective = prepare(Grpo(samples=3, kl=1.0, refresh_every=refresh_every), whisper, finetune())
    _, logged = compute_gradients(objective, whisper, batch)
    assert abs(logged["kl"]) < 1e-6 and logged["clip_share"] == 0.0
    assert 1 <= logged["distinct_samples"] <= 3 and 0 <= logged["truncated_samples"] <= 1
    assert logged["entropy"] > 0 and logged["reward"] < 0


@pytest.mark.parametrize("finetune", [Full, lambda: Lora(rank=4)])
def test_the_reference_stays_where_the_model_was(finetune: Callable[[], Any], whisper: Whisper, batch: Batch) -> None:
    objective = prepare(Grpo(samples=2, kl=1.0, anchor=0.0), whisper, finetune())
    start = copy_of(whisper)
    generator = torch.Generator().manual_seed(0)
    learning = {name: each for name, each in whisper.network.named_parameters() if each.requires_grad}
    with torch.no_grad():
        for parameter in learning.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    moved = {name: each.detach().clone() for name, each in whisper.network.named_parameters()}
    with objective.reference.stand_in(whisper) as other, torch.no_grad():
        logits = [
            each.project(each.decode(each.encode(batch.waveform), batch.decoder_input_ids))
            for each in (other, start.eval())
        ]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)
    gradients, logged = compute_gradients(objective, whisper, batch)
    assert logged["kl"] > 1e-4 and set(gradients) <= set(learning)
    for name, parameter in whisper.network.named_parameters():
        assert torch.equal(parameter, moved[name]) and parameter.requires_grad == (name in learning), name


def test_adapters_are_switched_off_and_nothing_is_copied(whisper: Whisper) -> None:
    lora = prepare(Grpo(samples=2), whisper, Lora(rank=4))
    assert lora.reference.is_switched and not list(lora.buffers())
    full = prepare(Grpo(samples=2), copy_of(awaken(whisper, 1)), Full())
    kept = sum(buffer.numel() for buffer in full.buffers())
    assert not full.reference.is_switched and kept > 100_000
    assert not list(prepare(Grpo(samples=2, kl=0.0), copy_of(awaken(whisper, 1)), Full()).buffers())


@pytest.mark.parametrize("settings", [{}, {"divide_by_deviation": False, "length_normalised": False}])
def test_equal_rewards_move_nothing_but_the_anchor(settings: dict[str, Any], whisper: Whisper, batch: Batch) -> None:
    own = f"{__name__}.constant"
    free = prepare(Grpo(samples=3, kl=0.0, anchor=0.0, own=own, **OWN, **settings), whisper, Full())
    gradients, logged = compute_gradients(free, whisper, batch)
    assert largest(gradients) == 0.0 and logged["reward_spread"] < 1e-9
    held = Grpo(samples=3, kl=0.0, anchor=0.5, own=own, **OWN, **settings)
    held.prepare(whisper, seed=3, is_varied=False)
    gradients, _ = compute_gradients(held, whisper, batch)
    whisper.network.zero_grad()
    (0.5 * CrossEntropy().loss(whisper, batch).total).backward()
    expected = {name: each.grad for name, each in whisper.network.named_parameters() if each.grad is not None}
    assert distance(gradients, expected) < 1e-5 * max(1.0, largest(expected))


def test_the_gradient_is_that_of_advantage_times_log_probability(whisper: Whisper, batch: Batch) -> None:
    objective = prepare(
        Grpo(samples=4, kl=0.0, anchor=0.0, length_normalised=False, own=f"{__name__}.length", **OWN), whisper, Full()
    )
    gradients, _ = compute_gradients(objective, whisper, batch)
    whisper.network.zero_grad()
    states = whisper.encode(batch.waveform)
    drawn = objective.draw(whisper, states, batch)
    rewards = torch.tensor([float(len(text) % 7) for text in drawn.texts]).double().view(3, 4)
    advantages = compute_advantages(rewards, None, divide_by_deviation=True).float().flatten()
    assert advantages.abs().max() > 0
    (-(advantages * objective.score(whisper, states, batch, drawn).of_rows).sum() / 4).backward()
    expected = {name: each.grad for name, each in whisper.network.named_parameters() if each.grad is not None}
    assert distance(gradients, expected) < 1e-4 * largest(expected)


def test_mwer_is_the_gradient_of_the_expected_errors(whisper: Whisper, batch: Batch) -> None:
    objective = prepare(Mwer(samples=4, anchor=0.0), whisper, Full())
    gradients, logged = compute_gradients(objective, whisper, batch)
    whisper.network.zero_grad()
    states = whisper.encode(batch.waveform)
    drawn = objective.draw(whisper, states, batch)
    chances = objective.score(whisper, states, batch, drawn).of_rows.view(3, 4)
    errors = count_errors(batch, drawn)
    total = torch.zeros(())
    for row in range(3):
        first = [place for place in range(4) if drawn.is_first[4 * row + place]]
        each = (chances[row, first] - chances[row, first].max().detach()).exp()
        total = total + (each * errors[row, first]).sum() / each.sum()
    total.backward()
    expected = {name: each.grad for name, each in whisper.network.named_parameters() if each.grad is not None}
    assert distance(gradients, expected) < 1e-3 * max(1e-2, largest(expected))
    assert logged["expected_errors"] == pytest.approx(float(total) / 3, rel=1e-4)


def test_mwer_takes_an_n_best_list(whisper: Whisper, batch: Batch) -> None:
    objective = prepare(Mwer(samples=3, search="beam"), whisper, Full())
    gradients, logged = compute_gradients(objective, whisper, batch)
    assert logged["distinct_samples"] == 3.0 and largest(gradients) > 0


@pytest.mark.parametrize("make", [lambda: Grpo(samples=3), lambda: Mwer(samples=3)])
def test_hypotheses_depend_on_seed_step_and_utterance_alone(
    make: Callable[[], FromHypotheses], whisper: Whisper, batch: Batch
) -> None:
    objective = prepare(make(), whisper, Full())
    states = whisper.encode(batch.waveform)
    together = objective.draw(whisper, states, batch)
    for row in range(3):
        alone = objective.draw(whisper, states[row : row + 1], cut(batch, [row]))
        assert alone.written == together.written[3 * row : 3 * row + 3]
    objective.step = 1
    later = objective.draw(whisper, states, batch)
    objective.step, objective.seed = 0, 4
    assert later.written != together.written != objective.draw(whisper, states, batch).written


def test_sampling_leaves_the_modes_of_all_parts(whisper: Whisper, batch: Batch) -> None:
    objective = prepare(Grpo(samples=2), whisper.train(), Full())
    whisper.network.model.encoder.layers[0].eval()
    modes = {name: module.training for name, module in whisper.network.named_modules()}
    objective.loss(whisper, batch)
    assert {name: module.training for name, module in whisper.network.named_modules()} == modes


@pytest.mark.parametrize("name", TYPES)
def test_every_type_learns_from_rewards(name: str, nano_like: Whisper) -> None:
    """A step of AdamW; the reference is what the model was, and only what was declared has moved."""
    whisper, finetune = (
        awaken(nano_like, seed=6, factor=3.0),
        instantiate(read_settings(FINETUNE / f"{name}.yaml"), _convert_="all"),
    )
    objective = prepare(Grpo(samples=2, kl=0.1, anchor=0.1), whisper, finetune)
    batch = make_batch(whisper.tokens, 150, TEXTS, LENGTHS_S)
    before = {key: each.detach().clone() for key, each in whisper.network.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(finetune, whisper.network, 0.01, 1e-2), lr=1e-2)
    _, logged = compute_gradients(objective, whisper, batch)
    assert abs(logged["kl"]) < 1e-5
    optimizer.step()
    moved = {key for key, each in whisper.network.named_parameters() if not torch.equal(each, before[key])}
    learning = {key for key, each in whisper.network.named_parameters() if each.requires_grad}
    assert moved and moved <= learning
    gradients, logged = compute_gradients(objective, whisper, batch)
    assert logged["kl"] > 0 and set(gradients) <= learning


def fit(whisper: Whisper, objective: Any, batches: list[Batch], folder: Path) -> Watched:
    """One optimiser step of a window."""
    changed = copy_of(whisper)
    prepare(objective, changed, Full())
    module = Watched(changed, Full(), objective, steps=2, learning_rate=1e-4)
    trainer = make_trainer(
        [], [MetricsFile(folder)], str(folder), max_steps=1, accumulate_grad_batches=len(batches),
        gradient_clip_val=1e9, validate_every=1000, log_every=1, accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return module


@pytest.mark.parametrize("make", [lambda: Grpo(samples=3, anchor=0.1), lambda: Mwer(samples=3, anchor=0.1)])
def test_three_ones_are_one_three(make: Callable[[], Any], whisper: Whisper, batch: Batch, tmp_path: Path) -> None:
    whole = fit(whisper, make(), [batch], tmp_path / "whole")
    parts = fit(whisper, make(), [cut(batch, [row]) for row in range(3)], tmp_path / "parts")
    assert distance(whole.used[0], parts.used[0]) < 1e-4 * max(largest(whole.used[0]), 0.1)
    row = MetricsFile(tmp_path / "whole").rows[0]
    assert {
        f"train/{key}" for key in ("distinct_samples", "truncated_samples", "entropy", "cross_entropy")
    } <= row.keys()


def test_an_older_model_draws_until_it_is_renewed(whisper: Whisper, batch: Batch) -> None:
    objective = prepare(
        Grpo(samples=3, kl=0.0, anchor=0.0, refresh_every=2, clip=0.001, rewards={"length": 1.0}), whisper, Full()
    )
    compute_gradients(objective, whisper, batch)
    with torch.no_grad():
        whisper.network.model.decoder.layers[0].fc1.weight.mul_(1.2)
    objective.step = 1
    _, logged = compute_gradients(objective, whisper, batch)
    assert logged["clip_share"] > 0
    objective.step = 2
    _, logged = compute_gradients(objective, whisper, batch)
    assert logged["clip_share"] == 0.0


def test_the_greedy_baseline_is_what_the_model_writes(whisper: Whisper, batch: Batch) -> None:
    objective = prepare(Grpo(samples=1, baseline="greedy", kl=0.0, anchor=0.0), whisper, Full())
    gradients, logged = compute_gradients(objective, whisper, batch)
    assert logged["reward_spread"] == 0.0 and largest(gradients) > 0


def test_both_are_prepared_and_cross_entropy_is_not() -> None:
    assert isinstance(Grpo(), Prepared) and isinstance(Mwer(), Prepared)
    assert not isinstance(CrossEntropy(), Prepared)


def test_a_reward_that_is_no_number_names_the_utterance(whisper: Whisper, batch: Batch) -> None:
    objective = prepare(Grpo(samples=2, own=f"{__name__}.broken", **OWN), whisper, Full())
    with pytest.raises(InputError, match=r"objective.rewards.own gave nan for utterance 'utterance 0', hypothesis"):
        objective.loss(whisper, batch)


def test_another_vocabulary_is_refused(nano_folder: Path, real_tokenizer_whisper: Whisper, whisper: Whisper) -> None:
    check_vocabulary(str(nano_folder), whisper.tokens)
    check_vocabulary(None, real_tokenizer_whisper.tokens)
    with pytest.raises(InputError, match=r"objective.reference=.* has another vocabulary"):
        check_vocabulary(str(nano_folder), real_tokenizer_whisper.tokens)


def test_another_model_may_be_the_reference(nano_like: Whisper, batch: Batch, tmp_path: Path) -> None:
    start = awaken(nano_like, seed=5, factor=3.0)
    save_whisper(copy_of(start), tmp_path)
    same = prepare(Grpo(samples=2, kl=1.0, reference=str(tmp_path)), copy_of(start), Full())
    whisper = copy_of(start).eval()
    change(whisper, Full())
    assert abs(compute_gradients(same, whisper, batch)[1]["kl"]) < 1e-5
    assert not [name for name in same.state_dict() if "other" in name]
    silent = replace(batch, waveform=torch.empty(batch.waveform.shape, device="meta"))
    with (
        whisper.recalling(silent.waveform, whisper.encode(batch.waveform)),
        pytest.raises(InputError, match="cache=none"),
    ):
        same.loss(whisper, silent)


def test_a_head_that_writes_has_no_hypotheses(whisper: Whisper) -> None:
    finetune = instantiate(read_settings(FINETUNE / "ctc.yaml") | {"train": []}, _convert_="all")
    with pytest.raises(InputError, match=r"objective=mwer draws hypotheses from the decoder"):
        prepare(Mwer(), whisper, finetune)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grpo(samples=1), r"objective.samples=1: a group of one"),
        (lambda: Grpo(baseline="mean"), r"objective.baseline=mean: accepted are group, greedy"),
        (lambda: Grpo(clip=1.5), r"clip=1.5"),
        (lambda: Grpo(kl=-1), r"kl=-1"),
        (lambda: Grpo(refresh_every=0), r"refresh_every=0"),
        (lambda: Grpo(temperature=0), r"objective.temperature=0 must be above 0"),
        (lambda: Mwer(samples=1), r"objective.samples=1: one hypothesis"),
        (lambda: Mwer(search="greedy"), r"objective.search=greedy: accepted are sample, beam"),
        (lambda: Mwer(anchor=-0.1), r"objective.anchor=-0.1"),
    ],
)
def test_a_setting_that_makes_no_sense(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
