"""Corpus-level word and character error rates: what was substituted, deleted, inserted, and said into silence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torchmetrics import Metric

from attune.text.normalise import characters, normalise, spells_without_spaces

Operation = Literal["equal", "substitute", "delete", "insert"]
Unit = Literal["word", "character"]

OPERATIONS: dict[str, Operation] = {  # rapidfuzz's words -> ours
    "equal": "equal",
    "replace": "substitute",
    "delete": "delete",
    "insert": "insert",
}


@dataclass(frozen=True)
class Prediction:
    """One scored utterance; reference and hypothesis as written, not normalised."""

    id: str
    reference: str
    hypothesis: str
    speaker: str | None
    language: str | None
    duration_s: float
    recording: str | None = None  # the file that it was cut from, where utterances share files
    accent: str | None = None
    margin: float | None = None  # of a pair: a reward model's score of the reference over that of the rejected text


@dataclass(frozen=True)
class Errors:
    """Counts against a reference of `words` words (characters, in CER). A corpus is the sum of its utterances."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """(S + D + I) / words, in [0, inf): insertions can bring it above 1.

        Against an empty reference it is the number of insertions, as in jiwer: always finite, so that it can serve as
        a reward. A corpus rate never holds such utterances: `CorpusErrorRate` counts them apart.
        """
        return self.total / max(self.words, 1)

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.words + other.words,
        )


def count_word_errors(reference: str, hypothesis: str) -> Errors:
    """Errors of the minimal alignment of white-space separated words (Levenshtein; the alignment that jiwer takes).

    Nothing is normalised here: give both through `normalise`, or neither.
    """
    return _count(reference.split(), hypothesis.split())


def count_character_errors(reference: str, hypothesis: str) -> Errors:
    """Errors of the minimal alignment of characters (Unicode code points), spaces included, as in jiwer."""
    return _count(reference, hypothesis)


def align(reference: str, hypothesis: str) -> list[tuple[Operation, str, str]]:
    """The minimal word alignment, for coloured differences and tables of errors.

    Returns:
        (operation, reference word, hypothesis word) in spoken order; the side that has no word holds "".
    """
    return _align(reference.split(), hypothesis.split())


def align_characters(reference: str, hypothesis: str) -> list[tuple[Operation, str, str]]:
    """The same of characters (Unicode code points), spaces among them."""
    return _align(reference, hypothesis)


def _align(said: Sequence[str], heard: Sequence[str]) -> list[tuple[Operation, str, str]]:
    pairs: list[tuple[Operation, str, str]] = []
    for code in Levenshtein.opcodes(said, heard):
        left, right = said[code.src_start : code.src_end], heard[code.dest_start : code.dest_end]
        for index in range(max(len(left), len(right))):  # equal lengths, or one of them is empty
            pairs.append((OPERATIONS[code.tag], left[index] if left else "", right[index] if right else ""))
    return pairs


def _count(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    tags = Counter(edit.tag for edit in Levenshtein.editops(reference, hypothesis))
    return Errors(tags["replace"], tags["delete"], tags["insert"], len(reference))


class CorpusErrorRate(Metric):
    """Errors of a corpus over its reference units: sum(S + D + I) / sum(N), never a mean of utterances or batches.

    Utterances of one word and of thirty then weigh what they hold; a mean of rates reads .25 where the corpus has .167.
    An utterance whose reference is empty has no rate. It is kept out of the sums and counted apart:

        silences        utterances with an empty reference
        hallucinations  those of them with a hypothesis that is not empty

    All states are integer sums, so that ranks and batches merge exactly. A distributed sampler repeats utterances to
    fill the last batch, and this metric cannot see it: `score_panel` removes them by id.

    Args:
        unit: "word" for WER, "character" for CER (spaces count, except in languages that spell without them).
        normalised: compare `normalise(text)`; False compares the text as written (the raw rate).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    substitutions: Tensor
    deletions: Tensor
    insertions: Tensor
    words: Tensor
    silences: Tensor
    hallucinations: Tensor

    def __init__(self, unit: Unit = "word", normalised: bool = True) -> None:
        super().__init__()
        if unit not in ("word", "character"):
            raise ValueError(f"an error rate has no such unit: got unit={unit!r}, accepted 'word' or 'character'")
        self.unit: Unit = unit
        self.normalised = normalised
        for state in ("substitutions", "deletions", "insertions", "words", "silences", "hallucinations"):
            self.add_state(state, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        references: Sequence[str],
        hypotheses: Sequence[str],
        languages: Sequence[str | None] | None = None,
    ) -> None:
        """Count a batch.

        Args:
            references, hypotheses: one string an utterance, as written. torchmetrics' own WER takes them the other way.
            languages: Whisper's codes, one an utterance. In zh, yue, ja, th, lo, my, km a word is a character, and CER
                leaves out the spaces.

        Raises:
            ValueError: the lengths differ, or a single string was given.
        """
        _check_lengths(references, hypotheses, languages)
        if languages is None:
            languages = [None] * len(references)
        said = [self._prepare(text, language) for text, language in zip(references, languages, strict=True)]
        heard = [self._prepare(text, language) for text, language in zip(hypotheses, languages, strict=True)]
        pairs = list(zip(said, heard, strict=True))
        errors = sum((_count(reference, hypothesis) for reference, hypothesis in pairs if reference), Errors())
        # The states live on the device: they are touched once a batch, not once an utterance.
        self.substitutions += errors.substitutions
        self.deletions += errors.deletions
        self.insertions += errors.insertions
        self.words += errors.words
        self.silences += sum(not reference for reference in said)
        self.hallucinations += sum(not reference and bool(hypothesis) for reference, hypothesis in pairs)

    def compute(self) -> Float[Tensor, ""]:
        """The rate as a fraction, in [0, inf); nan where no reference unit was seen, because then there is no rate."""
        return (self.substitutions + self.deletions + self.insertions) / self.words

    @property
    def errors(self) -> Errors:
        """The counts so far; on several ranks those of this rank, except inside `sync_context()`."""
        return Errors(*(int(state) for state in (self.substitutions, self.deletions, self.insertions, self.words)))

    def _prepare(self, text: str, language: str | None) -> Sequence[str]:
        text = normalise(text) if self.normalised else text.strip()
        if self.unit == "word" and not spells_without_spaces(language):
            return text.split()
        return characters(text, language)


def _check_lengths(
    references: Sequence[str], hypotheses: Sequence[str], languages: Sequence[str | None] | None
) -> None:
    if isinstance(references, str) or isinstance(hypotheses, str):
        raise ValueError("a batch is a list of strings, and one string was given: wrap it, as in [reference]")
    counts = [len(references), len(hypotheses), len(references) if languages is None else len(languages)]
    if len(set(counts)) > 1:
        raise ValueError(
            "references, hypotheses and languages belong together, one an utterance: "
            f"got {counts[0]} references, {counts[1]} hypotheses, {counts[2]} languages; give lists of one length"
        )
