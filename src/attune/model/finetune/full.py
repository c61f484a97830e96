"""Fine-tune the entire model."""

from transformers import WhisperForConditionalGeneration

from attune.errors import InputError
from attune.model.finetune.base import unfreeze_matching
from attune.model.finetune.depth import Depth, measure_depth


class Full:
    """Every parameter learns, the encoder's fixed positions aside: what all other types are held against.

    Args:
        layer_decay: a parameter's rate is the run's times layer_decay ** depth, in (0, 1]; 1 is no decay. The depth is
            counted in blocks from the output, the encoder's below the decoder's: `Depth.of` has the rule. Lower blocks
            know what holds for any speech, and keep more of it (Howard & Ruder 2018, arXiv:1801.06146, section 3.2).
    """

    rate_factor = 1.0

    def __init__(self, layer_decay: float = 1.0):
        if not 0 < layer_decay <= 1:
            raise InputError(f"finetune.layer_decay is {layer_decay}; accepted: above 0, up to 1 (no decay).")
        self.layer_decay = layer_decay
        self.depth: Depth | None = None

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        unfreeze_matching(network, ["*"])
        self.depth = measure_depth(network)

    def rate_scale(self, name: str) -> float:
        return self.layer_decay ** self.depth.of(name) if self.depth else 1.0
