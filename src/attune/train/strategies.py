"""Lightning's strategies for several devices, with the choices that are not the user's to make.

ddp     every device holds the whole model; gradients are averaged (Li et al. 2020, arXiv:2006.15704)
fsdp    every device holds a part of weights, gradients and AdamW's moments, and gathers a block when it is its turn
        (ZeRO stage 3, Rajbhandari et al. 2020, arXiv:1910.02054; torch's fully_shard, "FSDP2")
"""

from typing import Any

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor


class Replicated(DDPStrategy):
    """Whole models whose gradients are averaged.

    Gradients lie in the buffers that are sent, so that no second copy of them is needed. Buffers are never sent: all
    are constants, and processes do not validate equally many batches. Where a type or an objective leaves something
    that learns out of a step (`leaves_out` of the module), DDP looks for it.
    """

    def __init__(self) -> None:
        super().__init__(gradient_as_bucket_view=True, broadcast_buffers=False)

    def configure_ddp(self) -> None:
        self._ddp_kwargs["find_unused_parameters"] = bool(getattr(self.lightning_module, "leaves_out", True))
        super().configure_ddp()


class Sharded(ModelParallelStrategy):
    """Models in parts, one a device, all of them in one group; the module shards itself (train/sharding.py).

    A checkpoint is the same file as any other run's: the first process puts the parts together.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()


def choose_strategy(name: str) -> Strategy | str:
    """`ddp` and `fsdp` are those above; any other name is Lightning's own."""
    made: dict[str, Any] = {"ddp": Replicated, "fsdp": Sharded}
    return made[name]() if name in made else name


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, to be changed in place; all of it where it is not in parts."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
