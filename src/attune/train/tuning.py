"""How strongly decoding is drawn to the terms: chosen on validation, never on test."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L

from attune.data.module import SpeechDataModule
from attune.model.bias import TermBias
from attune.train.aid import Aid
from attune.train.module import WhisperModule
from attune.train.scoring import score

TARGET = "validation"
LIMIT = 0.005  # how much higher U-WER may be for the sake of the terms, a fraction: half a point
SHARE = 0.05  # and how much higher, as a share of itself, where the terms that are won outweigh it
# Half a point of a validation set of 136 other words is less than one word: there the WER of all words decides, in
# which each term that is won weighs as much as a word that is lost. But no list may cost more than that share.
RULE = (
    f"Chosen: the highest F1 of the terms on {TARGET} among the weights at which the WER of the words outside the "
    f"terms is at most {100 * LIMIT:g} points above what it is without a bias, or at most {100 * SHARE:g} % above it "
    "where the WER of all words is not above its own."
)


@dataclass(frozen=True)
class Tried:
    """One weight on validation; fractions, None where nothing was counted."""

    bias: float
    f1: float | None
    recall: float | None
    unbiased_wer: float | None
    wer: float


def make_aid(
    trainer: L.Trainer, module: WhisperModule, data: SpeechDataModule, bias: TermBias | None
) -> tuple[Aid | None, dict[str, Any]]:
    """How the run's vocabulary helps its model, and the `vocabulary` part of run.json.

    Args:
        bias: of its terms, at any weight; None where decoding is not biased.
    """
    vocabulary = data.vocabulary
    if vocabulary is None:
        return None, {}
    record = vocabulary.describe(data.tokens)
    if bias is None:
        return Aid(vocabulary), record
    weights = vocabulary.weights
    if len(weights) > 1:
        tried = try_weights(trainer, module, data, bias)
        record |= {"tuning": [asdict(each) for each in tried], "rule": RULE}
        weights = [choose(tried).bias]
    return Aid(vocabulary, bias.reweigh(weights[0]) if weights[0] else None), {**record, "bias": weights[0]}


def try_weights(trainer: L.Trainer, module: WhisperModule, data: SpeechDataModule, bias: TermBias) -> list[Tried]:
    """Every weight of the vocabulary on validation, and 0 before them."""
    tried = []
    for weight in sorted({0.0, *data.vocabulary.weights}):  # type: ignore[union-attr]
        aid = Aid(data.vocabulary, bias.reweigh(weight) if weight else None)  # type: ignore[arg-type]
        panel = score(trainer, module, data, [TARGET], aid=aid).panels[TARGET]
        terms = panel.terms
        assert terms is not None  # there is a vocabulary
        tried.append(Tried(weight, terms.f1, terms.recall, terms.unbiased_wer, panel.wer))
    return tried


def choose(tried: Sequence[Tried]) -> Tried:
    """By RULE; of equals the smallest weight. tried[0] is without a bias."""
    plain = tried[0]
    low = (plain.unbiased_wer or 0.0) + LIMIT + 1e-9
    high = max(low, (1 + SHARE) * (plain.unbiased_wer or 0.0) + 1e-9)
    kept = [each for each in tried if (each.unbiased_wer or 0.0) <= (high if each.wer <= plain.wer else low)]
    return max(kept, key=lambda each: (each.f1 or 0.0, -each.bias))
