"""CTC alone: the text from the encoder, without the decoder."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import ctc_loss, log_softmax
from transformers import WhisperForConditionalGeneration

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.additions import HEAD
from attune.model.finetune.ctc import count_positions, learns
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import PER_TOKEN, LossTerms


class Ctc:
    """-log p(text | audio), summed over all alignments (Graves et al. 2006, doi:10.1145/1143844.1143891).

    Divided by the text tokens and one end per utterance, as many as cross-entropy supervises without timestamps.
    """

    loss_unit = PER_TOKEN

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        return self.loss_from_states(whisper, whisper.encode(batch.waveform), batch)

    def loss_from_states(
        self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch
    ) -> LossTerms:
        """The same from encoder states that are there already.

        Raises:
            InputError: the model has no CTC head.
        """
        total = compute_ctc(whisper, states, batch)
        tokens = int(find_text(whisper, batch).sum()) + len(batch)
        return LossTerms(total, tokens, {})


def check_head(network: WhisperForConditionalGeneration, is_alone: bool) -> None:
    """Refuse a model that CTC cannot teach.

    Args:
        is_alone: objective=ctc, without a loss of the decoder's.

    Raises:
        InputError: it has no CTC head, or the decoder should learn, which nothing would teach.
    """
    find_head(network)
    if is_alone and learns(network.model.decoder):
        raise InputError(
            "objective=ctc teaches the decoder nothing, and here it is to learn. Take objective=joint_ctc, or freeze "
            "the decoder: finetune=ctc finetune.train=[model.encoder.*]."
        )


def find_head(network: nn.Module) -> nn.Module:
    """Raises InputError where the model has no CTC head."""
    head = getattr(network, HEAD, None)
    if head is None:
        raise InputError(
            "objective=ctc and objective=joint_ctc need a CTC head on the encoder: add finetune=ctc. What learns "
            "beside the head stands in finetune.train, such as finetune=ctc finetune.train=[model.decoder.*]."
        )
    return head


def find_text(whisper: Whisper, batch: Batch) -> Bool[Tensor, "batch token"]:
    """Which labels are text: ids below <|endoftext|>, and not IGNORED."""
    return (batch.labels >= 0) & (batch.labels < whisper.tokens.end_of_text)


def compute_ctc(whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch) -> Float[Tensor, ""]:
    """CTC loss of the text tokens, summed over the batch, from the encoder's states inside the audio.

    An utterance with more tokens than positions has no alignment and counts as 0.

    Raises:
        InputError: the model has no CTC head.
    """
    head = find_head(whisper.network)
    log_probabilities = log_softmax(head(states).float(), dim=-1).transpose(0, 1)
    is_text = find_text(whisper, batch)
    return ctc_loss(
        log_probabilities,
        batch.labels[is_text],
        count_positions(batch.lengths, states.shape[1]),
        is_text.sum(dim=1),
        blank=log_probabilities.shape[-1] - 1,
        reduction="sum",
        zero_infinity=True,
    )
