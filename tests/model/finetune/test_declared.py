"""Which parameters each type lets learn, by name; counts alone could be right by accident."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from whispers import awaken, change, make_batch, read_settings

from attune.model.finetune.base import parameter_groups
from attune.model.finetune.layers import Layers
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.objective.joint_ctc import JointCtc

FOLDER = Path(__file__).parents[3] / "configs" / "finetune"
WHISPER = r"model\.(?!encoder\.embed_positions)"  # all but the encoder's constant
LINEAR = r"((self|encoder)_attn\.(q|k|v|out)_proj|fc[12])"
BLOCK = r"model\.(en|de)coder\.layers"
LEARN = {  # full match of a parameter's name
    "full": rf"{WHISPER}.*",
    "layers": r"model\.decoder\..*",
    "encoder": r"model\.encoder\.(?!embed_positions).*",
    "decoder": r"model\.decoder\..*",
    "top": rf"{BLOCK}\.1\..*|model\.(en|de)coder\.layer_norm\..*",  # of two blocks a side
    "cross_attention": r"model\.decoder\.layers\.\d+\.encoder_attn(_layer_norm)?\..*",
    "embeddings": r"model\.decoder\.embed_(tokens|positions)\.weight",
    "bias": r"model\..*(\.bias|layer_norm\.weight)",
    "none": "",
    "gradual": rf"{WHISPER}.*",
    "adapter": rf"{BLOCK}\.\d+\.((self|encoder)_attn\.out_proj|fc2)\.adapter\.(down|up)\.(weight|bias)",
    "added_layers": rf"{BLOCK}\.2\..*",  # behind two blocks a side
    "lora": rf"model\.(en|de)coder\.layers\.\d+\.{LINEAR}\.lora_[AB]\.default\.weight",
    "dora": rf"{BLOCK}\.\d+\.{LINEAR}\.(lora_[AB]|lora_magnitude_vector)\.default\.weight",
    "adalora": rf"{BLOCK}\.\d+\.{LINEAR}\.lora_[ABE]\.default",
    "ia3": rf"{BLOCK}\.\d+\.((self|encoder)_attn\.[kv]_proj|fc2)\.ia3_l\.default",
    "new_tokens": rf"model\.decoder\.embed_tokens\.new|{BLOCK}\.\d+\.{LINEAR}\.lora_[AB]\.default\.weight",
    "prompt": rf"{BLOCK}\.\d+\.self_attn\.soft_prompt\.(keys|values)",
    "new_head": rf"{WHISPER}.*",
    "ctc": rf"{WHISPER}.*|ctc_head\.(weight|bias)",
}
TYPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def build(name: str) -> Any:
    return instantiate(read_settings(FOLDER / f"{name}.yaml"), _convert_="all")


def test_every_type_says_what_learns() -> None:
    assert sorted(LEARN) == TYPES


@pytest.mark.parametrize("name", [name for name in TYPES if LEARN[name]])
def test_these_learn_and_no_others(name: str, any_whisper: Whisper) -> None:
    """After two steps: before the first one, half of a low-rank update is zero and the other half has no gradient."""
    whisper, finetune = awaken(any_whisper, seed=6, factor=3.0), build(name)
    change(whisper, finetune)
    batch = make_batch(whisper.tokens, 200)
    objective = JointCtc() if name == "ctc" else CrossEntropy()
    groups = parameter_groups(finetune, whisper.network, 0.01, 1e-3)
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        for parameter in whisper.network.parameters():
            parameter.grad = None
        terms = objective.loss(whisper, batch)
        losses.append(float(terms.total))
        terms.total.backward()
        learning = {key for key, parameter in whisper.network.named_parameters() if parameter.grad is not None}
        optimizer.step()
    assert losses[1] < losses[0]  # one step, on its own batch
    named = dict(whisper.network.named_parameters())
    assert learning == {key for key in named if re.fullmatch(LEARN[name], key)}
    still = [key for key in learning if not named[key].grad.abs().max() > 0]  # type: ignore[union-attr]
    # A bias of the keys would learn nothing, because softmax does not see it; Whisper has none.
    assert not still
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(named[key]) for key in learning}
    assert len(grouped) == len(learning)
    undecayed = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    vectors = [key for key in learning if named[key].squeeze().ndim < 2 or "embed_positions" in key]
    assert undecayed == {id(named[key]) for key in vectors}


def test_frozen_patterns_stay_frozen(nano_like: Whisper) -> None:
    whisper = awaken(nano_like, seed=1)
    Layers(["model.decoder.*", "*.bias"], freeze=["*.encoder_attn.*"]).apply(whisper.network)
    learning = {key for key, parameter in whisper.network.named_parameters() if parameter.requires_grad}
    assert "model.encoder.conv1.bias" in learning and "model.encoder.conv1.weight" not in learning
    assert "model.decoder.layers.0.fc1.weight" in learning
    assert not [key for key in learning if ".encoder_attn." in key]
    assert "model.encoder.embed_positions.weight" not in learning
