"""What a hypothesis is worth: one function a reward, more is better; a weighted sum of them is what GRPO raises."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.reward_head import find_reward_head, score_texts
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.score.metrics import count_character_errors, count_word_errors
from attune.text.finder import TermFinder
from attune.text.normalise import characters, normalise
from attune.text.vocabulary import Term, check_terms, make_term, read_terms
from attune.train.objective.hypotheses import Hypotheses, hear

REPEATED_WORDS = 3  # a run of so many words that was there before is a loop's


@dataclass(frozen=True)
class Candidate:
    """What a reward sees of a hypothesis; a reward of your own is a function of it that returns a number.

    Args:
        hypothesis, reference: as written, not normalised.
        ended: whether the decoder wrote <|endoftext|> before the limit cut it off.
        language: Whisper's code.
        duration_s: of the audio.
        id: of the utterance.
    """

    hypothesis: str
    reference: str
    ended: bool
    language: str
    duration_s: float
    id: str


Reward = Callable[[Candidate], float]


def score_wer(candidate: Candidate) -> float:
    """-WER of normalised text: 0 is right, below -1 more words are wrong than were said."""
    said, heard = (normalise(text, candidate.language) for text in (candidate.reference, candidate.hypothesis))
    return -count_word_errors(said, heard).rate


def score_cer(candidate: Candidate) -> float:
    """-CER of normalised text, without the spaces of languages that spell without them."""
    texts = (characters(normalise(text), candidate.language) for text in (candidate.reference, candidate.hypothesis))
    return -count_character_errors(*texts).rate


def score_no_repeat(candidate: Candidate) -> float:
    """In [-1, 0]: minus the share of word triples that stood in the text before, beyond the reference's own share. Of
    characters, where a language is written without spaces."""
    texts = (candidate.reference, candidate.hypothesis)
    said, heard = (count_repeats(normalise(text, candidate.language)) for text in texts)
    return min(0.0, said - heard)


def score_ended(candidate: Candidate) -> float:
    """1 where <|endoftext|> was reached, else 0."""
    return float(candidate.ended)


def score_length(candidate: Candidate) -> float:
    """-|log(length / reference's length)|, in characters and each one more, so that empty texts have a length."""
    texts = (candidate.hypothesis, candidate.reference)
    heard, said = (len(characters(normalise(text), candidate.language)) for text in texts)
    return -abs(math.log((heard + 1) / (said + 1)))


def make_term_recall(terms: Sequence[Term]) -> Reward:
    """The share of the reference's terms that the hypothesis has, in [0, 1]; 1 where the reference has none."""
    finder = TermFinder(terms)

    def score_term_recall(candidate: Candidate) -> float:
        texts = (candidate.reference, candidate.hypothesis)
        said, written = (Counter(found.spelling for found in finder.find(text, candidate.language)) for text in texts)
        return (said & written).total() / said.total() if said else 1.0

    return score_term_recall


PLAIN: dict[str, Reward] = {
    "wer": score_wer,
    "cer": score_cer,
    "no_repeat": score_no_repeat,
    "ended": score_ended,
    "length": score_length,
}
NAMES = (*PLAIN, "term_recall", "model", "own")


def count_repeats(text: str) -> float:
    """Share of the word triples that occurred before in the text, in [0, 1)."""
    words = text.split()
    triples = list(zip(*(words[start:] for start in range(REPEATED_WORDS)), strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


class LearnedReward:
    """The score of a run of objective=reward_model. It listens by itself, with its own encoder.

    It is loaded anew by a resumed run and stands in no checkpoint.
    """

    def __init__(self, run_or_model: str):
        self.scorer: Whisper = load_whisper(run_or_model, load_tokens(run_or_model)).requires_grad_(False).eval()
        find_reward_head(self.scorer.network)

    @torch.no_grad()
    def score(self, batch: Batch, drawn: Hypotheses) -> list[float]:
        scorer = self.scorer.to(batch.labels.device)
        states = hear(scorer, batch).repeat_interleave(drawn.size, dim=0)
        languages = [language for language in batch.languages for _ in range(drawn.size)]
        return score_texts(scorer, states, drawn.texts, languages).tolist()


class Rewards:
    """The weighted sum of some rewards.

    Args:
        weights: NAME -> weight, of NAMES; 0 leaves it out.
        terms: of term_recall: a list, or a file as vocabulary=file takes it.
        reward_model: of `model`: a run of objective=reward_model.
        own: of `own`: the dotted path of a function Candidate -> float, such as my_package.rewards.brevity.

    Raises:
        InputError: a reward is unknown, its setting is missing, or none has a weight.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        terms: Sequence[str] | str = (),
        reward_model: str | None = None,
        own: str | None = None,
    ):
        unknown = sorted(weights.keys() - set(NAMES))
        if unknown:
            raise InputError(f"objective.rewards has no {', '.join(unknown)}. It has: {', '.join(NAMES)}.")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise InputError(f"objective.rewards: every weight is 0. Give one of {', '.join(NAMES)} a weight.")
        self.reward_model, self.learned = reward_model, None
        self.functions = {name: PLAIN[name] for name in self.weights if name in PLAIN}
        if "term_recall" in self.weights:
            self.functions["term_recall"] = make_term_recall(take_terms(terms))
        if "own" in self.weights:
            self.functions["own"] = find_function(own)
        if "model" in self.weights and reward_model is None:
            raise InputError(
                "objective.rewards.model needs objective.reward_model=RUN, a run of objective=reward_model."
            )

    def load(self) -> None:
        """The learned reward, where it has a weight: after everything else has been checked."""
        if "model" in self.weights and self.reward_model is not None:
            self.learned = LearnedReward(self.reward_model)

    def score(self, batch: Batch, drawn: Hypotheses) -> Float[Tensor, "utterance hypothesis"]:
        """In double precision, on the CPU.

        Raises:
            InputError: a reward is no finite number; with the reward, the utterance and the hypothesis.
        """
        candidates = make_candidates(batch, drawn)
        total = torch.zeros(len(candidates), dtype=torch.float64)
        for name, weight in self.weights.items():
            values = self._evaluate(name, batch, drawn, candidates)
            total += weight * torch.tensor(values, dtype=torch.float64)
        return total.view(-1, drawn.size)

    def _evaluate(self, name: str, batch: Batch, drawn: Hypotheses, candidates: Sequence[Candidate]) -> list[float]:
        if name == "model" and self.learned is not None:
            given = self.learned.score(batch, drawn)
        else:
            given = [self.functions[name](candidate) for candidate in candidates]
        values = [to_number(value) for value in given]
        for candidate, value in zip(candidates, values, strict=True):
            if not math.isfinite(value):
                raise InputError(
                    f"objective.rewards.{name} gave {value} for utterance {candidate.id!r}, hypothesis "
                    f"{candidate.hypothesis!r}, reference {candidate.reference!r}; a reward is a finite number. No "
                    "step was taken with it: mend the reward and go on with resume=RUN."
                )
        return values


def to_number(value: Any) -> float:
    """What a reward gave; nan for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def make_candidates(batch: Batch, drawn: Hypotheses) -> list[Candidate]:
    """Utterance by utterance, its hypotheses in the order in which they were drawn."""
    candidates = []
    for place, (hypothesis, text) in enumerate(zip(drawn.written, drawn.texts, strict=True)):
        utterance = place // drawn.size
        candidates.append(
            Candidate(
                hypothesis=text,
                reference=batch.references[utterance],
                ended=hypothesis.ended,
                language=batch.languages[utterance],
                duration_s=int(batch.lengths[utterance]) / SAMPLE_RATE_HZ,
                id=batch.ids[utterance],
            )
        )
    return candidates


def take_terms(terms: Sequence[str] | str) -> list[Term]:
    """A list as it is, or a file as vocabulary=file takes it (text/vocabulary.py).

    Raises:
        InputError: there is no such file, a term in it is wrong, or there is none.
    """
    try:
        if isinstance(terms, str):
            return read_terms(terms)
        found = [make_term({"term": term}, f"objective.terms, {term!r}") for term in terms]
        return check_terms(found, "objective.terms, which objective.rewards.term_recall needs,")
    except InputError as error:
        raise InputError(str(error).replace("vocabulary.file", "objective.terms")) from None


def find_function(path: str | None) -> Reward:
    """The function at a dotted path.

    Raises:
        InputError: there is none.
    """
    module, _, name = (path or "").rpartition(".")
    try:
        function: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"objective.own={path}: {error}. Give the dotted path of a function that takes a Candidate "
            "(attune.train.objective.rewards) and returns a number; its module must be importable (PYTHONPATH)."
        ) from None
    if not callable(function):
        raise InputError(f"objective.own={path} is a {type(function).__name__} and no function.")
    return function  # type: ignore[return-value]
