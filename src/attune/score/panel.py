"""The score of one test set: what stands under `baseline` and `result` in run.json."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from attune.errors import InputError
from attune.score.metrics import CorpusErrorRate, Errors, Prediction, Unit, count_word_errors
from attune.score.statistics import bootstrap_interval, choose_units
from attune.score.terms import TermScore, score_terms
from attune.text.finder import TermFinder
from attune.text.normalise import normalise, normalise_as_whisper

NO_INTERVAL = (float("nan"), float("nan"))
KINDS: tuple[tuple[Unit, bool], ...] = (("word", True), ("word", False), ("character", True))  # of wer, wer_raw, cer


@dataclass(frozen=True)
class Remainder:
    """The utterances of a test set whose sentence is not learnt: their number, and their rates as a PanelScore's."""

    utterances: int
    words: int
    wer: float
    cer: float


@dataclass(frozen=True)
class PairScore:
    """Pairs of transcripts: the share that a reward model puts in their order, where equal scores count a half, and
    its interval, of which (nan, nan) is that of a single pair."""

    pairs: int
    ordered: float
    ordered_ci95: tuple[float, float]


@dataclass(frozen=True)
class PanelScore:
    """One test set, scored as a corpus. Rates are fractions; they can exceed 1, because insertions count.

    wer, cer, the four counts and wer_ci95 are of normalised text, wer_raw of text as written. wer_ci95 resamples
    `ci_unit` ("speaker", "recording" or "utterance") and is (nan, nan) where fewer than two have words. All rates
    are nan on a panel that has no speech. hallucination_rate is the share of the utterances without speech for which
    something was written, None where the panel has none. rtf is `seconds`, the time that transcribing took, over
    seconds of audio.
    """

    wer: float
    wer_raw: float
    cer: float
    wer_ci95: tuple[float, float]
    ci_unit: str
    substitutions: int
    deletions: int
    insertions: int
    words: int
    utterances: int
    hallucination_rate: float | None
    rtf: float
    seconds: float
    wer_whisper: float = float("nan")  # by the normaliser that Whisper's authors use for each language
    remainder: Remainder | None = None  # where some sentences are learnt too: the score of the others
    terms: TermScore | None = None  # where the run has a vocabulary
    pairs: PairScore | None = None  # where a reward model has scored pairs


def score_panel(
    predictions: Sequence[Prediction],
    seconds: float,
    draws: int = 10_000,
    seed: int = 0,
    finder: TermFinder | None = None,
    frequency: Mapping[str, int] | None = None,
    learnt: Set[str] = frozenset(),
    spellings: Mapping[str, str] | None = None,
) -> PanelScore:
    """Score the transcripts of one test set.

    Args:
        predictions: in any order; repeats of an id are dropped (distributed samplers fill their last batch with them).
        seconds: wall time that it took to transcribe them, > 0.
        draws, seed: of the bootstrap; the same predictions and seed give the same interval.
        learnt: ids of utterances whose sentence is learnt too.
        spellings: British -> American, for Whisper's English normaliser.
        finder, frequency: of a vocabulary's terms, and how often each stands in the recorded training text.

    Raises:
        InputError: no predictions, or one id for two different utterances.
    """
    unique = _deduplicate(predictions)
    word, raw, character = (_measure(unique, *kind) for kind in KINDS)
    interval, ci_unit = _compute_interval(unique, draws, seed)
    silences, audio_s = int(word.silences), sum(prediction.duration_s for prediction in unique)
    return PanelScore(
        wer=_rate(word),
        wer_raw=_rate(raw),
        cer=_rate(character),
        wer_ci95=interval,
        ci_unit=ci_unit,
        substitutions=word.errors.substitutions,
        deletions=word.errors.deletions,
        insertions=word.errors.insertions,
        words=word.errors.words,
        utterances=len(unique),
        hallucination_rate=int(word.hallucinations) / silences if silences else None,
        rtf=seconds / audio_s if audio_s > 0 else float("nan"),
        seconds=seconds,
        wer_whisper=_rate_as_whisper(unique, spellings),
        remainder=_score_remainder(unique, learnt),
        terms=score_terms(unique, finder, frequency or {}, draws, seed) if finder else None,
        pairs=_score_pairs(unique, draws, seed),
    )


