"""cache=encoder: the same steps without the encoder, from states that other runs find again."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from whispers import awaken, copy_of

from attune.audio.context import AudioContext, PackedContext
from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.finetune.full import Full
from attune.model.finetune.gradual import Gradual
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.whisper import Whisper
from attune.train.augmentation import Augmentation
from attune.train.callbacks.encoder_cache import EncoderCache, check_cache, hash_weights
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy, LossTerms
from attune.train.objective.distill import Distill
from attune.train.trainer import make_trainer

MakeData = Callable[..., SpeechDataModule]
CONTEXT = AudioContext()


class Watched(CrossEntropy):
    """Keeps the batches and losses of all steps, and asks for states as any objective does."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.losses: list[float] = []
        self.states: list[Tensor] = []

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        self.states.append(whisper.encode(batch.waveform).detach())
        terms = super().loss(whisper, batch)
        self.batches.append(batch)
        self.losses.append(float(terms.total.detach()) / terms.tokens)
        return terms


class Counting(nn.Module):
    """Counts the log-mels that were made: no sound is heard without one."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.rows = 0

    def forward(self, waveform: Tensor) -> Tensor:
        self.rows += len(waveform)
        return self.inner(waveform)


def run(
    whisper: Whisper,
    data: SpeechDataModule,
    folder: Path,
    cache: EncoderCache,
    augmentation: Augmentation | None = None,
) -> tuple[Watched, WhisperModule, Counting]:
    L.seed_everything(7, verbose=False)
    finetune, objective = Layers(["model.decoder.*"]), Watched()
    changed = copy_of(whisper)
    finetune.apply(changed.network)
    changed.log_mel = counter = Counting(changed.log_mel)  # type: ignore[assignment]
    module = WhisperModule(changed, finetune, objective, steps=8, learning_rate=1e-3, augmentation=augmentation)
    trainer = make_trainer(
        [cache], [MetricsFile(folder)], str(folder), max_steps=8, validate_every=1000, log_every=1,
        accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.limit_val_batches = 0  # what is scored is always encoded
    trainer.fit(module, datamodule=data)
    return objective, module, counter


@pytest.fixture(scope="module")
def whisper(nano_like: Whisper) -> Whisper:
    return awaken(nano_like, seed=5, factor=3.0)


@pytest.fixture
def fresh(make_data: MakeData, whisper: Whisper) -> Callable[..., SpeechDataModule]:
    return lambda seed=5: make_data(whisper.tokens, CONTEXT, batch_window_s=20, seed=seed, workers=0)


def test_steps_read_what_the_encoder_would_have_made(
    whisper: Whisper, fresh: Callable[..., SpeechDataModule], tmp_path: Path
) -> None:
    data = fresh()
    objective, module, counter = run(whisper, data, tmp_path, EncoderCache(str(tmp_path / "cache")))
    assert counter.rows == 24  # each utterance once, before the first step; none in the 8 steps behind it
    assert data.stored is not None and data.stored.draws == 1
    rows = {row["id"]: row for row in data.splits["train"]}
    for batch, states in zip(objective.batches, objective.states, strict=True):
        assert batch.waveform.is_meta and batch.states is not None
        for id, samples, state in zip(batch.ids, batch.lengths.tolist(), states, strict=True):
            assert samples == round(rows[id]["duration_s"] * 16_000)
            waveform = torch.zeros(1, state.shape[0] * 320)
            waveform[0, :samples] = data.waveform("train", id)
            with torch.no_grad():
                (expected,) = whisper.encode(waveform)
            torch.testing.assert_close(state, expected, rtol=2**-8, atol=2e-2 * float(expected.abs().mean()))
    assert module.flops_done > 0 and module.utterances_seen == sum(map(len, objective.batches))


def test_losses_are_those_of_live_states(
    whisper: Whisper, fresh: Callable[..., SpeechDataModule], tmp_path: Path
) -> None:
    data, changed = fresh(), copy_of(whisper)
    cached, _, _ = run(whisper, data, tmp_path, EncoderCache(str(tmp_path / "cache")))
    first = cached.batches[0]
    sounds = torch.zeros(first.waveform.shape)
    for row, id in zip(sounds, first.ids, strict=True):
        sound = data.waveform("train", id)
        row[: len(sound)] = sound
    terms = CrossEntropy().loss_from_states(changed, changed.encode(sounds), first)
    assert float(terms.total.detach()) / terms.tokens == pytest.approx(cached.losses[0], rel=1e-2)


def test_another_run_finds_the_states_again(
    whisper: Whisper, fresh: Callable[..., SpeechDataModule], tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    first, _, _ = run(whisper, fresh(), tmp_path / "one", EncoderCache(cache))
    again, _, counter = run(whisper, fresh(seed=6), tmp_path / "two", EncoderCache(cache))
    assert counter.rows == 0
    assert [batch.ids for batch in again.batches] != [batch.ids for batch in first.batches]
    other = awaken(whisper, seed=9, factor=3.0)
    _, _, counter = run(other, fresh(), tmp_path / "three", EncoderCache(cache))
    assert counter.rows == 24
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_draws_are_heard_in_turn(whisper: Whisper, fresh: Callable[..., SpeechDataModule], tmp_path: Path) -> None:
    sound = {"speed": {"factors": [0.9, 1.1], "share": 1.0}, "gain": {}, "spec_augment": {"time_masks": 1}}
    augmentation = Augmentation(**sound, bpe_dropout=0.3, seed=3)  # type: ignore[arg-type]
    data = fresh()
    cache = EncoderCache(str(tmp_path / "cache"), draws=2)
    objective, _, counter = run(whisper, data, tmp_path / "run", cache, augmentation)
    assert counter.rows == 48 and data.stored is not None and data.stored.draws == 2
    heard: dict[str, list[int]] = {}
    for batch in objective.batches:
        for id, samples in zip(batch.ids, batch.lengths.tolist(), strict=True):
            heard.setdefault(id, []).append(samples)
    lengths = {row["id"]: round(row["duration_s"] * 16_000) for row in data.splits["train"]}
    assert all(samples != lengths[id] for id, all_ in heard.items() for samples in all_)
    # Another seed of the run augments alike: the states are there.
    other = Augmentation(**sound, seed=4)  # type: ignore[arg-type]
    _, _, counter = run(whisper, fresh(seed=8), tmp_path / "again", cache, other)
    assert counter.rows == 0


def test_a_run_goes_on_where_it_stopped(
    whisper: Whisper, fresh: Callable[..., SpeechDataModule], tmp_path: Path
) -> None:
    data = fresh()
    run(whisper, data, tmp_path, EncoderCache(str(tmp_path / "cache"), draws=2))
    start = list(islice(data.training_batches(), 30))
    data.batches_taken = 11
    assert list(islice(data.training_batches(), 19)) == start[11:]
    assert {draw.number for batch in start for draw in batch} == {0, 1}


def test_whoever_listens_to_nothing_fails(whisper: Whisper) -> None:
    nothing = torch.empty(1, 48_000, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)), whisper.recalling(torch.zeros(1), torch.zeros(1, 1)):
        whisper.encode(nothing).sum().item()


def test_the_hash_is_of_the_weights(whisper: Whisper) -> None:
    encoder, same = whisper.network.model.encoder, copy_of(whisper).network.model.encoder
    assert hash_weights(encoder) == hash_weights(same)
    with torch.no_grad():
        same.layers[1].fc1.bias[3] += 1e-6
    assert hash_weights(encoder) != hash_weights(same)


@pytest.mark.parametrize(
    "finetune", [Full(), Lora(), Gradual(stages=2), Layers(["*.bias"])], ids=lambda each: type(each).__name__
)
def test_an_encoder_that_learns_is_refused(
    finetune: Full, whisper: Whisper, make_data: MakeData, tmp_path: Path
) -> None:
    changed = copy_of(whisper)
    finetune.apply(changed.network)
    with pytest.raises(InputError, match=r"of its parameters learn, such as model.encoder"):
        check_cache(EncoderCache(str(tmp_path)), changed.network, make_data(whisper.tokens), None)
    check_cache(None, changed.network, make_data(whisper.tokens), None)


def test_what_cannot_be_stored_is_refused(whisper: Whisper, make_data: MakeData, tmp_path: Path) -> None:
    changed, cache = copy_of(whisper), EncoderCache(str(tmp_path))
    Lora(targets=["model.decoder.*"]).apply(changed.network)
    check_cache(cache, changed.network, make_data(whisper.tokens), None)
    with pytest.raises(InputError, match="context=packed"):
        check_cache(cache, changed.network, make_data(whisper.tokens, PackedContext()), None)
    with pytest.raises(InputError, match="penalty=distill"):
        check_cache(cache, changed.network, make_data(whisper.tokens), Distill())
    with pytest.raises(InputError, match="cache.draws=0"):
        EncoderCache(draws=0)


def test_a_disk_that_is_too_small_is_said(
    whisper: Whisper, fresh: Callable[..., SpeechDataModule], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cache.budget_gb"):
        run(whisper, fresh(), tmp_path / "run", EncoderCache(str(tmp_path / "cache"), budget_gb=1e-6))
