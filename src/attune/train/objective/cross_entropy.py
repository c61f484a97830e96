"""The likelihood of the transcript: supervised fine-tuning."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from attune.data.batch import Batch
from attune.model.whisper import Whisper
from attune.text.tokens import IGNORED


@dataclass(frozen=True)
class LossTerms:
    """What an objective hands back.

    Args:
        total: the loss summed over the batch's supervised tokens; WhisperModule divides it, once, by the supervised
            tokens of the whole accumulation window on all ranks.
        tokens: how many supervised tokens the sum holds.
        logged: further values for the log, each a mean over the batch.
        logits: of the batch's supervised tokens in their order, where the objective made them: distillation needs them.
    """

    total: Float[Tensor, ""]
    tokens: int
    logged: dict[str, float]
    logits: Float[Tensor, "token vocabulary"] | None = None


class CrossEntropy:
    """-sum log p(token | audio, tokens before it), over the supervised tokens only.

    Logits are made for supervised positions alone: exact, and with a real vocabulary they are most of the memory.

    Args:
        label_smoothing: weight of the uniform distribution in the target, in [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = label_smoothing

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        states = whisper.encode(batch.waveform)
        return self.loss_from_states(whisper, states, batch)

    def loss_from_states(
        self, whisper: Whisper, states: Float[Tensor, "batch position width"], batch: Batch
    ) -> LossTerms:
        """The same from encoder states that are there already: validation encodes once for loss and decoding."""
        logits = compute_logits(whisper, states, batch)
        labels = batch.labels[batch.labels != IGNORED]
        total = cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)
        return LossTerms(total, logits.shape[0], {}, logits)


def compute_logits(
    whisper: Whisper, states: Float[Tensor, "batch position width"], batch: Batch
) -> Float[Tensor, "token vocabulary"]:
    """Of the supervised tokens, utterance by utterance, in fp32."""
    hidden = whisper.decode(states, batch.decoder_input_ids)
    return whisper.project(hidden[batch.labels != IGNORED]).float()
