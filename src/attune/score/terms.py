"""What a transcript is worth to someone who has a list of terms: were they written, and were the other words spared?

    recall     terms that were said and written / terms that were said
    precision  terms that were said and written / terms that were written
    B-WER      errors in words of terms / such words in the reference (Le et al. 2021, arXiv:2104.02194)
    U-WER      errors in all other words / such words in the reference

A term counts as often as it is said and as it is written in an utterance, wherever in it. A word that was inserted
belongs to a term if it stands in one in the hypothesis. In languages without spaces words are characters.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from attune.score.metrics import Prediction, align
from attune.score.statistics import bootstrap_interval, choose_units
from attune.text.finder import Found, TermFinder, split_units

COMMON = 10  # times in the training text; fewer is rare, none is unseen
GROUPS = ("unseen", "rare", "common")
COUNTED = ("said", "written", "hits")
GRAVEST = 8  # utterances with missed terms that are kept for the report


@dataclass(frozen=True)
class TermScore:
    """A panel's terms. Rates are fractions in [0, 1], B-WER and U-WER in [0, inf); None where nothing was counted.

    Args:
        recall_ci95: over speakers or utterances, as for WER.
        said, written, hits: occurrences; false_insertions are those that were written and not said.
        biased_wer, unbiased_wer: B-WER and U-WER, of biased_words and unbiased_words.
        by_frequency: unseen, rare (under 10) and common in the recorded training text: said and recall of each.
        missed: id -> the terms that were said and not written, of the eight gravest utterances.
    """

    recall: float | None
    recall_ci95: tuple[float, float] | None
    precision: float | None
    f1: float | None
    said: int
    written: int
    hits: int
    false_insertions: int
    biased_wer: float | None
    unbiased_wer: float | None
    biased_words: int
    unbiased_words: int
    by_frequency: dict[str, dict[str, float | None]] = field(default_factory=dict)
    missed: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Counts:
    """One utterance: terms said, written and both; (errors, words) of its terms and of all else."""

    said: Counter[str]
    written: Counter[str]
    biased: tuple[int, int]
    unbiased: tuple[int, int]

    @property
    def hits(self) -> Counter[str]:
        return self.said & self.written


def score_terms(
    predictions: Sequence[Prediction],
    finder: TermFinder,
    frequency: Mapping[str, int],
    draws: int = 10_000,
    seed: int = 0,
) -> TermScore:
    """Score the terms of one test set.

    Args:
        predictions: each utterance once.
        frequency: how often each term stands in the recorded training text.
        draws, seed: of the bootstrap.
    """
    counted = [_count(prediction, finder) for prediction in predictions]
    said, written, hits = (sum((getattr(each, name) for each in counted), Counter()) for name in COUNTED)
    biased, unbiased = (_add(getattr(each, name) for each in counted) for name in ("biased", "unbiased"))
    recall, precision = _divide(hits.total(), said.total()), _divide(hits.total(), written.total())
    missed = {each.id: list((count.said - count.written).elements()) for each, count in _pair(predictions, counted)}
    gravest = sorted((id for id in missed if missed[id]), key=lambda id: -len(missed[id]))[:GRAVEST]
    return TermScore(
        recall=recall,
        recall_ci95=_compute_interval(predictions, counted, draws, seed),
        precision=precision,
        f1=_divide(2 * hits.total(), said.total() + written.total()),
        said=said.total(),
        written=written.total(),
        hits=hits.total(),
        false_insertions=written.total() - hits.total(),
        biased_wer=_divide(*biased),
        unbiased_wer=_divide(*unbiased),
        biased_words=biased[1],
        unbiased_words=unbiased[1],
        by_frequency=_group(said, hits, frequency),
        missed={id: missed[id] for id in gravest},
    )


def _count(prediction: Prediction, finder: TermFinder) -> _Counts:
    texts, language = (prediction.reference, prediction.hypothesis), prediction.language
    said, written = (finder.find(text, language) for text in texts)
    reference, hypothesis = (split_units(text, language) for text in texts)
    is_said, is_written = _mark(said, len(reference)), _mark(written, len(hypothesis))
    errors = {True: 0, False: 0}
    at, heard = 0, 0
    for operation, _, _ in align(" ".join(reference), " ".join(hypothesis)):
        if operation != "equal":
            errors[is_written[heard] if operation == "insert" else is_said[at]] += 1
        at += operation != "insert"
        heard += operation != "delete"
    return _Counts(
        Counter(each.spelling for each in said),
        Counter(each.spelling for each in written),
        (errors[True], sum(is_said)),
        (errors[False], len(is_said) - sum(is_said)),
    )


def _mark(found: Sequence[Found], length: int) -> list[bool]:
    """Of every unit, whether it stands in a term."""
    inside = {unit for each in found for unit in range(each.start, each.end)}
    return [unit in inside for unit in range(length)]


def _compute_interval(
    predictions: Sequence[Prediction], counted: Sequence[_Counts], draws: int, seed: int
) -> tuple[float, float] | None:
    """Of recall, from that of the share of misses."""
    spoken = [(each, count) for each, count in _pair(predictions, counted) if count.said]
    if len(spoken) < 2:
        return None
    units, _ = choose_units([each.speaker for each, _ in spoken], [each.recording for each, _ in spoken])
    said = [count.said.total() for _, count in spoken]
    misses = [(count.said - count.written).total() for _, count in spoken]
    low, high = bootstrap_interval(misses, said, units, draws, seed)
    return 1 - high, 1 - low


def _group(said: Counter[str], hits: Counter[str], frequency: Mapping[str, int]) -> dict[str, dict[str, float | None]]:
    groups: dict[str, dict[str, float | None]] = {}
    for name in GROUPS:
        terms = [term for term in said if _name_group(frequency.get(term, 0)) == name]
        total = sum(said[term] for term in terms)
        groups[name] = {"said": total, "recall": _divide(sum(hits[term] for term in terms), total)}
    return groups


def _name_group(times: int) -> str:
    return "unseen" if not times else "rare" if times < COMMON else "common"


def _add(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    errors, words = zip(*pairs, strict=True)
    return sum(errors), sum(words)


def _pair(predictions: Sequence[Prediction], counted: Sequence[_Counts]) -> list[tuple[Prediction, _Counts]]:
    return list(zip(predictions, counted, strict=True))


def _divide(part: int, whole: int) -> float | None:
    return part / whole if whole else None
