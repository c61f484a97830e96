"""Fine-tune the last blocks; freeze what lies below them."""

from transformers import WhisperForConditionalGeneration

from attune.errors import InputError, check_whole
from attune.model.finetune.base import RateFactor, freeze, unfreeze_matching
from attune.model.finetune.depth import last_blocks


class Top:
    """The last blocks of either side learn, and the layer norm behind them.

    Args:
        encoder: how many of the encoder's blocks, counted from its end; 0 leaves that side frozen.
        decoder: how many of the decoder's.
        rate_factor: times the default learning rate of the model's size.
    """

    def __init__(self, encoder: int = 1, decoder: int = 1, rate_factor: RateFactor = 1.0):
        check_whole("finetune", encoder=encoder, decoder=decoder)
        if encoder == decoder == 0:
            raise InputError(
                "finetune.encoder and finetune.decoder are both 0, so no block would learn: give one of them 1 or more."
            )
        self.counts = {"encoder": encoder, "decoder": decoder}
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        blocks = {side: last_blocks(network, side, count, key=side) for side, count in self.counts.items()}
        freeze(network)
        for side, names in blocks.items():
            norm = [f"model.{side}.layer_norm"] if names else []
            unfreeze_matching(network, [f"{name}.*" for name in (*names, *norm)])
