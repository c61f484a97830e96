"""Depth from the output, and the types that are made of it: decaying rates and the top blocks."""

import pytest
from whispers import awaken, copy_of

from attune.errors import InputError
from attune.model.finetune.base import parameter_groups
from attune.model.finetune.depth import Depth
from attune.model.finetune.full import Full
from attune.model.finetune.top import Top
from attune.model.whisper import Whisper

DEPTHS = {  # of a Whisper with 2 encoder and 3 decoder blocks
    "model.decoder.layer_norm.bias": 0,
    "model.decoder.layers.2.fc1.weight": 0,
    "model.decoder.layers.1.encoder_attn_layer_norm.weight": 1,
    "model.decoder.layers.0.self_attn_layer_norm.weight": 2,
    "model.decoder.embed_tokens.weight": 2,
    "model.decoder.embed_positions.weight": 2,
    "model.encoder.layer_norm.weight": 3,
    "model.encoder.layers.1.fc2.bias": 3,
    "model.encoder.layers.0.self_attn.q_proj.weight": 4,
    "model.encoder.conv2.weight": 4,
    "model.encoder.conv1.bias": 4,
    "ctc_head.weight": 0,
}


def test_depth_is_counted_from_the_output() -> None:
    assert {name: Depth(encoder=2, decoder=3).of(name) for name in DEPTHS} == DEPTHS


def test_two_figures_are_one_number() -> None:
    assert Depth(encoder=32, decoder=32).of("model.encoder.layers.10.fc1.weight") == 32 + 31 - 10


def test_rates_decay_with_depth(nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), Full(layer_decay=0.5)
    finetune.apply(whisper.network)
    groups = parameter_groups(finetune, whisper.network, 0.01, 1e-3)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    named = dict(whisper.network.named_parameters())
    expected = {"decoder.layers.1.fc1": 1e-3, "decoder.embed_tokens": 5e-4, "encoder.layers.1.fc1": 2.5e-4}
    for name, rate in (expected | {"encoder.conv1": 1.25e-4}).items():
        assert rates[id(named[f"model.{name}.weight"])] == rate


def test_without_decay_there_is_one_rate(nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), Full()
    finetune.apply(whisper.network)
    groups = parameter_groups(finetune, whisper.network, 0.01, 1e-3)
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(1e-3, 0.01), (1e-3, 0.0)}
    assert len(groups) == 2


@pytest.mark.parametrize("layer_decay", [0, -0.5, 1.5])
def test_a_decay_that_is_none(layer_decay: float) -> None:
    with pytest.raises(InputError, match=r"finetune.layer_decay is .*accepted: above 0, up to 1"):
        Full(layer_decay=layer_decay)


def test_the_top_of_one_side(nano_like: Whisper) -> None:
    whisper = awaken(nano_like, seed=1)
    Top(encoder=0, decoder=2).apply(whisper.network)
    learning = {name for name, parameter in whisper.network.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in learning} == {"decoder"}
    assert {"model.decoder.layers.0.fc1.weight", "model.decoder.layer_norm.weight"} <= learning
    assert not [name for name in learning if "embed" in name]


def test_a_top_that_is_not_there(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match="finetune.encoder and finetune.decoder are both 0"):
        Top(encoder=0, decoder=0)
    whisper = copy_of(nano_like)
    before = {name: parameter.requires_grad for name, parameter in whisper.network.named_parameters()}
    with pytest.raises(InputError, match=r"finetune.decoder is 3, but this model's decoder has 2 blocks: give 0 to 2"):
        Top(decoder=3).apply(whisper.network)
    with pytest.raises(InputError, match="finetune.encoder is -1"):
        Top(encoder=-1).apply(whisper.network)
    after = {name: parameter.requires_grad for name, parameter in whisper.network.named_parameters()}
    assert after == before  # a refusal leaves the network alone
