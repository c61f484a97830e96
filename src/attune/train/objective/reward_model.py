"""A model of what people prefer: a score for a transcript, learnt from pairs; `rewards.model` of objective=grpo."""

import torch
from jaxtyping import Float
from torch import Tensor

from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.additions import REWARD
from attune.model.reward_head import add_reward_head, score_transcripts
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import PER_UTTERANCE, CrossEntropy, LossTerms
from attune.train.objective.dpo import check_pairs, compute_preference_loss, describe_margins, find_pairs
from attune.train.objective.hypotheses import hear


class RewardModel:
    """-log sigma(s(chosen) - s(rejected)), summed over the pairs and divided by the window's utterances (Ouyang et al.
    2022, arXiv:2203.02155, section 3.5).

    s is one linear layer on the decoder's state at the end of the transcript, so that it knows the audio and all of the
    text. It learns beside whatever finetune= lets learn, and is saved with the model, in additions.safetensors. Unless
    `anchor` holds it, the model forgets how to write; what is kept is the best by validation loss, not by WER.

    Args:
        label_smoothing: the share of pairs, in [0, 0.5), that may be the wrong way round.
        anchor: weight of -log p(chosen), at least 0.
    """

    step: int = 0
    monitored = "val/loss"
    loss_unit = PER_UTTERANCE

    def __init__(self, label_smoothing: float = 0.0, anchor: float = 0.0):
        if not 0 <= label_smoothing < 0.5 or anchor < 0:
            raise InputError(
                f"objective: label_smoothing={label_smoothing:g}, anchor={anchor:g}; accepted are label_smoothing in "
                "[0, 0.5), anchor of 0 or more."
            )
        self.label_smoothing, self.anchor = label_smoothing, anchor

    def check(self, data: SpeechDataModule) -> None:
        check_pairs(data, "reward_model", ("train", "validation"))  # whose loss says what is best

    def prepare(self, whisper: Whisper, seed: int, is_varied: bool) -> int:
        return add_reward_head(whisper.network)

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        return self.loss_from_states(whisper, hear(whisper, batch), batch)

    def loss_from_states(
        self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch
    ) -> LossTerms:
        """The same from encoder states that are there already."""
        is_pair, margins = find_pairs(batch), compute_margins(whisper, states, batch)
        total = (compute_preference_loss(margins, self.label_smoothing) * is_pair).sum()
        logged = describe_margins(margins, is_pair)
        if self.anchor:
            total = total + self.anchor * CrossEntropy().loss_from_states(whisper, states, batch).total
        return LossTerms(total, len(batch), logged)

    @torch.no_grad()
    def judge(self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch) -> list[float | None]:
        """By how much the chosen transcript of each utterance is scored above the rejected one; None without a pair, or
        by a model that has no head."""
        if batch.rejected_labels is None or not hasattr(whisper.network, REWARD):
            return [None] * len(batch)
        margins = compute_margins(whisper, states, batch).tolist()
        return [margin if is_pair else None for margin, is_pair in zip(margins, find_pairs(batch), strict=True)]


def compute_margins(
    whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch
) -> Float[Tensor, "batch"]:
    """s(chosen) - s(rejected) of each utterance; what that of one without a pair is means nothing."""
    chosen = score_transcripts(whisper, states, batch.decoder_input_ids, batch.labels)
    if batch.rejected_labels is None:
        return chosen - chosen
    other = batch.as_rejected()
    return chosen - score_transcripts(whisper, states, other.decoder_input_ids, other.labels)