def _measure(predictions: Sequence[Prediction], unit: Unit, normalised: bool) -> CorpusErrorRate:
    metric = CorpusErrorRate(unit, normalised)
    metric.update(
        [prediction.reference for prediction in predictions],
        [prediction.hypothesis for prediction in predictions],
        [prediction.language for prediction in predictions],
    )
    return metric


def _rate_as_whisper(predictions: Sequence[Prediction], spellings: Mapping[str, str] | None) -> float:
    errors = Errors()
    for each in predictions:
        said, heard = (
            normalise_as_whisper(text, each.language, spellings) for text in (each.reference, each.hypothesis)
        )
        errors += count_word_errors(said, heard) if said else Errors()
    return errors.rate if errors.words else float("nan")


def _score_remainder(predictions: Sequence[Prediction], learnt: Set[str]) -> Remainder | None:
    rest = [each for each in predictions if each.id not in learnt]
    if len(rest) == len(predictions):
        return None
    word, character = (_measure(rest, unit, normalised=True) for unit in ("word", "character"))
    return Remainder(len(rest), word.errors.words, _rate(word), _rate(character))


def _score_pairs(predictions: Sequence[Prediction], draws: int, seed: int) -> PairScore | None:
    pairs = [each for each in predictions if each.margin is not None]
    if not pairs:
        return None
    halves = [(each.margin > 0) + (each.margin >= 0) for each in pairs]  # type: ignore[operator]
    units, _ = choose_units([each.speaker for each in pairs], [each.recording for each in pairs])
    enough = len(set(units or range(len(pairs)))) > 1
    interval = bootstrap_interval(halves, [2] * len(pairs), units, draws, seed) if enough else NO_INTERVAL
    return PairScore(len(pairs), sum(halves) / 2 / len(pairs), interval)


def count_errors(prediction: Prediction) -> Errors:
    """Word errors of normalised text; of characters in a language that is spelt without spaces."""
    texts = (normalise(text, prediction.language) for text in (prediction.reference, prediction.hypothesis))
    return count_word_errors(*texts)


def _rate(metric: CorpusErrorRate) -> float:
    # From the integers: compute() rounds to float32, which can put the rate outside an interval of no width.
    return metric.errors.rate if metric.errors.words else float("nan")


def _compute_interval(predictions: Sequence[Prediction], draws: int, seed: int) -> tuple[tuple[float, float], str]:
    counts = [count_errors(each) for each in predictions]
    spoken = [(each, count) for each, count in zip(predictions, counts, strict=True) if count.words]
    units, name = choose_units([each.speaker for each, _ in spoken], [each.recording for each, _ in spoken])
    if not spoken:
        return NO_INTERVAL, name
    errors, words = [count.total for _, count in spoken], [count.words for _, count in spoken]
    return bootstrap_interval(errors, words, units, draws, seed), name


def _deduplicate(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The first of each id. Repeats may differ in the hypothesis (padding moves a last bit), never in the reference."""
    first: dict[str, Prediction] = {}
    for prediction in predictions:
        kept = first.setdefault(prediction.id, prediction)
        if (kept.reference, kept.duration_s) != (prediction.reference, prediction.duration_s):
            raise InputError(
                f"one id stands for two utterances: {prediction.id!r} has the texts {kept.reference!r} "
                f"({kept.duration_s:.2f} s) and {prediction.reference!r} ({prediction.duration_s:.2f} s). "
                "An id names one utterance: make the ids of the corpus unique."
            )
    if not first:
        raise InputError(
            "there is nothing to score: got 0 predictions, accepted 1 or more. "
            "The test set is empty after the audit (see rejected.csv), or its path is wrong (data.test)."
        )
    return list(first.values())
