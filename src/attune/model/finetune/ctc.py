"""A CTC head on the encoder, trained jointly with the decoder."""

from torch import nn
from transformers import WhisperForConditionalGeneration

from attune.model.finetune.base import unfreeze_matching

HEAD = "ctc_head"


class Ctc:
    """Everything learns, and so does a new linear layer from encoder states to text tokens and a blank.

    With `objective=joint_ctc` the head makes the encoder line up with the text by itself, which the decoder's attention
    then finds at once (Watanabe et al. 2017, doi:10.1109/JSTSP.2017.2763455). Merging drops the head: `model/` is a
    plain Whisper.
    """

    rate_factor = 1.0

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        unfreeze_matching(network, ["*"])
        width, text_tokens = network.config.d_model, int(network.config.eos_token_id)  # type: ignore[arg-type]
        # Text ids stand below <|endoftext|> in every Whisper vocabulary; the blank takes the place behind them.
        network.add_module(HEAD, nn.Linear(width, text_tokens + 1))

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        delattr(network, HEAD)
