"""Training as Lightning runs it: learning by heart, repeating, keeping the best."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from whispers import copy_of, make_batch

from attune.audio.context import AudioContext
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.decode import cap_tokens, decode_greedily
from attune.model.finetune.adalora import Adalora
from attune.model.finetune.full import Full
from attune.model.finetune.lora import Lora
from attune.model.whisper import Whisper
from attune.train.callbacks.checkpoints import Checkpoints
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.objective.joint_ctc import JointCtc
from attune.train.trainer import make_trainer

TEXTS = ("No.", "Yes, please.", "A longer sentence with many more words in it.", "Go.")


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
    written = decode_greedily(
        whisper, states, batch.prefixes, cap_tokens(whisper.tokens, batch.prefixes, batch.lengths)
    )
    assert [whisper.tokens.transcript(row) for row in written] == list(TEXTS)


def train(
    whisper: Whisper, data: SpeechDataModule, folder: Path, steps: int = 6, resume_from: Path | None = None
) -> WhisperModule:
    L.seed_everything(7, verbose=False)
    module = WhisperModule(copy_of(whisper), Full(), CrossEntropy(), steps=steps, learning_rate=1e-3)
    callbacks, loggers = Checkpoints(folder).callbacks, [MetricsFile(folder)]
    trainer = make_trainer(
        callbacks, loggers, str(folder), max_steps=steps, validate_every=3, accumulate_grad_batches=2, log_every=1,
        accelerator="cpu", devices=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    return module


MakeData = Callable[..., SpeechDataModule]


@pytest.fixture
def fresh_data(make_data: MakeData, nano_like: Whisper) -> Callable[[], SpeechDataModule]:
    return lambda: make_data(nano_like.tokens, AudioContext(), batch_window_s=20, seed=5, workers=0)


def test_a_seed_repeats_a_run(nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path) -> None:
    one, other = (train(nano_like, fresh_data(), tmp_path / name) for name in ("one", "other"))
    for (name, weight), same in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, same), name


def test_validation_decodes_and_the_best_weights_come_back(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    module = train(nano_like, fresh_data(), tmp_path)
    rows = [row for row in MetricsFile(tmp_path).rows if row.get("val/wer")]
    assert len(rows) == 2 and all(float(row["val/wer"]) > 0 for row in rows)
    with torch.no_grad():
        module.whisper.network.model.encoder.conv1.bias.fill_(9.0)
    Checkpoints(tmp_path).load_kept(module)
    assert not (module.whisper.network.model.encoder.conv1.bias == 9.0).any()


def validated(folder: Path) -> list[int]:
    return [int(row["step"]) + 1 for row in MetricsFile(folder).rows if row.get("val/wer")]


def test_the_last_step_is_validated_whatever_their_number(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    """Else what the last steps taught would be thrown away for the weights of an earlier validation."""
    train(nano_like, fresh_data(), tmp_path / "few", steps=2)
    assert validated(tmp_path / "few") == [2] and (tmp_path / "few" / "checkpoints" / "best.ckpt").is_file()
    train(nano_like, fresh_data(), tmp_path / "odd", steps=5)
    assert validated(tmp_path / "odd") == [3, 5]
    train(nano_like, fresh_data(), tmp_path / "odd", steps=5, resume_from=Checkpoints(tmp_path / "odd").resume_from)
    assert validated(tmp_path / "odd") == [3, 5]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_fused_optimiser_lets_gradients_be_clipped(
    precision: str, nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    """Lightning takes a fused optimiser for one that unscales by itself, and would refuse in 16 bits."""
    module = WhisperModule(copy_of(nano_like), Full(), CrossEntropy(), steps=6, learning_rate=1e-3)
    trainer = make_trainer(
        Checkpoints(tmp_path).callbacks, [], str(tmp_path), max_steps=2, validate_every=10**6, accelerator="cpu",
        devices=1, precision=precision, gradient_clip_val=0.01,
    )  # fmt: skip
    trainer.limit_val_batches = 0  # it would clear the gradients
    trainer.fit(module, datamodule=fresh_data())
    assert all(group["fused"] for group in trainer.optimizers[0].param_groups)
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda whisper: WhisperModule(whisper, Full(), CrossEntropy(), 1, learning_rate=0.0), r"learning_rate=0 must"),
        (
            lambda whisper: WhisperModule(whisper, Full(), CrossEntropy(), 1, rate_share=-1),
            r"rate_share=-1 must be abo",
        ),
        (lambda whisper: WhisperModule(whisper, Full(), CrossEntropy(), 1, betas=(2, 3)), r"optimizer.betas=\[2, 3\]"),
        (
            lambda _: CrossEntropy(label_smoothing=1.5),
            r"objective.label_smoothing=1.5: accepted is a share in \[0, 1\)",
        ),
        (lambda _: JointCtc(weight=3), r"objective.weight=3: accepted is CTC's share of the loss, in \[0, 1\]"),
        (lambda _: Lora(dropout=2), r"finetune.dropout=2: accepted is a share in \[0, 1\)"),
        (lambda _: Adalora(dropout=1), r"finetune.dropout=1: accepted"),
        (lambda _: make_trainer([], [], ".", precision="bf16-true"), r"trainer.precision=bf16-true: accepted are auto"),
        (
            lambda _: make_trainer([], [], ".", accumulate_grad_batches=0),
            r"trainer.accumulate_grad_batches=0: accepted",
        ),
        (
            lambda _: make_trainer([], [], ".", validate_every=0),
            r"trainer.validate_every=0: accepted are whole numbers, 1 and more",
        ),
    ],
)
def test_what_makes_no_sense_is_said_with_its_key(
    make: Callable[[Whisper], object], message: str, nano_like: Whisper
) -> None:
    with pytest.raises(InputError, match=message):
        make(nano_like)
