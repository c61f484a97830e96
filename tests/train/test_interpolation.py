"""Between the untouched and the trained model: the way, the choice, and what has no such way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor
from whispers import awaken, copy_of, read_settings

from attune.audio.context import AudioContext
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.finetune.adapter import Adapter
from attune.model.finetune.base import ChangesTokens, Unmergeable, merge_additions
from attune.model.finetune.full import Full
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.whisper import Whisper
from attune.train.interpolation import (
    Interpolation,
    Point,
    choose,
    describe_rule,
    make_interpolation,
    pair_weights,
    place,
)
from attune.train.loggers import MetricsFile
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.scoring import score
from attune.train.trainer import make_trainer

MakeData = Callable[..., SpeechDataModule]
FOLDER = Path(__file__).parents[2] / "configs" / "finetune"
TYPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def make_point(alpha: float, validation: float, *retention: float) -> Point:
    return Point(alpha, {"validation": validation, "test": 0.0} | {f"r{i}": wer for i, wer in enumerate(retention)})


@pytest.mark.parametrize(
    ("points", "limit", "chosen"),
    [
        ([(0, 0.9, 0.10), (0.5, 0.5, 0.105), (1, 0.3, 0.2)], 0.01, 0.5),  # the best of all forgets too much
        ([(0, 0.9, 0.10), (0.5, 0.5, 0.105), (1, 0.3, 0.2)], 0.1, 1),
        ([(0, 0.9, 0.10), (0.5, 0.5, 0.11), (1, 0.3, 0.2)], 0.01, 0.5),  # exactly one point
        ([(0, 0.9, 0.10), (0.5, 0.5, 0.12), (1, 0.3, 0.2)], 0.01, 0),
        ([(0, 0.4, 0.10), (0.5, 0.5, 0.10), (1, 0.6, 0.10)], 0.01, 0),  # training has harmed
        ([(0, 0.9, 0.10), (0.5, 0.3, 0.05), (1, 0.3, 0.05)], 0.0, 0.5),  # of equals the nearest
        ([(0, 0.9, 0.10, 0.1), (0.5, 0.5, 0.02, 0.2), (1, 0.3, 0.2, 0.1)], 0.01, 0),  # every panel counts
        ([(0, 0.9, float("nan")), (1, 0.3, float("nan"))], 0.01, 1),  # a panel without speech says nothing
    ],
)
def test_the_choice(points: list[tuple[float, ...]], limit: float, chosen: float) -> None:
    judged = [f"r{index}" for index in range(len(points[0]) - 2)]
    assert choose([make_point(*point) for point in points], judged, limit).alpha == chosen


def test_the_rule_says_on_what_it_looked() -> None:
    assert "This corpus has no" not in describe_rule(["retention_validation/us"], 0.01)
    said = describe_rule(["retention/us", "retention/uk"], 0.005)
    assert "retention/us and retention/uk is at most 0.5 points" in said
    assert "is at most 1 point above" in describe_rule(["retention/us"], 0.01)
    assert "looked at the very retention panels that are reported" in said


def test_the_way_by_hand(nano_like: Whisper) -> None:
    start, end = copy_of(nano_like).network, awaken(nano_like, seed=4).network
    network = copy_of(nano_like).network
    network.load_state_dict(end.state_dict())
    ends = pair_weights(start, network)
    for alpha in (0.25, 1.0, 0.0):
        place(network, ends, alpha)
        for (name, weight), one, two in zip(
            network.named_parameters(), start.parameters(), end.parameters(), strict=True
        ):
            torch.testing.assert_close(weight, (1 - alpha) * one + alpha * two, msg=name)
            assert alpha == 0.25 or torch.equal(weight, two if alpha else one)
    assert network.proj_out.weight.data_ptr() == network.model.decoder.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("name", TYPES)
def test_a_type_has_a_way_unless_it_says_that_it_has_none(name: str, nano_like: Whisper) -> None:
    """Merged, it has the untouched model's weights, of the same names and shapes."""
    finetune = instantiate(read_settings(FOLDER / f"{name}.yaml"), _convert_="all")
    if isinstance(finetune, ChangesTokens) or not finetune.rate_factor:
        return  # refused for that
    whisper = copy_of(nano_like)
    finetune.apply(whisper.network)
    merge_additions(finetune, whisper.network)
    if isinstance(finetune, Unmergeable):
        with pytest.raises(InputError, match="is not the same"):
            pair_weights(nano_like.network, whisper.network)
    else:
        names = {key for key, _ in nano_like.network.named_parameters()}
        assert pair_weights(nano_like.network, whisper.network).keys() == names


