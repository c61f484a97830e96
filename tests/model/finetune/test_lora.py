"""What the low-rank types adapt, how strongly, and what they refuse; the contract is in test_contract.py."""

from typing import Any

import pytest
import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from whispers import change, copy_of

from attune.errors import InputError
from attune.model.finetune.adalora import Adalora
from attune.model.finetune.adapter import Adapter
from attune.model.finetune.base import regularisation
from attune.model.finetune.ia3 import Ia3
from attune.model.finetune.lora import Lora
from attune.model.finetune.targets import LeanLora
from attune.model.whisper import Whisper

CROSS = {f"model.decoder.layers.{i}.encoder_attn.{part}_proj" for i in (0, 1) for part in ("q", "k", "v", "out")}


def find_adapted(whisper: Whisper) -> dict[str, Any]:
    return {name: part for name, part in whisper.network.named_modules() if isinstance(part, BaseTunerLayer)}


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (["*.encoder_attn.*"], CROSS),
        ("model.encoder.layers.1.fc?", {"model.encoder.layers.1.fc1", "model.encoder.layers.1.fc2"}),
        (["model.decoder.layers.0.self_attn.q_proj"], {"model.decoder.layers.0.self_attn.q_proj"}),
    ],
)
def test_targets_are_patterns(targets: Any, adapted: set[str], nano_like: Whisper) -> None:
    for finetune in (Lora(rank=2, targets=targets), Adalora(rank=2, target_rank=1, targets=targets), Ia3(targets)):
        whisper = copy_of(nano_like)
        finetune.apply(whisper.network)
        assert set(find_adapted(whisper)) == adapted


def test_the_output_that_is_the_embedding_is_left_out(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    Lora(rank=2, targets=["*"]).apply(whisper.network)
    assert len(find_adapted(whisper)) == 2 * 6 + 2 * 10
    assert whisper.network.proj_out.weight is whisper.network.model.decoder.embed_tokens.weight


@pytest.mark.parametrize("finetune", [Lora(targets=[]), Adalora(targets=["q_porj"]), Ia3(targets=["proj_out"])])
def test_targets_that_are_not_there(finetune: Any, nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=r"finetune.targets"):
        finetune.apply(copy_of(nano_like).network)


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 64 / 16), (True, 64 / 4)])
def test_the_scale(stabilised: bool, scale: float, nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    Lora(rank=16, alpha=64, rank_stabilised=stabilised).apply(whisper.network)
    assert {part.scaling["default"] for part in find_adapted(whisper).values()} == {scale}


def test_ia3_scales_the_inside_of_the_feed_forward_part(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    Ia3().apply(whisper.network)
    vectors = {name.rpartition(".")[2]: part.ia3_l["default"] for name, part in find_adapted(whisper).items()}
    shapes = {name: tuple(vector.shape) for name, vector in vectors.items()}
    assert shapes == {"k_proj": (32, 1), "v_proj": (32, 1), "fc2": (1, 128)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, r"finetune.rank is 0"),
        ({"target_rank": 0}, r"finetune.target_rank is 0"),
        ({"rank": 8, "target_rank": 8}, r"finetune.target_rank is 8 and finetune.rank 8.*finetune=lora"),
        ({"start_share": 0.5, "final_share": 0.5}, r"start_share=0.5, final_share=0.5"),
        ({"final_share": -0.1}, r"final_share=-0.1"),
        ({"every": 0}, r"every=0"),
    ],
)
def test_adalora_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Adalora(**arguments)


def test_the_penalty_is_the_distance_from_an_svd(nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), Adalora(rank=4, target_rank=2, orthogonality=0.5)
    assert regularisation(Lora(), whisper.network) == 0.0
    finetune.apply(whisper.network)
    with torch.no_grad():
        for part in find_adapted(whisper).values():
            part.lora_A["default"].copy_(torch.eye(4, part.in_features))
            part.lora_B["default"].copy_(torch.eye(part.out_features, 4))
    assert finetune.regularisation(whisper.network) == 0.0
    with torch.no_grad():
        for part in find_adapted(whisper).values():
            part.lora_A["default"].zero_()  # |0 - I| = sqrt(4), of one matrix in two
    torch.testing.assert_close(finetune.regularisation(whisper.network).detach(), torch.tensor(0.5 * 2 / 2))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("half", [False, True])
def test_fewer_passes_to_the_same_result(dropout: float, half: bool, nano_like: Whisper) -> None:
    """Beside peft's own forward: outputs, and the gradients of A, B and the input."""
    whisper = copy_of(nano_like)
    Lora(rank=4, dropout=dropout).apply(whisper.network)
    layer = next(iter(find_adapted(whisper).values()))
    assert type(layer) is LeanLora
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    sound = torch.randn(2, 5, layer.in_features)
    found = []
    for kind in (LeanLora, lora.Linear):
        layer.__class__ = kind
        x = sound.clone().requires_grad_()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = layer(x)
        output.float().square().mean().backward()
        found.append([output.float(), x.grad, *(each.grad for each in layer.parameters() if each.requires_grad)])
        layer.zero_grad()
    for one, other in zip(*found, strict=True):
        assert ((one - other).norm() / other.norm()) < (2e-2 if half else 1e-5)


def test_what_peft_does_otherwise_is_left_to_it(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    Lora(rank=4).apply(whisper.network)
    layer = next(iter(find_adapted(whisper).values()))
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, layer.in_features)
    adapted, plain = layer(x), layer.get_base_layer()(x)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), plain) and not torch.allclose(adapted, plain)
    layer.enable_adapters(True)
    layer.merge()
    torch.testing.assert_close(layer(x), adapted)


def test_layers_with_an_adapter_behind_them_are_named(nano_like: Whisper) -> None:
    """It said that out_proj matches no linear layer, of which there are six."""
    whisper = copy_of(nano_like)
    change(whisper, Adapter(4))
    with pytest.raises(InputError, match=r"'out_proj' .* an adapter behind them already .*targets=\[q_proj,k_proj"):
        change(whisper, Lora(rank=2))
    change(whisper, Lora(rank=2, targets=["q_proj", "k_proj"]))
