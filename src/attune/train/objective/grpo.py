"""Reinforcement learning: what the model says more often is what was worth more than its other attempts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.errors import InputError, check_whole
from attune.model.likelihood import TokenScores
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import LossTerms
from attune.train.objective.hypotheses import FromHypotheses, Hypotheses, hear
from attune.train.objective.reference import OtherReference, Reference, check_vocabulary, take_reference
from attune.train.objective.rewards import Rewards

BASELINES = ("group", "greedy")


class Grpo(FromHypotheses):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300), for transcripts.

    Of each utterance G hypotheses are drawn, each with a reward r and an advantage A = r - baseline. Loss of a token:

        -min(rho A, clip(rho, 1 - clip, 1 + clip) A) + kl * (q/p - log(q/p) - 1)

    p is the model's chance of the token, rho = p / p of the model that drew it, q the reference's chance; the last term
    estimates KL(p || q) (Schulman 2020, "Approximating KL divergence"). A hypothesis's loss is the sum over its tokens,
    or their mean (`length_normalised`); an utterance's the mean over its group, and its transcript's -log p times
    `anchor`. The window's sum of these is divided by its utterances.

    The model that draws is the one of this step, rho is 1 and nothing is clipped, unless `refresh_every` is above 1:
    then it is the model of up to so many steps ago, of which a copy of what learns is kept. Begin with a supervised
    model and a tenth of its rate: model.name_or_path=RUN optimizer.rate_share=0.1.

    Args:
        samples: G, at least 2 with baseline=group.
        temperature: of all chances.
        baseline: group, the mean reward of the utterance's hypotheses; or greedy, the reward of what the model writes
            (self-critical training, Rennie et al. 2017, arXiv:1612.00563).
        divide_by_deviation: A over the standard deviation of the group's rewards. Without, hard and easy utterances
            count by what there is to be won (Liu et al. 2025, arXiv:2503.20783).
        length_normalised: a hypothesis counts alike however long it is; else each of its tokens does.
        clip: in (0, 1); null does not clip.
        kl: weight of the KL term, at least 0; 0 keeps no reference.
        reference: null, the model that the run starts from, or another of the same vocabulary: a run or a model.
        refresh_every: optimiser steps from one renewal of the model that draws to the next, at least 1.
        anchor: weight of the transcript's -log p, summed over its tokens.
        rewards: NAME -> weight (rewards.py); terms, reward_model, own: what some of them need.
    """

    def __init__(
        self,
        samples: int = 8,
        temperature: float = 1.0,
        baseline: str = "group",
        divide_by_deviation: bool = True,
        length_normalised: bool = True,
        clip: float | None = 0.2,
        kl: float = 0.04,
        reference: str | None = None,
        refresh_every: int = 1,
        anchor: float = 0.01,
        rewards: Mapping[str, float] | None = None,
        terms: Sequence[str] | str = (),
        reward_model: str | None = None,
        own: str | None = None,
    ):
        super().__init__(samples, temperature, anchor)
        check_whole("objective", refresh_every=refresh_every)
        if baseline not in BASELINES:
            raise InputError(f"objective.baseline={baseline}: accepted are {', '.join(BASELINES)}.")
        if samples < (2 if baseline == "group" else 1):
            raise InputError(
                f"objective.samples={samples}: a group of one has no others to be better than, so its advantage is "
                "always 0. Draw 2 or more, or take objective.baseline=greedy."
            )
        if kl < 0 or refresh_every < 1 or (clip is not None and not 0 < clip < 1):
            raise InputError(
                f"objective: kl={kl:g}, refresh_every={refresh_every} and clip={clip}; accepted are kl of 0 or more, "
                "refresh_every of 1 or more, clip in (0, 1) or null."
            )
        self.baseline, self.divide_by_deviation = baseline, divide_by_deviation
        self.length_normalised, self.clip = length_normalised, clip
        self.kl, self.reference_name, self.refresh_every = kl, reference, refresh_every
        self.reference: Reference | OtherReference | None = None
        self.drawer: Reference | None = None
        self.rewards = Rewards({"wer": 1.0} if rewards is None else rewards, terms, reward_model, own)

    @property
    def listeners(self) -> list[str]:
        """The settings by which another model than the trained one listens."""
        asked = {"objective.reference": self.kl and self.reference_name}
        asked["objective.reward_model"] = "model" in self.rewards.weights
        return [key for key, is_asked in asked.items() if is_asked]

    def check(self, data: SpeechDataModule) -> None:
        check_vocabulary(self.reference_name if self.kl else None, data.tokens)

    def prepare(self, whisper: Whisper, seed: int, is_varied: bool) -> int:
        added = super().prepare(whisper, seed, is_varied)
        self.reference = take_reference(whisper, self.reference_name) if self.kl else None
        self.drawer = Reference(whisper, is_renewed=True) if self.refresh_every > 1 else None
        self.rewards.load()
        return added

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        if self.drawer is None:
            states = hear(whisper, batch)
            drawn, before = self.draw(whisper, states, batch), None
        else:
            drawn, before = self._draw_from_before(self.drawer, whisper, batch)
            states = hear(whisper, batch)
        rewards = self.rewards.score(batch, drawn)
        advantages = self._compute_advantages(rewards, whisper, states, batch).to(states.device, torch.float32)
        scores = self.score(whisper, states, batch, drawn)
        reference = self._score_reference(whisper, states, batch, drawn)
        terms = compute_policy_terms(scores, before, reference, advantages.flatten(), self.clip)
        loss = self._sum(terms.surrogate + self.kl * terms.divergence, scores)
        logged = {
            "reward": float(rewards.mean()),
            "reward_spread": float(rewards.std(dim=1, correction=0).mean()),
            "kl": float(terms.divergence.detach().mean()),
            "clip_share": terms.clip_share,
            "entropy": float(scores.entropies.mean()),
            **drawn.describe(),
        }
        return self.add_anchor(loss, whisper, states, batch, logged)

    def _draw_from_before(
        self, drawer: Reference, whisper: Whisper, batch: Batch
    ) -> tuple[Hypotheses, Float[Tensor, "token"]]:
        """Hypotheses of the model that was last renewed, and its log-probabilities of their tokens."""
        if self.step % self.refresh_every == 0:
            drawer.renew(whisper)
        with drawer.stand_in(whisper):
            states = hear(whisper, batch)
            drawn = self.draw(whisper, states, batch)
            return drawn, self.score(whisper, states, batch, drawn).log_probabilities

    def _score_reference(
        self, whisper: Whisper, states: Tensor, batch: Batch, drawn: Hypotheses
    ) -> Float[Tensor, "token"] | None:
        if self.reference is None:
            return None
        with self.reference.stand_in(whisper) as other:
            theirs = states.detach() if self.reference.hears_alike else hear(other, batch)
            return self.score(other, theirs, batch, drawn).log_probabilities

    def _compute_advantages(
        self, rewards: Float[Tensor, "utterance sample"], whisper: Whisper, states: Tensor, batch: Batch
    ) -> Float[Tensor, "utterance sample"]:
        baseline = None
        if self.baseline == "greedy":
            baseline = self.rewards.score(batch, self.find(whisper, states, batch, count=1))
        return compute_advantages(rewards, baseline, self.divide_by_deviation)

    def _sum(self, losses: Float[Tensor, "token"], scores: TokenScores) -> Float[Tensor, ""]:
        """Tokens -> hypotheses -> the mean of each group -> the sum over utterances."""
        each = scores.sum_rows(losses)
        if self.length_normalised:
            each = each / scores.lengths.clamp(min=1)
        return each.sum() / self.samples


