"""trainer=fsdp: while it learns, the network is in parts; whoever looks at it otherwise meets it whole."""

from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import WhisperForConditionalGeneration

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.finetune.base import FineTuning, Regularised, Scheduled, Stepped
from attune.train.module import WhisperModule

Result = TypeVar("Result")
OBJECTIVES = ("CrossEntropy", "Ctc", "JointCtc")  # that ask the network alike in all processes
TAKE = "Take trainer=ddp, in which every device holds the whole model"


class Shards:
    """A network in as many parts as there are devices, block by block, and the whole one beside it.

    Decoding asks the network as often as its transcripts are long, and processes that gather parts must ask alike: so
    validation, too, has the whole network. That is the memory of its weights once more, but not of gradients, moments
    or activations, which are most of a training step.

    Args:
        whole: as it is before the first step; `gather` writes what was learnt into it. Until then it leaves the device.
        mesh: the devices.
    """

    def __init__(self, whole: WhisperForConditionalGeneration, mesh: DeviceMesh):
        self.whole = whole.cpu()  # type: ignore[assignment]
        self.parts = deepcopy(self.whole)
        blocks: Any = (*self.parts.model.encoder.layers, *self.parts.model.decoder.layers)
        for block in blocks:
            fully_shard(block, mesh=mesh)
        # What stands outside the blocks is one group, gathered for the whole step. Nobody calls the network's own
        # forward, in which that would happen: `within` stands for it.
        self.parts.within = MethodType(_call, self.parts)  # type: ignore[assignment]
        fully_shard(self.parts, mesh=mesh)
        register_fsdp_forward_method(self.parts, "within")

    def within(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function that uses the parts in a training step."""
        return self.parts.within(function, *args)  # type: ignore[operator]

    @torch.no_grad()
    def gather(self, device: torch.device) -> WhisperForConditionalGeneration:
        """The whole network with the weights as they now are, in evaluation mode; all processes must ask for it."""
        parts = dict(self.parts.named_parameters())
        for name, weight in self.whole.named_parameters():
            part = parts[name]
            weight.copy_(part.full_tensor() if isinstance(part, DTensor) else part)
        return self.whole.to(device).eval()  # type: ignore[return-value]


def _call(network: Any, function: Callable[..., Result], *args: Any) -> Result:
    return function(*args)


class ShardedModule(WhisperModule):
    """A WhisperModule for trainer=fsdp: from the beginning of the fit to its end every process keeps its part of the
    network, and has the whole one in validation."""

    shards: Shards | None = None

    def configure_model(self) -> None:
        if self.trainer.training:
            assert self.device_mesh is not None
            self.shards = Shards(self.whisper.network, self.device_mesh["data_parallel"])
            self.whisper.network = self.shards.parts

    def _train_on(self, batch: Batch) -> Float[Tensor, ""]:
        assert self.shards is not None
        return self.shards.within(super()._train_on, batch)

    def on_validation_epoch_start(self) -> None:
        assert self.shards is not None
        self.whisper.network = self.shards.gather(self.device)

    def on_validation_epoch_end(self) -> None:
        assert self.shards is not None
        self.whisper.network = self.shards.parts
        self.shards.whole.cpu()

    def on_fit_end(self) -> None:
        self.on_validation_epoch_start()
        self.shards = None


def choose_module(strategy: str) -> type[WhisperModule]:
    """The class of the module that a strategy trains."""
    return ShardedModule if strategy == "fsdp" else WhisperModule


def check_sharding(strategy: str, finetune: FineTuning, objective: Any, **others: Any) -> None:
    """Refuse, before weights are loaded, what does not work on parts.

    Args:
        others: config key -> what stands there, None where nothing does.

    Raises:
        InputError: with what is in the way.
    """
    if strategy != "fsdp":
        return
    kind, taught = type(finetune).__name__, type(objective).__name__
    if isinstance(finetune, Scheduled | Regularised | Stepped):
        raise InputError(f"trainer=fsdp holds weights in parts, and finetune {kind} works on whole ones. {TAKE}.")
    if taught not in OBJECTIVES:
        raise InputError(
            f"trainer=fsdp needs processes that ask the network alike, and objective {taught} asks it as often as its "
            f"hypotheses are long. {TAKE}, or objective=cross_entropy."
        )
    used = [name for name, value in others.items() if value is not None]
    if used:
        raise InputError(f"trainer=fsdp does not go with {used[0]}, which looks at whole weights. {TAKE}.")
