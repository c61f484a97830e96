"""Training as Lightning runs it: the loss of a window, learning by heart, resuming, repeating."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader
from whispers import copy_of, make_batch

from attune.audio.context import AudioContext
from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.model.decode import cap_tokens, decode_greedily
from attune.model.finetune.full import Full
from attune.model.whisper import Whisper
from attune.train.callbacks.checkpoints import Checkpoints
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

TEXTS = ("No.", "Yes, please.", "A longer sentence with many more words in it.", "Go.")


def make_module(whisper: Whisper, steps: int, rate: float = 1e-3) -> WhisperModule:
    module = WhisperModule(copy_of(whisper), Full(), CrossEntropy(), steps=steps, learning_rate=rate)
    return module


def make_cpu_trainer(folder: Path, steps: int, callbacks: list[L.Callback] | None = None, **settings: int) -> L.Trainer:
    arguments = {"validate_every": 1000, "log_every": 1} | settings
    return make_trainer(
        callbacks or [], [MetricsFile(folder)], str(folder), max_steps=steps, accelerator="cpu", devices=1, **arguments
    )


class KeepGradients(L.Callback):
    """The gradients as the optimiser finds them, before clipping."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object) -> None:
        named = pl_module.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}


def fit_one_step(whisper: Whisper, batches: list[Batch], folder: Path) -> tuple[WhisperModule, dict[str, torch.Tensor]]:
    module, keep = make_module(whisper, steps=1), KeepGradients()
    trainer = make_cpu_trainer(folder, 1, [keep], accumulate_grad_batches=len(batches))
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return module, keep.gradients


def test_accumulation_weighs_tokens_and_not_micro_batches(nano_like: Whisper, tmp_path: Path) -> None:
    tokens, lengths_s = nano_like.tokens, [0.5, 1.0, 2.5, 0.6]
    whole = make_batch(tokens, 250, TEXTS, lengths_s)
    parts = [make_batch(tokens, 250, [text], [length]) for text, length in zip(TEXTS, lengths_s, strict=True)]
    # make_batch numbers the sounds of each batch from 0: give the parts the very rows of the whole
    parts = [
        Batch(**{**vars(part), "waveform": whole.waveform[i : i + 1], "lengths": whole.lengths[i : i + 1]})
        for i, part in enumerate(parts)
    ]
    one, together = fit_one_step(nano_like, [whole], tmp_path / "one")
    many, summed = fit_one_step(nano_like, parts, tmp_path / "many")
    assert together.keys() == summed.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(summed[name], gradient, atol=1e-5, rtol=1e-4)
    for (name, weight), other in zip(one.named_parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(other, weight, atol=2e-5, rtol=1e-4, msg=name)
    means = [CrossEntropy().loss(nano_like, part) for part in parts]
    mean_of_means = sum(float(terms.total) / terms.tokens for terms in means) / len(means)
    terms = CrossEntropy().loss(nano_like, whole)
    assert abs(mean_of_means - float(terms.total) / terms.tokens) > 1e-4  # so the test could have failed


def test_one_batch_is_learnt_by_heart(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    batch = make_batch(whisper.tokens, 200, TEXTS, [0.8, 1.3, 2.2, 0.6])
    optimizer = torch.optim.AdamW(whisper.parameters(), lr=4e-3)
    loss = float("inf")
    for _ in range(250):
        terms = CrossEntropy().loss(whisper, batch)
        loss = float(terms.total.detach()) / terms.tokens
        if loss < 0.03:
            break
        optimizer.zero_grad()
        (terms.total / terms.tokens).backward()
        optimizer.step()
    assert loss < 0.05
    states = whisper.eval().encode(batch.waveform)
    written = decode_greedily(whisper, states, batch.prefixes, cap_tokens(batch.lengths))
    assert [whisper.tokens.transcript(row) for row in written] == list(TEXTS)


def train(
    whisper: Whisper, data: SpeechDataModule, folder: Path, steps: int, resume: Path | None = None, planned: int = 6
) -> WhisperModule:
    L.seed_everything(7, verbose=False)
    module = make_module(whisper, steps=planned)
    trainer = make_cpu_trainer(folder, steps, Checkpoints(folder).callbacks, validate_every=3)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module


MakeData = Callable[..., SpeechDataModule]


@pytest.fixture
def fresh_data(make_data: MakeData, nano_like: Whisper) -> Callable[[], SpeechDataModule]:
    return lambda: make_data(nano_like.tokens, AudioContext(full_share=0.05), batch_window_s=20, seed=5, workers=0)


def assert_same_weights(one: WhisperModule, other: WhisperModule) -> None:
    for (name, weight), same in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, same), name


def test_a_seed_repeats_a_run_and_a_resumed_run_ends_as_the_uninterrupted_one(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    whole = train(nano_like, fresh_data(), tmp_path / "whole", steps=6)
    again = train(nano_like, fresh_data(), tmp_path / "again", steps=6)
    assert_same_weights(whole, again)

    train(nano_like, fresh_data(), tmp_path / "cut", steps=3)
    last = Checkpoints(tmp_path / "cut").resume_from
    state = torch.load(last, weights_only=True)
    assert state["global_step"] == 3
    resumed = train(nano_like, fresh_data(), tmp_path / "cut", steps=6, resume=last)
    assert_same_weights(whole, resumed)
    steps = [int(row["step"]) for row in MetricsFile(tmp_path / "cut").rows]
    assert steps == sorted(set(steps)) and steps[-1] == 5


def test_validation_decodes_and_the_best_weights_come_back(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    module = train(nano_like, fresh_data(), tmp_path, steps=6)
    rows = [row for row in MetricsFile(tmp_path).rows if row.get("val/wer")]
    assert len(rows) == 2 and all(float(row["val/wer"]) > 0 for row in rows)
    with torch.no_grad():
        module.whisper.network.model.encoder.conv1.bias.fill_(9.0)
    Checkpoints(tmp_path).load_kept(module)
    assert not (module.whisper.network.model.encoder.conv1.bias == 9.0).any()
