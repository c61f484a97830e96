"""The likelihood of the transcript: supervised fine-tuning."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.whisper import Whisper

# Of logits in fp32 that are there at one time; the backward pass needs three times as much. With OpenAI's vocabulary
# that is 1,293 tokens: some 80 utterances of five seconds.
LOGITS_BYTES = 2**28
PER_TOKEN, PER_UTTERANCE = "nats per token", "nats per utterance"  # of a loss; an objective tells its own


@dataclass(frozen=True)
class LossTerms:
    """What an objective hands back.

    Args:
        total: the loss summed over the batch's supervised tokens; WhisperModule divides it, once, by the supervised
            tokens of the whole accumulation window on all ranks.
        tokens: how many supervised tokens the sum holds; or utterances, where an objective sums over these instead.
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

    Raises:
        InputError: it is not.
    """

    loss_unit = PER_TOKEN

    def __init__(self, label_smoothing: float = 0.0):
        if not 0 <= label_smoothing < 1:
            raise InputError(f"objective.label_smoothing={label_smoothing:g}: accepted is a share in [0, 1).")
        self.label_smoothing = label_smoothing

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        states = whisper.encode(batch.waveform)
        return self.loss_from_states(whisper, states, batch)

    def loss_from_states(
        self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch
    ) -> LossTerms:
        """The same from encoder states that are there already: validation encodes once for loss and decoding.

        Where the logits would take more than LOGITS_BYTES they are made in chunks, and once more in the backward pass:
        the same sum, for the time of one more output projection; nothing keeps them then, and `logits` is None.
        """
        hidden, labels = take_taught(whisper.decode(states, batch.decoder_input_ids), batch)
        at_once = count_at_once(whisper)
        if len(labels) > at_once:
            sum_chunk: Any = partial(checkpoint, self._sum, whisper, use_reentrant=False, preserve_rng_state=False)
            parts = zip(hidden.split(at_once), labels.split(at_once), strict=True)
            return LossTerms(torch.stack([sum_chunk(*part)[0] for part in parts]).sum(), len(labels), {})
        total, logits = self._sum(whisper, hidden, labels)
        return LossTerms(total, len(labels), {}, logits)

    def _sum(
        self, whisper: Whisper, hidden: Float[Tensor, "token width"], labels: Int[Tensor, "token"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "token vocabulary"]]:
        logits = whisper.project(hidden).float()
        return cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing), logits


def count_at_once(whisper: Whisper) -> int:
    """Of how many tokens logits are made at one time, at least one."""
    return max(1, LOGITS_BYTES // (4 * whisper.network.config.vocab_size))


def compute_logits(
    whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch
) -> Float[Tensor, "token vocabulary"]:
    """Of the supervised tokens, utterance by utterance, in fp32."""
    hidden, _ = take_taught(whisper.decode(states, batch.decoder_input_ids), batch)
    return whisper.project(hidden).float()


def take_taught(
    hidden: Float[Tensor, "batch token width"], batch: Batch
) -> tuple[Float[Tensor, "taught width"], Int[Tensor, "taught"]]:
    """Decoder states and labels of the tokens that are taught, utterance by utterance."""
    return hidden.flatten(0, 1)[batch.taught], batch.labels.flatten()[batch.taught]
