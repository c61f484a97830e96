"""Fine-tune the entire model."""

from transformers import WhisperForConditionalGeneration

from attune.model.finetune.base import unfreeze_matching


class Full:
    """Every parameter learns, the encoder's fixed positions aside: what all other types are held against."""

    rate_factor = 1.0

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        unfreeze_matching(network, ["*"])
