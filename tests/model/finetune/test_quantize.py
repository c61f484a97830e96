"""A quantised base: what is refused, and what holds whatever packs the weights. With bitsandbytes itself: on a GPU."""

from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from whispers import awaken, make_batch

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.finetune import quantize
from attune.model.finetune.adalora import Adalora
from attune.model.finetune.base import apply_finetuning, merge_additions, regularisation
from attune.model.finetune.ia3 import Ia3
from attune.model.finetune.lora import Lora
from attune.model.finetune.quantize import QuantizedLinear
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import CrossEntropy

TYPES = {
    "lora": lambda: Lora(rank=4, targets=["q_proj", "fc1"]),
    "dora": lambda: Lora(rank=4, dora=True),
    "adalora": lambda: Adalora(rank=4, target_rank=2),
    "ia3": lambda: Ia3(),
}


@pytest.mark.parametrize("build", [Lora, Adalora, Ia3])
def test_what_is_refused_before_anything_is_loaded(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"finetune.quantize=3bit: accepted are 8bit, 4bit and null"):
        build(quantize="3bit")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"finetune.quantize=4bit needs a CUDA GPU"):
        build(quantize="4bit")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs bitsandbytes.*pip install 'attune\[quantize\]'"):
        build(quantize="8bit")


def pack_in_rows(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eight bits and a scale a row, in torch alone."""
    scales = weight.abs().amax(dim=1) / 127
    return (weight / scales[:, None] + 128).round().to(torch.uint8), scales, torch.zeros(1)


def unpack_rows(codes: Tensor, scales: Tensor, meaning: Tensor, bits: int, shape: Any, dtype: torch.dtype) -> Tensor:
    return ((codes.float() - 128) * scales[:, None]).to(dtype)


@pytest.fixture
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "pack", pack_in_rows)
    monkeypatch.setattr(quantize, "unpack", unpack_rows)


def build_quantized(name: str, bits: str = "8bit") -> Any:
    finetune = TYPES[name]()
    finetune.quantize = bits  # behind the check, which asks for a GPU
    return finetune


def compute_logits(whisper: Whisper, batch: Batch) -> Float[Tensor, "batch token vocabulary"]:
    with torch.no_grad():
        return whisper.project(whisper.decode(whisper.encode(batch.waveform), batch.decoder_input_ids))


def train(whisper: Whisper, finetune: Any, batch: Batch, steps: int = 3) -> list[float]:
    learning = [parameter for parameter in whisper.network.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(learning, lr=3e-3), []
    for _ in range(steps):
        terms = CrossEntropy().loss(whisper, batch)
        losses.append(float(terms.total.detach()))
        optimizer.zero_grad()
        (terms.total / terms.tokens + regularisation(finetune, whisper.network)).backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.usefixtures("without_a_gpu")
def test_a_quantised_base_keeps_the_contract(name: str, nano_like: Whisper) -> None:
    whisper, batch = awaken(nano_like, seed=3, factor=3.0), make_batch(nano_like.tokens, positions=250)
    untouched, finetune = compute_logits(whisper, batch), build_quantized(name)
    plain = apply_finetuning(TYPES[name](), awaken(nano_like, seed=3, factor=3.0).network)
    assert apply_finetuning(finetune, whisper.network) == plain  # parameters are counted as what they stand for
    quantised = [part for part in whisper.network.modules() if isinstance(part, QuantizedLinear)]
    assert len(quantised) == 2 * 6 + 2 * 10
    rounded = compute_logits(whisper.eval(), batch)
    assert 0 < (rounded - untouched).abs().max() < 0.3 * untouched.abs().max()

    codes = [part.codes.clone() for part in quantised]
    losses = train(whisper, finetune, batch)
    assert losses[-1] < losses[0]
    assert all(torch.equal(part.codes, before) for part, before in zip(quantised, codes, strict=True))
    trained = compute_logits(whisper.eval(), batch)

    resumed = awaken(nano_like, seed=4, factor=3.0)  # other weights: all of them must come from the state
    apply_finetuning(build_quantized(name), resumed.network)
    resumed.load_state_dict(whisper.state_dict())
    assert torch.equal(compute_logits(resumed.eval(), batch), trained)

    merge_additions(finetune, whisper.network)
    assert not [part for part in whisper.network.modules() if isinstance(part, QuantizedLinear)]
    torch.testing.assert_close(compute_logits(whisper.eval(), batch), trained, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("without_a_gpu")
def test_the_gradient_passes_through_a_quantised_layer() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 4)
    layer, input = QuantizedLinear(linear, bits=8), torch.randn(2, 3, 6, requires_grad=True)
    layer(input).square().sum().backward()
    same = input.detach().clone().requires_grad_()
    torch.nn.functional.linear(same, layer.weight, linear.bias).square().sum().backward()
    torch.testing.assert_close(input.grad, same.grad)


@pytest.mark.gpu
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("name", TYPES)
def test_with_bitsandbytes(name: str, bits: str, nano_like: Whisper) -> None:
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    whisper, batch = awaken(nano_like, seed=3, factor=3.0), make_batch(nano_like.tokens, positions=250).to("cuda")
    untouched, finetune = compute_logits(whisper.cuda(), batch), build_quantized(name, bits)
    apply_finetuning(finetune, whisper.cpu().network)  # as train.py: on the CPU, before Lightning moves the model
    whisper.cuda()
    part = next(part for part in whisper.network.modules() if isinstance(part, QuantizedLinear))
    assert part.codes.numel() == part.in_features * part.out_features // (2 if bits == "4bit" else 1)
    rounded = compute_logits(whisper.eval(), batch)
    assert 0 < (rounded - untouched).abs().max() < untouched.abs().max()
    with torch.autocast("cuda", torch.bfloat16):
        losses = train(whisper, finetune, batch, steps=4)
    assert losses[-1] < losses[0]
    trained = compute_logits(whisper.eval(), batch)
    whisper.cpu().cuda()  # Lightning does this between training and scoring
    assert torch.equal(compute_logits(whisper, batch), trained)
    merge_additions(finetune, whisper.network)
    torch.testing.assert_close(compute_logits(whisper.eval(), batch), trained, atol=1e-3, rtol=1e-3)