class NewVocabulary(Layers):
    def change_tokens(self, tokens: Any, transcripts: Any) -> Any:
        return tokens


@pytest.mark.parametrize(
    ("finetune", "is_scratch", "message"),
    [
        (Full(), True, r"model=scratch has none"),
        (Layers(["*"], rate_factor=0.0), False, r"finetune Layers trains nothing"),
        (NewVocabulary(["*"]), False, r"same weights at both ends, and finetune NewVocabulary changes the vocabulary"),
        (Adapter(), False, r"same weights at both ends, and finetune Adapter adds adapters. Take"),
    ],
)
def test_what_has_no_way_is_refused(
    finetune: Any, is_scratch: bool, message: str, make_data: MakeData, nano_like: Whisper
) -> None:
    data, path = make_data(nano_like.tokens), Interpolation([0.5])
    with pytest.raises(InputError, match=message):
        path.check(finetune, data, is_scratch)
    path.check(Lora(), data, is_scratch=False)
    data.splits = {name: split for name, split in data.splits.items() if "retention" not in name}
    with pytest.raises(InputError, match=r"no retention panel. Give \+data.retention.NAME=FILE"):
        path.check(Full(), data, is_scratch=False)


@pytest.mark.parametrize("alphas", [[], [1.5], [0.5, -0.1], 0.5, "half", [True], ["a"]])
def test_shares_that_are_none(alphas: Any) -> None:
    with pytest.raises(InputError, match=r"interpolate=.* list of shares in \[0, 1\]"):
        make_interpolation(alphas, 0.01)
    assert make_interpolation(None, 0.01) is None


@pytest.mark.parametrize("finetune", [Full(), Lora(rank=2, alpha=2)])
def test_a_run_ends_on_the_way(finetune: Any, make_data: MakeData, nano_like: Whisper, tmp_path: Path) -> None:
    """The untouched model is not scored again; the chosen weights are in the module, and theirs are the scores."""
    data = make_data(nano_like.tokens, AudioContext(), workers=0)
    whisper = copy_of(nano_like)
    finetune.apply(whisper.network)
    module = WhisperModule(whisper, finetune, CrossEntropy(), steps=1, learning_rate=1e-2)
    trainer = make_trainer([], [MetricsFile(tmp_path)], str(tmp_path), max_steps=1, accelerator="cpu", devices=1)
    untouched = score(trainer, module, data, data.panels)
    with torch.no_grad():  # instead of training
        for parameter in whisper.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    path = Interpolation([1, 0.5], limit=10.0)
    tuned, record = path.run(trainer, module, data, copy_of(nano_like).network, untouched)
    assert [point["alpha"] for point in record["points"]] == [0.0, 0.5, 1.0]
    assert all(list(point["wer"]) == ["validation", "retention/us", "test"] for point in record["points"])
    assert record["judged"] == ["retention/us"] and "looked at the very" in record["rule"]
    assert record["points"][0]["wer"]["test"] == untouched.panels["test"].wer
    best = min(record["points"], key=lambda point: (point["wer"]["validation"], point["alpha"]))
    assert record["chosen"] == best["alpha"]
    assert list(tuned.panels) == data.panels
    assert tuned.panels["test"].wer == best["wer"]["test"]
    again = score(trainer, module, data, ["test"])
    assert [each.hypothesis for each in again.predictions["test"]] == [
        each.hypothesis for each in tuned.predictions["test"]
    ]
    weights: dict[str, Tensor] = dict(module.whisper.network.named_parameters())
    assert weights.keys() == dict(nano_like.network.named_parameters()).keys()
