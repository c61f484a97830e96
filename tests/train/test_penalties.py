"""Penalties by hand: their values, how they enter the loss, and that a resumed run is held to the same weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from test_accumulation import LENGTHS_S, TEXTS, Watched, cut, distance
from torch.utils.data import DataLoader
from whispers import awaken, copy_of, make_batch

from attune.audio.context import AudioContext
from attune.data.corpora.synthetic import SyntheticCorpus
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.finetune.base import freeze
from attune.model.finetune.full import Full
from attune.model.finetune.layers import Layers
from attune.model.whisper import Whisper
from attune.text.tokens import Tokens
from attune.train.callbacks.checkpoints import Checkpoints
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy, LossTerms
from attune.train.objective.distill import Distill, compute_divergence
from attune.train.objective.ewc import Ewc, compute_fisher
from attune.train.objective.l2sp import L2sp
from attune.train.objective.penalty import anchor, check_penalty
from attune.train.trainer import make_trainer

VOICE = {"accents": ["en-us"], "variants": ["m1"]}
PENALTIES: dict[str, Callable[[], Any]] = {
    "l2sp": lambda: L2sp(alpha=0.5),
    "ewc": lambda: Ewc(weight=20.0, utterances=3),
    "distill": lambda: Distill(weight=0.7, temperature=2.0),
}


@pytest.fixture(params=PENALTIES)
def penalty(request: pytest.FixtureRequest) -> Any:
    return PENALTIES[request.param]()


@pytest.fixture(scope="module")
def whisper(nano_like: Whisper) -> Whisper:
    return awaken(nano_like, seed=5, factor=3.0)


def let_two_learn(whisper: Whisper) -> Whisper:
    """A copy in which 32 + 32 numbers learn: the norms of the encoder's end."""
    changed = copy_of(whisper)
    freeze(changed.network)
    changed.network.model.encoder.layer_norm.requires_grad_(True)
    return changed


def move(whisper: Whisper) -> None:
    """0.5 up with every weight of the norm, 1 down with one of its biases."""
    norm = whisper.network.model.encoder.layer_norm
    with torch.no_grad():
        norm.weight.add_(0.5)
        norm.bias[3].sub_(1.0)


TERMS = LossTerms(torch.tensor(0.0), tokens=7, logged={})


def test_l2sp_by_hand(whisper: Whisper) -> None:
    """0.1 / 2 * (32 * 0.25 + 1) = 0.45 a token, and 7 tokens; the gradient is 0.1 * distance * 7."""
    changed, penalty = let_two_learn(whisper), L2sp(alpha=0.1)
    anchor(penalty, changed, lambda: pytest.fail("no second model is needed"))
    assert float(penalty.loss(changed, None, TERMS)) == 0.0  # type: ignore[arg-type]
    move(changed)
    loss = penalty.loss(changed, None, TERMS)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(7 * 0.45, rel=1e-5)
    loss.backward()
    norm = changed.network.model.encoder.layer_norm
    assert norm.weight.grad.tolist() == pytest.approx([7 * 0.1 * 0.5] * 32, rel=1e-4)
    assert float(norm.bias.grad[3]) == pytest.approx(-7 * 0.1, rel=1e-4)
    assert len(list(penalty.start.buffers())) == 2  # what is frozen is not remembered


def test_ewc_by_hand(whisper: Whisper) -> None:
    """With F = 2 everywhere but 0 for the bias: 3 / 2 * 2 * 32 * 0.25 = 24 a token."""
    changed, penalty = let_two_learn(whisper), Ewc(weight=3.0)
    anchor(penalty, changed, lambda: pytest.fail("no second model is needed"))
    penalty.fisher["model.encoder.layer_norm.weight"].fill_(2.0)
    move(changed)
    assert float(penalty.loss(changed, None, TERMS)) == pytest.approx(7 * 24.0, rel=1e-5)  # type: ignore[arg-type]


