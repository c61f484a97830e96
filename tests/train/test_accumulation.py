"""Eight micro-batches of one utterance are one batch of eight: the gradient is the mean over all of their tokens."""

from collections.abc import Sequence
from dataclasses import replace
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
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

# From 6 to 75 tokens: a mean of the means would weigh a token of "No." twelve times as much as one of the longest.
LONG = "The kitchen door was open, and nobody had watered the garden since the middle of August."
TEXTS = ("No.", LONG, "Yes.", "Seven blue boats.", "Go.", LONG, "", "Three.")
LENGTHS_S = (0.5, 3.9, 0.6, 1.4, 0.4, 3.5, 1.0, 0.7)
Gradients = dict[str, Tensor]


class Watched(WhisperModule):
    """Keeps the gradients that each step of the optimiser uses: divided, and clipped if they are."""

    used: list[Gradients]

    def on_fit_start(self) -> None:
        self.used = []

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's last hook before the step."""
        super().configure_gradient_clipping(*args, **kwargs)
        named = self.whisper.network.named_parameters()
        self.used.append({name: each.grad.clone() for name, each in named if each.grad is not None})


def cut(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch, with its padding."""
    tensors = {
        name: getattr(batch, name)[list(rows)] for name in ("waveform", "lengths", "decoder_input_ids", "labels")
    }
    lists = {
        name: [getattr(batch, name)[row] for row in rows]
        for name in ("ids", "prefixes", "references", "languages", "speakers")
    }
    return replace(batch, **tensors, **lists)


def fit(whisper: Whisper, windows: Sequence[Sequence[Batch]], folder: Path) -> Watched:
    """One optimiser step for each window of micro-batches."""
    module = Watched(copy_of(whisper), Full(), CrossEntropy(), steps=len(windows) + 1, learning_rate=1e-4)
    trainer = make_trainer(
        [], [MetricsFile(folder)], str(folder), max_steps=len(windows), accumulate_grad_batches=len(windows[0]),
        gradient_clip_val=1e9, validate_every=1000, accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch for window in windows for batch in window], batch_size=None))  # type: ignore[arg-type]
    assert len(module.used) == len(windows)
    return module


def compute_gradients(whisper: Whisper, batches: Sequence[Batch], of_means: bool) -> Gradients:
    """By autograd alone: of the mean over all tokens, or of the mean of the batches' means."""
    changed = copy_of(whisper)
    for parameter in changed.network.parameters():
        parameter.grad = None
    Full().apply(changed.network)
    terms = [CrossEntropy().loss(changed, batch) for batch in batches]
    tokens = sum(each.tokens for each in terms)
    means = [each.total / each.tokens / len(terms) if of_means else each.total / tokens for each in terms]
    torch.stack(means).sum().backward()
    return {name: each.grad for name, each in changed.network.named_parameters() if each.grad is not None}


def distance(one: Gradients, other: Gradients) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def whisper(nano_like: Whisper) -> Whisper:
    return awaken(nano_like, seed=5, factor=3.0)


@pytest.fixture(scope="module")
def batch(whisper: Whisper) -> Batch:
    return make_batch(whisper.tokens, 250, TEXTS, LENGTHS_S)


def test_eight_ones_are_one_eight(whisper: Whisper, batch: Batch, tmp_path: Path) -> None:
    ones = [cut(batch, [row]) for row in range(8)]
    counts = [one.supervised for one in ones]
    assert sum(counts) == batch.supervised and max(counts) > 10 * min(counts)
    whole, parts = fit(whisper, [[batch]], tmp_path / "whole"), fit(whisper, [ones], tmp_path / "parts")
    right = compute_gradients(whisper, [batch], of_means=False)
    wrong = compute_gradients(whisper, ones, of_means=True)
    assert distance(whole.used[0], right) < 1e-5
    assert distance(parts.used[0], right) < 1e-5
    assert distance(wrong, right) > 1e-2  # so the mean of the means would have been seen
    # Adam's first step is the gradient's sign times the rate: only signs of what is as good as zero may differ.
    for name, weight in whole.whisper.network.state_dict().items():
        large = right[name].abs() > 1e-5 if name in right else torch.ones_like(weight, dtype=torch.bool)
        torch.testing.assert_close(parts.whisper.network.state_dict()[name][large], weight[large], atol=1e-6, rtol=0)


def test_every_window_counts_its_own_tokens(whisper: Whisper, batch: Batch, tmp_path: Path) -> None:
    """Windows of 83 and 15 tokens after each other: what one has counted must not follow it into the next."""
    windows = [
        [cut(batch, [0]), cut(batch, [1])],
        [cut(batch, [2]), cut(batch, [4])],
        [cut(batch, [5]), cut(batch, [6])],
    ]
    parts = fit(whisper, windows, tmp_path / "parts")
    whole = fit(whisper, [[cut(batch, rows)] for rows in ([0, 1], [2, 4], [5, 6])], tmp_path / "whole")
    for used, expected in zip(parts.used, whole.used, strict=True):
        assert distance(used, expected) < 1e-3 * max(float(each.abs().max()) for each in expected.values())
    assert parts.window_tokens == 0
