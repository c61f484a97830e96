"""What MWER and GRPO share: hypotheses of the model's own, how likely they are, and the anchor to the transcripts.

Their losses are sums over whole utterances, not over tokens: the objective's part and `anchor` times the transcript's
-log p, each summed over the utterances of the micro-batch. WhisperModule divides both, once, by the utterances of the
whole accumulation window on all ranks. A hypothesis is drawn by the run's seed, the optimiser step and the utterance's
id: it is the same in whatever micro-batch, and on whatever rank, the utterance stands.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.errors import InputError, check_whole
from attune.model.decode import cap_tokens
from attune.model.finetune.ctc import find_writer
from attune.model.likelihood import TokenScores, score_hypotheses
from attune.model.sample import Hypothesis, sample, search
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import PER_TOKEN, CrossEntropy, LossTerms
from attune.train.objective.reference import evaluating


@dataclass(frozen=True)
class Hypotheses:
    """`size` hypotheses of each utterance of a batch, one utterance behind the other.

    Args:
        texts: what they read.
        is_first: False for one that an earlier hypothesis of its utterance equals, token by token.
    """

    size: int
    written: list[Hypothesis]
    texts: list[str]
    is_first: list[bool]

    def describe(self) -> dict[str, float]:
        """For the log: different hypotheses of an utterance, on average; share of them that the limit cut off."""
        count = len(self.written)
        return {
            "distinct_samples": self.size * sum(self.is_first) / count,
            "truncated_samples": sum(not each.ended for each in self.written) / count,
        }


class FromHypotheses(nn.Module):
    """Hypotheses of each utterance, drawn or searched, and an anchor.

    Args:
        samples: hypotheses of an utterance.
        temperature: that they are drawn at, above 0; their log-probabilities are those of the same distribution.
        anchor: weight of -log p(transcript | audio), at least 0: holds the model to what it was taught.
    """

    step: int = 0
    seed: int = 0
    loss_unit = "per utterance"  # of errors or advantages, and of the anchor's nats
    validation_loss_unit = PER_TOKEN

    def __init__(self, samples: int, temperature: float, anchor: float):
        super().__init__()
        check_whole("objective", samples=samples)
        if temperature <= 0:
            raise InputError(
                f"objective.temperature={temperature:g} must be above 0: 1 draws from the model as it is, less from "
                "what it is surer of."
            )
        if anchor < 0:
            raise InputError(f"objective.anchor={anchor:g} would push the model away from its transcripts; 0 or more.")
        self.samples, self.temperature, self.anchor = samples, temperature, anchor

    def check(self, data: SpeechDataModule) -> None:
        """Every corpus has transcripts to be held against."""

    def prepare(self, whisper: Whisper, seed: int, is_varied: bool) -> int:
        if find_writer(whisper.network) is not None:
            raise InputError(
                f"objective={type(self).__name__.lower()} draws hypotheses from the decoder, and here a CTC head "
                "writes. Take finetune=ctc finetune.writes=decoder, or objective=ctc."
            )
        self.seed = seed
        return 0

    def loss_from_states(
        self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch
    ) -> LossTerms:
        """Validation: the transcripts' cross-entropy, per token. What counts is the WER beside it."""
        return CrossEntropy().loss_from_states(whisper, states, batch)

    def draw(self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch) -> Hypotheses:
        """Samples of this step; the model is left as it was."""
        seeds = [random.Random(f"hypotheses {self.seed} {self.step} {id}").randrange(2**62) for id in batch.ids]
        limits = cap_tokens(whisper.tokens, batch.prefixes, batch.lengths)
        with evaluating(whisper.network):
            drawn = sample(whisper, states.detach(), batch.prefixes, limits, seeds, self.samples, self.temperature)
        return gather(whisper, drawn, self.samples)

    def find(
        self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch, count: int
    ) -> Hypotheses:
        """The n-best list; with a count of 1 it is what the model writes."""
        limits = cap_tokens(whisper.tokens, batch.prefixes, batch.lengths)
        with evaluating(whisper.network):
            return gather(whisper, search(whisper, states.detach(), batch.prefixes, limits, count), count)

    def score(
        self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch, drawn: Hypotheses
    ) -> TokenScores:
        """Log-probabilities of the hypotheses, from states of each utterance, once."""
        prefixes = [prefix for prefix in batch.prefixes for _ in range(drawn.size)]
        repeated = states.repeat_interleave(drawn.size, dim=0)
        return score_hypotheses(whisper, repeated, prefixes, drawn.written, self.temperature)

    def add_anchor(
        self,
        loss: Float[Tensor, ""],
        whisper: Whisper,
        states: Float[Tensor, "batch position told"],
        batch: Batch,
        logged: dict[str, float],
    ) -> LossTerms:
        """The objective's sum over utterances with the anchor's."""
        if not self.anchor:
            return LossTerms(loss, len(batch), logged)
        terms = CrossEntropy().loss_from_states(whisper, states, batch)
        logged = logged | {"cross_entropy": terms.total.item() / max(terms.tokens, 1)}
        return LossTerms(loss + self.anchor * terms.total, len(batch), logged, terms.logits)


def hear(whisper: Whisper, batch: Batch) -> Float[Tensor, "batch position told"]:
    """Encoder states of a batch.

    Raises:
        InputError: there is no sound to hear (cache=encoder), and this is not the model whose states were stored.
    """
    if batch.waveform.is_meta and whisper._recalled is None:
        raise InputError(
            "cache=encoder keeps the trained model's encoder states and no sound, and another model is to listen too "
            "(objective.reference or objective.reward_model): set cache=none."
        )
    return whisper.encode(batch.waveform)


def gather(whisper: Whisper, found: Sequence[Sequence[Hypothesis]], size: int) -> Hypotheses:
    """Lists of one length: a shorter one is filled up with its own last hypothesis, which `is_first` leaves out."""
    groups = [[*group, *[group[-1]] * (size - len(group))] for group in found]
    written = [hypothesis for group in groups for hypothesis in group]
    is_first = [hypothesis not in group[:place] for group in groups for place, hypothesis in enumerate(group)]
    return Hypotheses(size, written, [whisper.tokens.transcript(each.ids) for each in written], is_first)


def mask_first(drawn: Hypotheses, device: torch.device) -> Bool[Tensor, "utterance hypothesis"]:
    """True where a hypothesis is the first of its utterance with these tokens: equal ones count once."""
    return torch.tensor(drawn.is_first, device=device).view(-1, drawn.size)
