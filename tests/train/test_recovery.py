"""Out of memory in the middle of a run: smaller parts, the same steps, and every utterance heard."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from whispers import awaken, copy_of, make_batch

from attune.data.batch import Batch
from attune.model.finetune.full import Full
from attune.model.whisper import Whisper
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy, LossTerms
from attune.train.recovery import is_out_of_memory
from attune.train.trainer import make_trainer

LONG = "The kitchen door was open, and nobody had watered the garden."
TEXTS = ("No.", LONG, "Yes.", "Seven blue boats.", "Go.", "Ten.")
LENGTHS_S = (0.5, 3.9, 0.6, 1.4, 0.4, 0.9)
ACCUMULATED = 2


class Explodes(torch.autograd.Function):
    """The identity, whose backward pass finds no memory."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB (injected)")


class Cramped(CrossEntropy):
    """Finds no memory for more than `rows` rows from the micro-batch `from_batch` on; counts what it was given."""

    def __init__(self, rows: int, from_batch: int, inside: str):
        super().__init__()
        self.rows, self.from_batch, self.inside = rows, from_batch, inside
        self.heard: list[int] = []

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        is_cramped = len(self.heard) >= self.from_batch and len(batch) > self.rows
        self.heard.append(len(batch))
        if is_cramped and self.inside == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        if not (is_cramped and self.inside == "backward"):
            return super().loss(whisper, batch)
        # Deep in the backward pass: the decoder's parameters have their gradients already, the encoder's have not.
        states = Explodes.apply(whisper.encode(batch.waveform))
        return self.loss_from_states(whisper, states, batch)


class Watched(WhisperModule):
    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.used: list[dict[str, Tensor]] = []

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(*args, **kwargs)
        named = self.whisper.network.named_parameters()
        self.used.append({name: each.grad.clone() for name, each in named if each.grad is not None})


@pytest.fixture(scope="module")
def whisper(nano_like: Whisper) -> Whisper:
    return awaken(nano_like, seed=5, factor=3.0)


def fit(whisper: Whisper, objective: CrossEntropy, folder: Path, steps: int = 3) -> Watched:
    batch = make_batch(whisper.tokens, 250, TEXTS, LENGTHS_S)
    module = Watched(copy_of(whisper), Full(), objective, steps=steps + 1, learning_rate=1e-4)
    trainer = make_trainer(
        [], [MetricsFile(folder)], str(folder), max_steps=steps, accumulate_grad_batches=ACCUMULATED,
        gradient_clip_val=1e9, validate_every=1000, log_every=1, accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch] * (ACCUMULATED * steps), batch_size=None))  # type: ignore[arg-type]
    return module


@pytest.mark.parametrize("inside", ["forward", "backward"])
@pytest.mark.parametrize(("rows", "from_batch", "parts"), [(3, 0, 2), (3, 3, 2), (1, 3, 8), (2, 2, 4)])
def test_no_utterance_and_no_step_is_lost(
    inside: str, rows: int, from_batch: int, parts: int, whisper: Whisper, tmp_path: Path, caplog: Any
) -> None:
    whole = fit(whisper, CrossEntropy(), tmp_path / "whole")
    with caplog.at_level(logging.WARNING):
        cramped = fit(whisper, Cramped(rows, from_batch, inside), tmp_path / "cramped")
    assert cramped.recovery.parts == parts
    assert "no utterance lost" in caplog.text
    assert cramped.utterances_seen == whole.utterances_seen == 3 * ACCUMULATED * len(TEXTS)
    assert cramped.audio_seen_s == pytest.approx(whole.audio_seen_s)
    assert len(cramped.used) == len(whole.used) == 3
    for used, expected in zip(cramped.used, whole.used, strict=True):
        largest = max(float(each.abs().max()) for each in expected.values())
        assert used.keys() == expected.keys()
        assert max(float((used[name] - expected[name]).abs().max()) for name in used) < 1e-3 * largest


def test_one_utterance_that_does_not_fit_ends_the_run(whisper: Whisper, tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="injected") as caught:
        fit(whisper, Cramped(0, 2, "forward"), tmp_path)
    assert any("single utterance" in note for note in caught.value.__notes__)


def test_another_fault_is_no_lack_of_memory(whisper: Whisper, tmp_path: Path) -> None:
    class Faulty(CrossEntropy):
        def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        fit(whisper, Faulty(), tmp_path)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 9"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
    ],
)
def test_what_is_a_lack_of_memory(error: RuntimeError, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_real_lack_of_memory_on_a_cpu_is_seen() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_batches_are_cut_by_rows(whisper: Whisper) -> None:
    batch = make_batch(whisper.tokens, 250, TEXTS, LENGTHS_S)
    for parts, sizes in ((1, [6]), (2, [3, 3]), (4, [2, 2, 2]), (8, [1] * 6)):
        cut = batch.cut(parts)
        assert [len(each) for each in cut] == sizes
        assert [id for each in cut for id in each.ids] == batch.ids
        assert sum(each.supervised for each in cut) == batch.supervised
        assert torch.equal(torch.cat([each.waveform for each in cut]), batch.waveform)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_in_chunks_are_the_same_loss(
    smoothing: float, any_whisper: Whisper, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = awaken(any_whisper, seed=2, factor=2.0)
    Full().apply(changed.network)
    batch = make_batch(changed.tokens, 250, TEXTS, LENGTHS_S)
    found = []
    for tokens_at_once in (10**6, 7):
        size = 4 * changed.network.config.vocab_size * tokens_at_once
        monkeypatch.setattr("attune.train.objective.cross_entropy.LOGITS_BYTES", size)
        changed.zero_grad()
        terms = CrossEntropy(smoothing).loss(changed, batch)
        terms.total.backward()
        named = changed.network.named_parameters()
        found.append((terms, {name: each.grad.clone() for name, each in named if each.grad is not None}))
    (whole, expected), (chunked, gradients) = found
    assert whole.tokens == chunked.tokens == batch.supervised
    assert whole.logits is not None and chunked.logits is None
    torch.testing.assert_close(chunked.total, whole.total, rtol=1e-5, atol=0)
    largest = max(float(each.abs().max()) for each in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * largest)
