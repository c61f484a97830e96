"""A CTC head on the encoder, alone or beside the decoder."""

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from attune.audio.waveform import SAMPLES_PER_POSITION
from attune.errors import InputError
from attune.model.additions import HEAD, CtcHead
from attune.model.finetune.base import RateFactor, freeze, unfreeze_matching

TAIL_POSITIONS = 10  # 0.2 s behind the audio, in which the last token may still be said
WRITERS = ("decoder", "head")


class Ctc:
    """A new linear layer from encoder states to text tokens and a blank learns, and of Whisper what `train` matches.

    With `objective=joint_ctc` the head makes the encoder line up with the text by itself, which the decoder's attention
    then finds at once (Watanabe et al. 2017, doi:10.1109/JSTSP.2017.2763455). With `objective=ctc` it stands alone:
    `train: [model.encoder.*]` or, on a frozen Whisper, `train: []`.

    Where the decoder writes, merging drops the head and `model/` is a plain Whisper. Where the head writes, plain
    transformers cannot hold it: it lies beside the Whisper, with a loader (`attune.model.additions`).

    Args:
        train: shell-like patterns of Whisper's parameters that learn beside the head.
        writes: what transcripts come from, `decoder` or `head`; null is the head where no part of the decoder learns.
        head_rate: times the rate of all else: the head starts from nothing.
        rate_factor: times the default learning rate of the model's size.
    """

    def __init__(
        self,
        train: Sequence[str] = ("*",),
        writes: str | None = None,
        head_rate: float = 10.0,
        rate_factor: RateFactor = 1.0,
    ):
        if writes not in (None, *WRITERS):
            raise InputError(f"finetune.writes={writes}: accepted are {', '.join(WRITERS)}; null has it chosen.")
        self.train = list(train)
        self.writes = writes
        if writes == "head" or (writes is None and all(pattern.startswith("model.encoder.") for pattern in train)):
            self.unmergeable = "a CTC head that writes"
        self.head_rate = head_rate
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        freeze(network)
        unfreeze_matching(network, self.train)
        writer = self.writes or ("decoder" if learns(network.model.decoder) else "head")
        width, text_tokens = network.config.d_model, int(network.config.eos_token_id)  # type: ignore[arg-type]
        # Text ids stand below <|endoftext|> in every Whisper vocabulary; the blank takes the place behind them.
        if not hasattr(network, HEAD):  # else one that an earlier run has left learns on
            network.add_module(HEAD, CtcHead(width, text_tokens))
        head: CtcHead = network.get_submodule(HEAD).requires_grad_(True)  # type: ignore[assignment]
        head.writes = writer == "head"

    def rate_scale(self, name: str) -> float:
        return self.head_rate if name.startswith(f"{HEAD}.") else 1.0

    def merge(self, network: WhisperForConditionalGeneration) -> None:
        if find_writer(network) is None:
            delattr(network, HEAD)


def learns(module: nn.Module) -> bool:
    """Whether any parameter of a part learns."""
    return any(parameter.requires_grad for parameter in module.parameters())


def find_writer(network: nn.Module) -> CtcHead | None:
    """The CTC head that transcripts come from; None where the decoder writes."""
    head = getattr(network, HEAD, None)
    return head if isinstance(head, CtcHead) and head.writes else None


def count_positions(lengths: Int[Tensor, "batch"], longest: int) -> Int[Tensor, "batch"]:
    """How many encoder positions of each utterance hold its audio, a short tail included; `lengths` are in samples."""
    return (lengths // SAMPLES_PER_POSITION + TAIL_POSITIONS).clamp(max=longest)