def test_the_fisher_is_the_mean_square_of_utterances_a_token(whisper: Whisper) -> None:
    changed = let_two_learn(whisper)
    batch = make_batch(changed.tokens, 250, TEXTS[:3], LENGTHS_S[:3])
    ones = [cut(batch, [row]) for row in range(3)]
    bias = changed.network.model.encoder.layer_norm.bias
    square, tokens = torch.zeros_like(bias), 0
    for one in ones:
        terms = CrossEntropy().loss(changed, one)
        terms.total.backward()
        square += bias.grad.square()  # type: ignore[union-attr]
        bias.grad, tokens = None, tokens + terms.tokens
    changed.network.model.encoder.layer_norm.weight.grad = None
    fisher = compute_fisher(changed, ones)
    torch.testing.assert_close(fisher["model.encoder.layer_norm.bias"], square / tokens)
    assert bias.grad is None  # nothing is left for the optimiser
    assert fisher.keys() == {f"model.encoder.layer_norm.{name}" for name in ("weight", "bias")}


def test_the_fisher_is_estimated_once(whisper: Whisper) -> None:
    changed, penalty = let_two_learn(whisper), Ewc(utterances=1)
    anchor(penalty, changed, lambda: whisper)
    batch = make_batch(changed.tokens, 250, TEXTS[:1], LENGTHS_S[:1])
    penalty.estimate(changed, [batch])
    first = penalty.fisher["model.encoder.layer_norm.bias"].clone()
    assert first.abs().max() > 0
    move(changed)
    penalty.estimate(changed, [])
    assert torch.equal(penalty.fisher["model.encoder.layer_norm.bias"], first)


def test_the_divergence_by_hand() -> None:
    """Teacher (1/2, 1/2), student (4/5, 1/5): KL = ln(5/4) = 0.2231. At T = 2 the student is (2/3, 1/3)."""
    student, teacher = torch.tensor([[math.log(4.0), 0.0]]), torch.tensor([[1.0, 1.0]])
    assert float(compute_divergence(student, teacher, 1.0)) == pytest.approx(math.log(1.25), rel=1e-5)
    at_two = 4 * 0.5 * (math.log(0.5 / (2 / 3)) + math.log(0.5 / (1 / 3)))
    assert float(compute_divergence(student, teacher, 2.0)) == pytest.approx(at_two, rel=1e-5)
    summed = compute_divergence(student.repeat(3, 1), teacher.repeat(3, 1), 1.0)
    assert float(summed) == pytest.approx(3 * math.log(1.25), rel=1e-5)


def test_distillation_starts_at_zero_and_pulls_back(whisper: Whisper) -> None:
    changed, penalty = let_two_learn(whisper), Distill()
    anchor(penalty, changed, lambda: copy_of(whisper))
    batch = make_batch(changed.tokens, 250)
    terms = CrossEntropy().loss(changed, batch)
    assert float(penalty.loss(changed, batch, terms)) == pytest.approx(0.0, abs=1e-4)
    move(changed)
    terms = CrossEntropy().loss(changed, batch)
    assert terms.logits is not None and len(terms.logits) == terms.tokens == batch.supervised
    loss = penalty.loss(changed, batch, terms)
    loss.backward()
    assert float(loss) > 1e-2
    assert all(parameter.grad is None for parameter in penalty.teacher.parameters())
    alone = penalty.loss(changed, batch, LossTerms(terms.total, terms.tokens, {}))  # an objective without logits
    assert float(alone) == pytest.approx(float(loss), rel=1e-4)


