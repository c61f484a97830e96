"""Augmentation in a run: in training steps only, the same when repeated or resumed, off by default."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch import Tensor
from whispers import copy_of, make_batch

from attune.audio.context import AudioContext
from attune.audio.spec_augment import compute_floor
from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.finetune.full import Full
from attune.model.whisper import Whisper
from attune.text.tokens import Segment, Tokens
from attune.train.augmentation import Augmentation, find_timed
from attune.train.callbacks.checkpoints import Checkpoints
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

CONFIGS = Path(__file__).parents[2] / "configs" / "augment"
LENGTHS_S = (1.3, 0.7, 2.6)


def standard(**changed: Any) -> Augmentation:
    settings = yaml.safe_load((CONFIGS / "standard.yaml").read_text())
    del settings["_target_"]
    return Augmentation(**(settings | changed))


def make(tokens: Tokens) -> Batch:
    return make_batch(tokens, 200, lengths_s=LENGTHS_S)


def test_nothing_is_the_default(nano_like: Whisper) -> None:
    settings = yaml.safe_load((CONFIGS / "none.yaml").read_text())
    del settings["_target_"]
    batch = make(nano_like.tokens)
    assert not Augmentation(**settings) and not Augmentation() and standard()
    with Augmentation(**settings).hear(nano_like, batch, step=0) as heard:
        assert heard is batch
    assert settings.keys() == yaml.safe_load((CONFIGS / "standard.yaml").read_text()).keys() - {"_target_"}


def test_a_batch_keeps_its_shapes_and_its_text(nano_like: Whisper) -> None:
    tokens = nano_like.tokens
    batch = make(tokens)
    heard = standard().change(batch, tokens, seed=1)
    assert heard.waveform.shape == batch.waveform.shape and not torch.equal(heard.waveform, batch.waveform)
    assert heard.lengths.shape == batch.lengths.shape and (heard.lengths <= batch.waveform.shape[1]).all()
    assert (heard.ids, heard.references, heard.prefixes) == (batch.ids, batch.references, batch.prefixes)
    for row, text in zip(heard.labels.tolist(), batch.references, strict=True):
        assert tokens.transcript([label for label in row if label >= 0]) == text
    for row, length in zip(heard.waveform, heard.lengths.tolist(), strict=True):
        assert row[length:].abs().sum() == 0


def hear(augmentation: Augmentation, whisper: Whisper, *place: int) -> tuple[Tensor, Tensor]:
    with augmentation.hear(whisper, make(whisper.tokens), *place) as heard:
        return heard.waveform, whisper.log_mel(heard.waveform)


def test_seed_step_part_and_rank_decide_all(nano_like: Whisper) -> None:
    waveform, log_mel = hear(standard(seed=3), nano_like, 5, 1, 0)
    again = hear(standard(seed=3), nano_like, 5, 1, 0)
    assert torch.equal(waveform, again[0]) and torch.equal(log_mel, again[1])
    for seed, *place in ((4, 5, 1, 0), (3, 6, 1, 0), (3, 5, 0, 0), (3, 5, 1, 1)):
        other = hear(standard(seed=seed), nano_like, *place)
        assert not torch.equal(waveform, other[0]) and not torch.equal(log_mel, other[1])


def test_masks_lie_between_log_mel_and_encoder_and_only_inside_the_context(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like).eval()
    batch = make(whisper.tokens)
    plain, states = whisper.log_mel(batch.waveform), whisper.encode(batch.waveform)
    augmentation = Augmentation(spec_augment={"time_masks": 2, "time_frames": 60, "time_share": 0.5, "mel_masks": 0})
    with augmentation.hear(whisper, batch, step=0) as heard:
        masked, again = whisper.log_mel(heard.waveform), whisper.log_mel(heard.waveform)
        assert not torch.equal(whisper.encode(heard.waveform), states)
        alone = whisper.log_mel(heard.waveform[:1])  # an objective's own sound
    assert torch.equal(heard.waveform, batch.waveform)
    assert torch.equal(masked, again)  # however often it is encoded
    changed = masked != plain
    assert changed.any()
    torch.testing.assert_close(masked[changed], compute_floor(plain)[:, None, None].expand_as(plain)[changed])
    assert torch.equal(alone, plain[:1])
    assert torch.equal(whisper.log_mel(batch.waveform), plain)
    assert not whisper.log_mel._forward_hooks


def test_the_masks_go_also_when_a_step_fails(nano_like: Whisper) -> None:
    with pytest.raises(MemoryError), standard().hear(nano_like, make(nano_like.tokens), step=0):
        raise MemoryError
    assert not nano_like.log_mel._forward_hooks


def test_timestamps_keep_their_times(nano_like: Whisper) -> None:
    tokens = nano_like.tokens
    batch = make(tokens)
    sequence = tokens.sequence("No.", "en", segments=[Segment(0.1, 0.6, "No.")])
    labels, ids = batch.labels.clone(), batch.decoder_input_ids.clone()
    labels[1] = -100
    labels[1, : len(sequence.labels)] = torch.tensor(sequence.labels)
    ids[1, : len(sequence.labels)] = torch.tensor(sequence.decoder_input_ids)
    timed = Batch(**{**vars(batch), "labels": labels, "decoder_input_ids": ids})
    assert find_timed(timed.labels, tokens).tolist() == [False, True, False]
    heard = Augmentation(speed={"factors": [1.2]}).change(timed, tokens, seed=0)
    assert heard.lengths.tolist() == [17_334, 11_200, 34_667]  # 20,800 and 41,600 over 1.2, rounded up
    assert torch.equal(heard.waveform[1], timed.waveform[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": {"lowest_db": 3}}, r"augment.noise has no lowest_db. It has: low_db, high_db, folder, share"),
        ({"gain": {"share": 1.5}}, r"augment.gain.share=1.5"),
        ({"noise": {"folder": "nowhere"}}, r"augment.noise.folder=nowhere"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**settings)


class Listening(CrossEntropy):
    """Cross-entropy that remembers what it heard, in training and in validation, and dies."""

    def __init__(self, death: int | None = None):
        super().__init__()
        self.trained: list[Tensor] = []
        self.validated: list[Tensor] = []
        self.death = death

    def loss(self, whisper: Whisper, batch: Batch) -> Any:
        if len(self.trained) == self.death:
            raise MemoryError
        assert whisper.log_mel._forward_hooks
        self.trained.append(batch.waveform.clone())
        return super().loss(whisper, batch)

    def loss_from_states(self, whisper: Whisper, states: Tensor, batch: Batch) -> Any:
        if not whisper.network.training:
            assert not whisper.log_mel._forward_hooks
            self.validated.append(batch.waveform.clone())
        return super().loss_from_states(whisper, states, batch)


MakeData = Callable[..., SpeechDataModule]


def run(
    whisper: Whisper,
    data: SpeechDataModule,
    folder: Path,
    augmentation: Augmentation | None,
    death: int | None = None,
    resume: Path | None = None,
) -> tuple[Listening, WhisperModule]:
    L.seed_everything(7, verbose=False)
    objective, checkpoints = Listening(death), Checkpoints(folder)
    whisper = copy_of(whisper)
    whisper.network.train()
    module = WhisperModule(whisper, Full(), objective, steps=4, learning_rate=1e-3, augmentation=augmentation)
    trainer = make_trainer(
        checkpoints.callbacks, [MetricsFile(folder)], str(folder), max_steps=4, validate_every=2,
        accumulate_grad_batches=2, log_every=1, accelerator="cpu", devices=1,
    )  # fmt: skip
    if death is None:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    else:
        with pytest.raises(MemoryError):
            trainer.fit(module, datamodule=data)
    return objective, module


def test_validation_hears_what_was_recorded_and_a_resumed_run_what_it_would_have_heard(
    nano_like: Whisper, make_data: MakeData, tmp_path: Path
) -> None:
    def data() -> SpeechDataModule:
        return make_data(nano_like.tokens, AudioContext(), batch_window_s=20, seed=5, workers=0)

    recorded = [batch.waveform for batch in data().val_dataloader()]
    whole, finished = run(nano_like, data(), tmp_path / "whole", standard(seed=5))
    assert len(whole.trained) == 8 and len(whole.validated) == 2 * len(recorded)
    assert all(torch.equal(one, other) for one, other in zip(whole.validated, 2 * recorded, strict=True))

    dead, _ = run(nano_like, data(), tmp_path / "cut", standard(seed=5), death=5)
    resumed, again = run(
        nano_like, data(), tmp_path / "cut", standard(seed=5), resume=Checkpoints(tmp_path / "cut").resume_from
    )
    heard = [*dead.trained[:4], *resumed.trained]  # the checkpoint is that of step 2
    assert all(torch.equal(one, other) for one, other in zip(whole.trained, heard, strict=True))
    for (name, weight), other in zip(finished.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name
