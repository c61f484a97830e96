"""Cross-entropy of the decoder plus CTC of the encoder: (1 - w) CE + w CTC."""

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import CrossEntropy, LossTerms
from attune.train.objective.ctc import compute_ctc


class JointCtc(CrossEntropy):
    """Both losses are sums over tokens, so their weighted sum is divided like any other.

    Args:
        weight: of CTC, in [0, 1].
        label_smoothing: of the cross-entropy.

    Raises:
        InputError: the weight is none.
    """

    def __init__(self, weight: float = 0.3, label_smoothing: float = 0.0):
        super().__init__(label_smoothing)
        if not 0 <= weight <= 1:
            raise InputError(f"objective.weight={weight:g}: accepted is CTC's share of the loss, in [0, 1].")
        self.weight = weight

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        states = whisper.encode(batch.waveform)
        attention = self.loss_from_states(whisper, states, batch)
        ctc = compute_ctc(whisper, states, batch)
        total = (1 - self.weight) * attention.total + self.weight * ctc
        tokens = max(attention.tokens, 1)
        logged = {"ctc": ctc.item() / tokens, "cross_entropy": attention.total.item() / tokens}
        return LossTerms(total, attention.tokens, logged, attention.logits)
