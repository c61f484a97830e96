"""Preference: of two transcripts of one utterance, the model learns to find the chosen one likelier than the other."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from attune.data.batch import Batch
from attune.data.corpora.schema import REJECTED
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.likelihood import compute_token_scores
from attune.model.whisper import Whisper
from attune.text.tokens import IGNORED
from attune.train.objective.cross_entropy import PER_UTTERANCE, LossTerms
from attune.train.objective.hypotheses import hear
from attune.train.objective.reference import OtherReference, Reference, check_vocabulary, take_reference

Pair = Float[Tensor, "2"]  # log p of the chosen and of the rejected transcript
Key = tuple[str, str, int, int, tuple[int, ...]]  # what they depend on: list_keys


class Dpo(nn.Module):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).

        m = log p(chosen) / q(chosen) - log p(rejected) / q(rejected)
        loss = -(1 - label_smoothing) log sigma(beta m) - label_smoothing log sigma(-beta m) - anchor log p(chosen)

    p is the model's chance of a transcript given the audio, over text and <|endoftext|>; q the reference's, the model
    that the run starts from. Losses are summed over the utterances, and the window's sum is divided by its utterances;
    one without a pair, such as a replayed one, feels the anchor alone.

    The reference's log-probabilities are computed once for each utterance, length of its window and prompt, and then
    kept; with augmentation, which lets the reference hear another sound each time, they are computed in every step.

    Args:
        beta: above 0: how little the model may leave the reference for a preference.
        label_smoothing: the share of pairs, in [0, 0.5), that may be the wrong way round (conservative DPO, Mitchell
            2023).
        anchor: weight of -log p(chosen), at least 0: a margin can also grow while both become unlikely.
        reference: null, or another model of the same vocabulary: a run, a folder, a hub name.
    """

    step: int = 0
    loss_unit = PER_UTTERANCE
    reference: Reference | OtherReference

    def __init__(
        self,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        anchor: float = 1.0,
        reference: str | None = None,
    ):
        super().__init__()
        if beta <= 0 or not 0 <= label_smoothing < 0.5 or anchor < 0:
            raise InputError(
                f"objective: beta={beta:g}, label_smoothing={label_smoothing:g}, anchor={anchor:g}; accepted are beta "
                "above 0, label_smoothing in [0, 0.5), anchor of 0 or more."
            )
        self.beta, self.label_smoothing, self.anchor = beta, label_smoothing, anchor
        self.reference_name = reference
        self.known: dict[Key, Pair] | None = {}  # of the reference

    @property
    def listeners(self) -> list[str]:
        """The settings by which another model than the trained one listens."""
        return ["objective.reference"] if self.reference_name else []

    def check(self, data: SpeechDataModule) -> None:
        check_pairs(data, "dpo")
        check_vocabulary(self.reference_name, data.tokens)

    def prepare(self, whisper: Whisper, seed: int, is_varied: bool) -> int:
        self.reference = take_reference(whisper, self.reference_name)
        self.known = None if is_varied else {}
        return 0

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        return self.loss_from_states(whisper, hear(whisper, batch), batch)

    def loss_from_states(
        self, whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch
    ) -> LossTerms:
        """The same from encoder states that are there already."""
        ours = score_pairs(whisper, states, batch)
        is_pair = find_pairs(batch)
        margins = ours[:, 0] - ours[:, 1]
        if is_pair.any():
            theirs = self._score_reference(whisper, states, batch, is_pair)
            margins = margins - (theirs[:, 0] - theirs[:, 1])
        losses = compute_preference_loss(self.beta * margins, self.label_smoothing) * is_pair
        total = losses.sum() - self.anchor * ours[:, 0].sum()
        return LossTerms(total, len(batch), describe_margins(self.beta * margins, is_pair))

    def _score_reference(
        self, whisper: Whisper, states: Tensor, batch: Batch, is_pair: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch 2"]:
        if self.known is None:
            return self._compute_reference(whisper, states, batch)
        keys = list_keys(batch)
        missing = [row for row, key in enumerate(keys) if is_pair[row] and key not in self.known]
        if missing:
            rows = torch.tensor(missing, device=states.device)
            computed = self._compute_reference(whisper, states[rows], pick(batch, missing))
            self.known |= {keys[row]: pair for row, pair in zip(missing, computed.cpu(), strict=True)}
        nothing = torch.zeros(2)
        return torch.stack([self.known.get(key, nothing) for key in keys]).to(states.device)

    def _compute_reference(self, whisper: Whisper, states: Tensor, batch: Batch) -> Float[Tensor, "batch 2"]:
        with self.reference.stand_in(whisper) as other:
            return score_pairs(other, states.detach() if self.reference.hears_alike else hear(other, batch), batch)


def check_pairs(data: SpeechDataModule, objective: str, splits: Sequence[str] = ("train",)) -> None:
    """Raises InputError where one of the splits has no pair."""
    for split in splits:
        rows = data.splits[split]
        if REJECTED not in rows.column_names or all(text is None for text in rows[REJECTED]):
            raise InputError(
                f"objective={objective} {'learns from' if split == 'train' else 'is judged by'} pairs of a chosen and "
                f"a rejected transcript, and {split} of this corpus has none: data=pairs data.{split}=PAIRS.jsonl. "
                "`attune pairs RUN OUT` makes them from what a model writes."
            )


def list_keys(batch: Batch) -> list[Key]:
    """The utterance, its chosen text and length (ids may be those of two splits), its window's samples, its prompt."""
    rows = zip(batch.ids, batch.references, batch.lengths.tolist(), batch.prefixes, strict=True)
    samples = batch.waveform.shape[1]
    return [(id, reference, length, samples, tuple(prefix)) for id, reference, length, prefix in rows]


def find_pairs(batch: Batch) -> Bool[Tensor, "batch"]:
    """Which utterances have a rejected transcript."""
    if batch.rejected_labels is None:
        return torch.zeros(len(batch), dtype=torch.bool, device=batch.labels.device)
    return (batch.rejected_labels != IGNORED).any(dim=1)


def score_pairs(
    whisper: Whisper, states: Float[Tensor, "batch position told"], batch: Batch
) -> Float[Tensor, "batch 2"]:
    """log p of chosen and rejected: text and <|endoftext|>, without the tokens before, which both have alike."""
    end = whisper.tokens.end_of_text
    sides = [batch, *([batch.as_rejected()] if batch.rejected_labels is not None else [])]
    scored = [
        compute_token_scores(
            whisper, states, side.decoder_input_ids, side.labels.masked_fill(side.labels > end, IGNORED)
        ).of_rows
        for side in sides
    ]
    return torch.stack([scored[0], scored[-1]], dim=1)


def compute_preference_loss(margins: Float[Tensor, "batch"], label_smoothing: float) -> Float[Tensor, "batch"]:
    """-log of the chance that the first is preferred (Bradley and Terry 1952), its labels smoothed."""
    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def describe_margins(margins: Float[Tensor, "batch"], is_pair: Bool[Tensor, "batch"]) -> dict[str, float]:
    """For the log: the share of the pairs in their order, and how far they are apart; nothing without pairs."""
    if not is_pair.any():
        return {}
    margins = margins.detach()[is_pair]
    return {"accuracy": float((margins > 0).float().mean()), "margin": float(margins.mean())}


def pick(batch: Batch, rows: list[int]) -> Batch:
    """Some utterances of a batch, in what a transcript's likelihood depends on."""
    names = ("waveform", "lengths", "decoder_input_ids", "labels", "rejected_input_ids", "rejected_labels", "states")
    tensors = {name: getattr(batch, name) for name in names}
    return replace(
        batch,
        ids=[batch.ids[row] for row in rows],
        **{name: tensor[rows] for name, tensor in tensors.items() if tensor is not None},
    )
