"""The frozen linear layers in 8 or 4 bits on a GPU, by bitsandbytes; what is trained beside them keeps its precision.

4 bits are NF4 (Dettmers et al. 2023, arXiv:2305.14314), 8 bits the dynamic type of Dettmers et al. 2021
(arXiv:2110.02861), both in blocks of 64 weights with one scale each. bitsandbytes' own layers are not used: they
quantise as a side effect of being moved, and their 4-bit weights do not load from a state_dict, while Lightning moves
a model back and forth between scoring and training, and every checkpoint is a state_dict.
"""

from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attune.errors import InputError

BITS = {"8bit": 8, "4bit": 4}
BLOCK = 64  # weights with one scale
OUTPUT = "proj_out"  # the output projection is the token embedding


def check_quantize(quantize: str | None) -> None:
    """Refuse what cannot be done, when the type is built: before any weight is loaded.

    Raises:
        InputError: an unknown word, no CUDA GPU, or no bitsandbytes.
    """
    if quantize is None:
        return
    if quantize not in BITS:
        raise InputError(f"finetune.quantize={quantize}: accepted are {', '.join(BITS)} and null.")
    if not torch.cuda.is_available():
        raise InputError(f"finetune.quantize={quantize} needs a CUDA GPU, and torch finds none. Leave it out (null).")
    if find_spec("bitsandbytes") is None:
        raise InputError(
            f"finetune.quantize={quantize} needs bitsandbytes, which is not installed: pip install 'attune[quantize]'."
        )


def pack(weight: Float[Tensor, "out in"], bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """A weight matrix -> its codes (uint8, 8 / bits of them a byte), a scale a block, and what each code means."""
    from bitsandbytes import functional as kernels  # type: ignore[import-not-found]  # an optional dependency

    if bits == 4:
        codes, state = kernels.quantize_4bit(weight.cuda(), blocksize=BLOCK, quant_type="nf4")
    else:
        codes, state = kernels.quantize_blockwise(weight.cuda(), blocksize=BLOCK)
    return codes, state.absmax, state.code


def unpack(
    codes: Tensor, scales: Tensor, meaning: Tensor, bits: int, shape: torch.Size, dtype: torch.dtype
) -> Float[Tensor, "out in"]:
    """What `pack` packed, on the GPU."""
    from bitsandbytes import functional as kernels  # type: ignore[import-not-found]  # an optional dependency

    state = kernels.QuantState(
        scales.cuda(), shape=shape, code=meaning.cuda(), blocksize=BLOCK, quant_type="nf4", dtype=dtype
    )
    return (kernels.dequantize_4bit if bits == 4 else kernels.dequantize_blockwise)(codes.cuda(), state)


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose weight is unpacked for each use, in the precision of that use.

    To others, such as peft, it is a linear layer like any other; only that assigning to `weight` has no place to go.
    """

    codes: Tensor
    scales: Tensor
    meaning: Tensor

    def __init__(self, linear: nn.Linear, bits: int):
        nn.Module.__init__(self)  # nn.Linear's own would make the matrix that is to be saved
        self.in_features, self.out_features, self.bits = linear.in_features, linear.out_features, bits
        # Parameters and no buffers: DDP would send buffers around at every step.
        for name, tensor in zip(("codes", "scales", "meaning"), pack(linear.weight.detach(), bits), strict=True):
            setattr(self, name, nn.Parameter(tensor.to(linear.weight.device), requires_grad=False))
        self.bias = linear.bias

    @property
    def weight(self) -> Float[Tensor, "out in"]:  # type: ignore[override]  # nn.Linear declares an attribute
        return self.unpack(torch.float32)

    def unpack(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        shape = torch.Size((self.out_features, self.in_features))
        return unpack(self.codes, self.scales, self.meaning, self.bits, shape, dtype).to(self.codes.device)

    @property
    def uncounted(self) -> int:
        """Weights that it stands for, less the numbers that it holds instead of them."""
        held = self.codes.numel() + self.scales.numel() + self.meaning.numel()
        return self.in_features * self.out_features - held

    def forward(self, input: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        output = _Product.apply(input.to(dtype), self)
        return output if self.bias is None else output + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    """x W^T. The backward pass unpacks W again: kept from the forward pass, it would take the memory that was saved."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(input, layer.unpack(input.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient @ ctx.layer.unpack(gradient.dtype), None


def find_linear(network: nn.Module) -> dict[str, nn.Linear]:
    """The plain linear layers by name: neither the output projection, nor a layer that an adapter was put behind."""
    parts = network.named_modules()
    plain = {name: part for name, part in parts if type(part) is nn.Linear and not any(part.children())}
    plain.pop(OUTPUT, None)
    return plain


def quantize_linear(network: nn.Module, quantize: str | None) -> None:
    """Replace the plain linear layers of a frozen network; None leaves it as it is."""
    if quantize is not None:
        for name, linear in find_linear(network).items():
            _replace(network, name, QuantizedLinear(linear, BITS[quantize]))


@torch.no_grad()
def restore_linear(network: nn.Module) -> None:
    """Put plain linear layers back, with the weights that the network was trained beside: rounded ones."""
    for name, module in list(network.named_modules()):
        if isinstance(module, QuantizedLinear):
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            plain.weight = nn.Parameter(module.weight, requires_grad=False)
            plain.bias = module.bias
            _replace(network, name, plain)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