def compute_advantages(
    rewards: Float[Tensor, "utterance sample"],
    baseline: Float[Tensor, "utterance 1"] | None,
    divide_by_deviation: bool,
) -> Float[Tensor, "utterance sample"]:
    """Rewards less their baseline, which is their mean where none is given; 0 where a group's rewards are all equal
    to it, exactly, so that rounding is not blown up by the division."""
    others = rewards.mean(dim=1, keepdim=True) if baseline is None else baseline
    advantages = rewards - others
    flat = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    if baseline is None:
        advantages = advantages.masked_fill(flat, 0.0)
    if not divide_by_deviation:
        return advantages
    deviation = rewards.std(dim=1, correction=0, keepdim=True)
    return torch.where(flat, advantages, advantages / deviation.clamp(min=1e-12))


@dataclass(frozen=True)
class PolicyTerms:
    """Of each token of the hypotheses: what is lowered, and how far the model has gone from its reference."""

    surrogate: Float[Tensor, "token"]
    divergence: Float[Tensor, "token"]
    clip_share: float


def compute_policy_terms(
    scores: TokenScores,
    before: Float[Tensor, "token"] | None,
    reference: Float[Tensor, "token"] | None,
    advantages: Float[Tensor, "row"],
    clip: float | None,
) -> PolicyTerms:
    """The clipped surrogate and the estimate of KL(p || q), a token.

    Args:
        before: log-probabilities under the model that drew the tokens; None is this very model.
        reference: log-probabilities under the reference; None is no divergence.
        advantages: of each hypothesis.
    """
    log_p = scores.log_probabilities
    ratio = (log_p - (log_p.detach() if before is None else before)).exp()
    gain = advantages[scores.rows]
    surrogate, clipped = -ratio * gain, torch.zeros_like(ratio, dtype=torch.bool)
    if clip is not None:
        held = -ratio.clamp(1 - clip, 1 + clip) * gain
        clipped = held > surrogate
        surrogate = torch.maximum(surrogate, held)
    divergence = torch.zeros_like(log_p)
    if reference is not None:
        distance = reference - log_p
        divergence = distance.expm1() - distance
    share = float(clipped.float().mean()) if len(clipped) else 0.0
    return PolicyTerms(surrogate, divergence, share)
