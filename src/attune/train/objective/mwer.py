"""Minimum word error rate: what is lowered is the number of words that the model expects to get wrong."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.score.metrics import count_character_errors, count_word_errors
from attune.text.normalise import characters, normalise, spells_without_spaces
from attune.train.objective.cross_entropy import LossTerms
from attune.train.objective.hypotheses import FromHypotheses, Hypotheses, hear, mask_first

SEARCHES = ("sample", "beam")


class Mwer(FromHypotheses):
    """sum_y P(y) (W(y) - mean W) + anchor * -log p(transcript) (Prabhavalkar et al. 2018, arXiv:1712.01818).

    Over the different hypotheses y of an utterance, drawn or of an n-best list; P(y) = p(y) / sum p(y) over the same,
    W the word errors of normalised text (of characters, where a language spells without spaces). The mean takes nothing
    from the gradient and keeps the loss near 0. Begin with a supervised model and a tenth of its rate:
    model.name_or_path=RUN optimizer.rate_share=0.1.

    Args:
        samples: N, at least 2. Of equal ones one counts.
        search: sample, or beam: the N likeliest that a beam of width N finds.
        temperature: of drawing, and of P.
        anchor: weight of the transcript's -log p, summed over its tokens.
    """

    def __init__(self, samples: int = 4, search: str = "sample", temperature: float = 0.9, anchor: float = 0.01):
        super().__init__(samples, temperature, anchor)
        if samples < 2:
            raise InputError(f"objective.samples={samples}: one hypothesis has nothing to be better than; 2 or more.")
        if search not in SEARCHES:
            raise InputError(f"objective.search={search}: accepted are {', '.join(SEARCHES)}.")
        self.search = search

    def loss(self, whisper: Whisper, batch: Batch) -> LossTerms:
        states = hear(whisper, batch)
        if self.search == "beam":
            drawn = self.find(whisper, states, batch, self.samples)
        else:
            drawn = self.draw(whisper, states, batch)
        scores = self.score(whisper, states, batch, drawn)
        errors = count_errors(batch, drawn).to(states.device)
        is_first = mask_first(drawn, states.device)
        posteriors = compute_posteriors(scores.of_rows.view_as(errors), is_first)
        loss = compute_expected_errors(posteriors, errors, is_first)
        logged = self._describe(posteriors.detach(), errors, drawn)
        logged["entropy"] = float(scores.entropies.mean())
        return self.add_anchor(loss.sum(), whisper, states, batch, logged)

    def _describe(self, posteriors: Tensor, errors: Tensor, drawn: Hypotheses) -> dict[str, float]:
        return {
            "expected_errors": float((posteriors * errors).sum(dim=1).mean()),
            "errors_spread": float(errors.std(dim=1, correction=0).mean()),
            **drawn.describe(),
        }


def count_errors(batch: Batch, drawn: Hypotheses) -> Float[Tensor, "utterance hypothesis"]:
    """Word errors, or character errors where a language spells without spaces, of normalised text."""
    errors = []
    for place, text in enumerate(drawn.texts):
        utterance = place // drawn.size
        language = batch.languages[utterance]
        said, heard = normalise(batch.references[utterance]), normalise(text)
        if spells_without_spaces(language):
            counts = count_character_errors(characters(said, language), characters(heard, language))
        else:
            counts = count_word_errors(said, heard)
        errors.append(float(counts.total))
    return torch.tensor(errors).view(-1, drawn.size)


def compute_posteriors(
    log_probabilities: Float[Tensor, "utterance hypothesis"], is_first: Bool[Tensor, "utterance hypothesis"]
) -> Float[Tensor, "utterance hypothesis"]:
    """p(y) / sum p(y) over the different hypotheses of an utterance; 0 for repetitions."""
    return log_probabilities.masked_fill(~is_first, -torch.inf).softmax(dim=1)


def compute_expected_errors(
    posteriors: Float[Tensor, "utterance hypothesis"],
    errors: Float[Tensor, "utterance hypothesis"],
    is_first: Bool[Tensor, "utterance hypothesis"],
) -> Float[Tensor, "utterance"]:
    """sum_y P(y) (W(y) - mean W)."""
    mean = (errors * is_first).sum(dim=1, keepdim=True) / is_first.sum(dim=1, keepdim=True)
    return (posteriors * (errors - mean)).sum(dim=1)