def fit(whisper: Whisper, start: Whisper, penalty: Any, batches: list[Any], folder: Path) -> Watched:
    """One optimiser step from `whisper`, held to `start`."""
    changed, held = copy_of(whisper), copy_of(start)
    for network in (changed.network, held.network):
        Full().apply(network)
    anchor(penalty, held, lambda: copy_of(start))
    if isinstance(penalty, Ewc):
        penalty.estimate(held, [make_batch(held.tokens, 250, TEXTS[:1], LENGTHS_S[:1])])
    module = Watched(changed, Full(), CrossEntropy(), steps=2, learning_rate=1e-4, penalty=penalty)
    trainer = make_trainer(
        [], [MetricsFile(folder)], str(folder), max_steps=1, accumulate_grad_batches=len(batches),
        gradient_clip_val=1e9, validate_every=1000, log_every=1, accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return module


def test_eight_ones_are_one_eight_with_a_penalty(
    penalty: Any, whisper: Whisper, nano_like: Whisper, tmp_path: Path
) -> None:
    """From other weights than the start, so that the penalty counts."""
    kind = type(penalty).__name__.lower()
    batch = make_batch(whisper.tokens, 250, TEXTS, LENGTHS_S)
    whole = fit(whisper, nano_like, penalty, [batch], tmp_path / "whole")
    ones = [cut(batch, [row]) for row in range(8)]
    parts = fit(whisper, nano_like, PENALTIES[kind](), ones, tmp_path / "parts")
    size = max(float(each.abs().max()) for each in whole.used[0].values())
    assert distance(whole.used[0], parts.used[0]) < 1e-4 * max(size, 0.1)
    without = fit(whisper, nano_like, None, [batch], tmp_path / "without")
    assert distance(whole.used[0], without.used[0]) > 1e-3
    logged, plain = (MetricsFile(tmp_path / name).rows[0] for name in ("whole", "without"))
    assert float(logged["train/penalty"]) > 0 and not plain.get("train/penalty")
    assert float(logged["train/loss"]) == pytest.approx(float(plain["train/loss"]), rel=1e-5)  # by itself


@pytest.fixture(scope="module")
def replaying(speech_cache: str) -> SyntheticCorpus:
    return SyntheticCorpus(
        {
            "train": {"utterances": 12, **VOICE},
            "validation": {"utterances": 2, "split": "validation", **VOICE},
            "test": {"utterances": 2, "split": "test", **VOICE},
        },
        cache_dir=speech_cache,
        replay={"utterances": 5, **VOICE},
    )


def train(
    start: Whisper, penalty: Any, corpus: SyntheticCorpus, folder: Path, steps: int, resume: Path | None = None
) -> WhisperModule:
    L.seed_everything(7, verbose=False)
    whisper = copy_of(start)
    Full().apply(whisper.network)
    anchor(penalty, whisper, lambda: copy_of(start))
    data = SpeechDataModule(
        corpus, whisper.tokens, AudioContext(), batch_window_s=10, workers=0, extras=penalty.needs, seed=2
    )
    data.prepare()
    module = WhisperModule(whisper, Full(), CrossEntropy(), steps=6, learning_rate=1e-3, penalty=penalty)
    trainer = make_trainer(
        Checkpoints(folder).callbacks, [MetricsFile(folder)], str(folder), max_steps=steps, validate_every=3,
        log_every=1, accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module


def test_a_resumed_run_is_held_to_the_same_weights(
    penalty: Any, nano_like: Whisper, replaying: SyntheticCorpus, tmp_path: Path
) -> None:
    """Even where the model that it once started from has become another one meanwhile."""
    kind = type(penalty).__name__.lower()
    whole = train(nano_like, penalty, replaying, tmp_path / "whole", steps=6)
    train(nano_like, PENALTIES[kind](), replaying, tmp_path / "cut", steps=3)
    other = awaken(nano_like, seed=9)
    last = Checkpoints(tmp_path / "cut").resume_from
    resumed = train(other, PENALTIES[kind](), replaying, tmp_path / "cut", steps=6, resume=last)
    one, two = whole.state_dict(), resumed.state_dict()
    assert one.keys() == two.keys() and any(name.startswith("penalty.") for name in one)
    for name, weight in one.items():
        assert torch.equal(weight, two[name]), name
    rows = MetricsFile(tmp_path / "cut").rows
    assert len([row for row in rows if row.get("train/penalty")]) == 6


class NewVocabulary(Layers):
    def change_tokens(self, tokens: Tokens, transcripts: Any) -> Tokens:
        return tokens


@pytest.mark.parametrize(
    ("penalty", "finetune", "is_scratch", "message"),
    [
        (Distill(), NewVocabulary(["*"]), False, r"penalty=distill compares .* NewVocabulary changes the vocabulary"),
        (Distill(), Full(), True, r"penalty=distill .* model=scratch has none"),
        (L2sp(), Layers(["*"], rate_factor=0.0), False, r"penalty=l2sp .* nothing does"),
    ],
)
def test_what_cannot_be_held_is_refused(penalty: Any, finetune: Any, is_scratch: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_penalty(penalty, finetune, is_scratch)
    check_penalty(None, finetune, is_scratch)
    check_penalty(L2sp(), NewVocabulary(["*"]), True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L2sp(alpha=-1), r"penalty.alpha=-1"),
        (lambda: Ewc(weight=-1), r"penalty.weight=-1"),
        (lambda: Ewc(utterances=0), r"penalty.utterances=0"),
        (lambda: Distill(temperature=0), r"penalty.temperature=0 must be above 0"),
        (lambda: Distill(weight=-0.5), r"penalty.weight=-0.5"),
    ],
)
def test_a_setting_that_makes_no_sense(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
