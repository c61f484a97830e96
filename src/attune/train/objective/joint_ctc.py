"""Cross-entropy of the decoder plus CTC of the encoder: (1 - w) CE + w CTC."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import ctc_loss, log_softmax

from attune.audio.waveform import SAMPLES_PER_POSITION
from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.finetune.ctc import HEAD
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import CrossEntropy, LossTerms

TAIL_POSITIONS = 10  # 0.2 s behind the audio, in which the last token may still be said


class JointCtc(CrossEntropy):
    """Both losses are sums over tokens, so their weighted sum is divided like any other.

    Args:
        weight: of CTC, in [0, 1].
        label_smoothing: of the cross-entropy.
    """

    def __init__(self, weight: float = 0.3, label_smoothing: float = 0.0):
        super().__init__(label_smoothing)
        self.weight = weight

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        states = whisper.encode(batch.waveform)
        attention = self.loss_from_states(whisper, states, batch)
        ctc = compute_ctc(whisper, states, batch)
        total = (1 - self.weight) * attention.total + self.weight * ctc
        tokens = max(attention.tokens, 1)
        logged = {"ctc": ctc.item() / tokens, "cross_entropy": attention.total.item() / tokens}
        return LossTerms(total, attention.tokens, logged)


def compute_ctc(whisper: Whisper, states: Float[Tensor, "batch position width"], batch: Batch) -> Float[Tensor, ""]:
    """CTC loss of the text tokens, summed over the batch, from the encoder's states inside the audio.

    An utterance with more tokens than positions has no alignment and counts as 0.

    Raises:
        InputError: the model has no CTC head.
    """
    if not hasattr(whisper.network, HEAD):
        raise InputError("objective=joint_ctc needs a CTC head on the encoder: add finetune=ctc.")
    log_probabilities = log_softmax(getattr(whisper.network, HEAD)(states).float(), dim=-1).transpose(0, 1)
    blank = log_probabilities.shape[-1] - 1
    is_text = (batch.labels >= 0) & (batch.labels < blank)
    positions = (batch.lengths // SAMPLES_PER_POSITION + TAIL_POSITIONS).clamp(max=states.shape[1])
    return ctc_loss(
        log_probabilities,
        batch.labels[is_text],
        positions,
        is_text.sum(dim=1),
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )
