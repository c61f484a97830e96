"""Averages of weights: along a run (EMA), and of its best checkpoints."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor
from whispers import copy_of

from attune.audio.context import AudioContext
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.finetune.layers import Layers
from attune.model.whisper import Whisper
from attune.train.callbacks.checkpoints import Checkpoints, average_checkpoints
from attune.train.callbacks.moving_average import average
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

MakeData = Callable[..., SpeechDataModule]
STEPS, EVERY, DECAY = 6, 2, 0.6


def test_the_average_by_hand() -> None:
    """After 1 step in: d = min(.999, 2 / 11), so 1 * 2 / 11 + 2 * 9 / 11; after many d is the decay."""
    mean = torch.tensor([1.0, 7.0])
    average([mean], [torch.tensor([2.0, 7.0])], torch.tensor(1), decay=0.999)
    assert mean.tolist() == pytest.approx([20 / 11, 7.0])
    mean = torch.tensor([1.0])
    average([mean], [torch.tensor([2.0])], torch.tensor(100_000), decay=0.999)
    assert mean.tolist() == pytest.approx([1.001])
    mean = torch.tensor([1.0])
    average([mean], [torch.tensor([2.0])], torch.tensor(8), decay=0.25)  # 9 / 18 is above the decay
    assert mean.tolist() == pytest.approx([1.75])


def test_what_does_not_change_keeps_its_bits() -> None:
    frozen = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    mean, codes = frozen.clone(), torch.arange(4, dtype=torch.uint8)
    for taken in range(1, 30):
        average([mean, codes], [frozen, codes.clone()], torch.tensor(taken), decay=0.999)
    assert torch.equal(mean, frozen) and codes.tolist() == [0, 1, 2, 3]


class Steps(L.Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        self.seen.append({name: weight.detach().clone() for name, weight in pl_module.named_parameters()})


def run(
    whisper: Whisper, data: SpeechDataModule, folder: Path, steps: int = STEPS, resume: bool = False, **kept: object
) -> tuple[WhisperModule, Steps, Checkpoints]:
    L.seed_everything(7, verbose=False)
    changed, finetune = copy_of(whisper), Layers(["model.decoder.*"])
    finetune.apply(changed.network)
    module = WhisperModule(changed, finetune, CrossEntropy(), steps=STEPS, learning_rate=1e-2)
    seen, checkpoints = Steps(), Checkpoints(folder, **kept)  # type: ignore[arg-type]
    trainer = make_trainer(
        [seen, *checkpoints.callbacks], [MetricsFile(folder)], str(folder), max_steps=steps, validate_every=EVERY,
        log_every=1, accelerator="cpu", devices=1,
    )  # fmt: skip
    path = checkpoints.resume_from if resume else None
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    return module, seen, checkpoints


@pytest.fixture
def fresh_data(make_data: MakeData, nano_like: Whisper) -> Callable[[], SpeechDataModule]:
    return lambda: make_data(nano_like.tokens, AudioContext(), batch_window_s=20, seed=5, workers=0)


def test_a_run_is_validated_saved_and_ended_with_its_average(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    module, steps, checkpoints = run(nano_like, fresh_data(), tmp_path, ema=DECAY)
    expected = steps.seen[0]
    for number, weights in enumerate(steps.seen[1:], start=1):
        d = min(DECAY, (1 + number) / (10 + number))
        expected = {name: d * expected[name] + (1 - d) * weight for name, weight in weights.items()}
    last = torch.load(checkpoints.resume_from, weights_only=True)
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-4)
        assert torch.equal(last["state_dict"][name], weight)
        assert torch.equal(last["current_model_state"][name], steps.seen[-1][name])
    name = "whisper.network.model.decoder.layers.0.fc1.weight"
    assert not torch.equal(last["state_dict"][name], steps.seen[-1][name])
    frozen = "whisper.network.model.encoder.conv1.weight"
    assert torch.equal(last["state_dict"][frozen], nano_like.network.model.encoder.conv1.weight)
    # The validation of the last step was the average's: another pass over it gives the same loss.
    validated = [float(row["val/loss"]) for row in MetricsFile(tmp_path).rows if row.get("val/loss")]
    data = fresh_data()
    losses = [CrossEntropy().loss(module.whisper, batch) for batch in data.val_dataloader()]
    mean = sum(float(terms.total) for terms in losses) / sum(terms.tokens for terms in losses)
    assert mean == pytest.approx(validated[-1], rel=1e-4)


def test_an_averaged_run_resumes_exactly(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    whole, _, _ = run(nano_like, fresh_data(), tmp_path / "whole", ema=DECAY, keep="top2")
    run(nano_like, fresh_data(), tmp_path / "cut", steps=4, ema=DECAY, keep="top2")
    resumed, _, _ = run(nano_like, fresh_data(), tmp_path / "cut", resume=True, ema=DECAY, keep="top2")
    for (name, weight), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, other), name
    states = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "cut")]
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])


def save(path: Path, weights: list[float]) -> Path:
    tied = torch.tensor(weights)
    torch.save({"state_dict": {"embedding": tied, "output": tied, "count": torch.tensor(3)}}, path)
    return path


def test_checkpoints_are_averaged_uniformly_and_tied_weights_once(tmp_path: Path) -> None:
    values = [[1.0, 0.1], [2.0, 0.1], [6.0, 0.1]]
    paths = [save(tmp_path / f"{index}.ckpt", value) for index, value in enumerate(values)]
    mean = average_checkpoints(paths)
    for name in ("embedding", "output"):
        assert mean[name].tolist() == pytest.approx([3.0, 0.1])
    assert int(mean["count"]) == 3
    assert average_checkpoints(paths[1:2])["embedding"].tolist() == torch.tensor([2.0, 0.1]).tolist()


def test_a_run_ends_with_the_mean_of_its_best(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    module, steps, checkpoints = run(nano_like, fresh_data(), tmp_path, keep="top2")
    files = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert "last.ckpt" in files and "before_last.ckpt" in files and len(files) == 4 and "best.ckpt" not in files
    kept = [int(name.removeprefix("top-").removesuffix(".ckpt")) for name in files if name.startswith("top-")]
    assert set(kept) <= {2, 4, 6}
    checkpoints.load_kept(module)
    for name, weight in module.named_parameters():
        mean = (steps.seen[kept[0] - 1][name] + steps.seen[kept[1] - 1][name]) / 2
        torch.testing.assert_close(weight, mean, atol=1e-6, rtol=1e-5)


def test_the_last_weights_stay_where_they_are_kept(
    nano_like: Whisper, fresh_data: Callable[[], SpeechDataModule], tmp_path: Path
) -> None:
    module, steps, checkpoints = run(nano_like, fresh_data(), tmp_path, keep="last")
    checkpoints.load_kept(module)
    assert all(torch.equal(weight, steps.seen[-1][name]) for name, weight in module.named_parameters())


@pytest.mark.parametrize("keep", ["bset", "top", "top0", "3"])
def test_what_cannot_be_kept(keep: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"keep={keep} is not known. Accepted: best, last, top3"):
        Checkpoints(tmp_path, keep)


@pytest.mark.parametrize("decay", [0, 1, -0.5, 999])
def test_a_decay_that_is_none(decay: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ema=.* must be in \(0, 1\)"):
        Checkpoints(tmp_path, ema=decay)
