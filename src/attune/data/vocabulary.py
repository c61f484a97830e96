"""A list of terms in a run: which it is, and what it does to the data.

Synthetic speech goes into the training split, and lists of terms go into prompts: while training, true ones among
others; while scoring, all that fit or those that a first pass heard something like. What the list does to decoding is
in model/bias.py, what is measured with it in score/terms.py.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from datasets import Dataset, Value, concatenate_datasets

from attune.data.corpora.schema import WEIGHT
from attune.data.corpora.spoken_terms import VARIANTS, Speakers, speak_terms
from attune.data.sampling import Draw
from attune.errors import InputError
from attune.text.finder import TermFinder
from attune.text.tokens import MAX_PROMPT_TOKENS, Tokens
from attune.text.vocabulary import list_terms, read_grammar, read_terms

PROMPTS = (None, "all", "found")
FOUND_AT_MOST = 16  # terms in a prompt that a first pass has chosen; a longer list only adds wrong ones
ONLY_OTHERS = 0.2  # of the training prompts, the share without one true term: a list is an offer, not a promise
FEWEST_OTHERS = 2


class Prompts(Protocol):
    """What a row's prompt is to be, for this draw of it."""

    def __call__(self, row: Mapping[str, Any], draw: Draw) -> str | None: ...


class CustomVocabulary:
    """A list of terms, and the ways in which a run uses it.

    Args:
        file: a list of terms (text/vocabulary.py says how it is written); or
        grammar, symbols: an embedded grammar, and those of its symbols whose words are terms.
        bias: nats that each token of a term gains in decoding; of several the one that is best on validation; 0: none.
        prompt: terms before each utterance that is scored: null, all (those that fit) or found (by a first pass).
        train_prompts: share of the training utterances with a list before them, in [0, 1]; where `prompt` is set.
        distractors: at most so many of its terms are not said, at least 2.
        synthetic: share of the training utterances that are terms spoken by a machine, in [0, 1]; at 1, no recording is
            trained on.
        times: how often each term is spoken, in different sentences and voices.
        language: of the terms, Whisper's code; null: that of the first validation utterance.
        accents, variants, noise_db, synthesiser: who speaks (data/corpora/spoken_terms.py).
        seed: of every draw.
        cache_dir: where rendered speech is kept.

    Raises:
        InputError: a setting is none that there is, or the list is wrong.
    """

    def __init__(
        self,
        file: str | None = None,
        grammar: str | None = None,
        symbols: Sequence[str] = (),
        bias: float | Sequence[float] = 0.0,
        prompt: str | None = None,
        train_prompts: float = 0.0,
        distractors: int = 8,
        synthetic: float = 0.0,
        times: int = 4,
        language: str | None = None,
        accents: Sequence[str] = (),
        variants: Sequence[str] = VARIANTS,
        noise_db: tuple[float, float] | None = None,
        synthesiser: str | None = None,
        seed: int = 0,
        cache_dir: str | None = None,
    ):
        self.weights = _read_weights(bias)
        _check_settings(prompt, {"train_prompts": train_prompts, "synthetic": synthetic}, distractors, times)
        if (file is None) == (grammar is None):
            raise InputError("vocabulary needs a list: vocabulary=file vocabulary.file=terms.txt, or vocabulary=none.")
        self.terms = read_terms(file) if file is not None else read_grammar(str(grammar), symbols)
        self.source = file or f"the grammar {grammar}"
        self.prompt, self.train_prompts, self.distractors = prompt, train_prompts if prompt else 0.0, distractors
        self.synthetic, self.times, self.language = synthetic, times, language
        self.speakers = Speakers(accents or (), variants, noise_db=_read_range(noise_db), synthesiser=synthesiser)
        self.seed, self.cache_dir = seed, cache_dir
        self.spoken = 0  # synthetic utterances in the training split
        self.frequency: Counter[str] = Counter()  # of each term in the recorded training texts

    @cached_property
    def finder(self) -> TermFinder:
        return TermFinder(self.terms)

    def mix(self, recorded: Dataset | None, language: str) -> Dataset | None:
        """The training split with synthetic speech in it; None where there is neither."""
        if recorded is not None:
            texts = recorded.select_columns(["text", "language"]).to_list()
            found = (self.finder.find(row["text"], row["language"]) for row in texts)  # type: ignore[index, call-overload]
            self.frequency = Counter(each.spelling for terms in found for each in terms)
        if not self.synthetic:
            return recorded
        spoken = speak_terms(
            self.terms, self.times, self.speakers, self.language or language, self.seed, self.cache_dir
        )
        self.spoken = len(spoken)
        if self.synthetic == 1 or not recorded:
            return spoken
        weights = list(recorded[WEIGHT]) if WEIGHT in recorded.column_names else [1.0] * len(recorded)
        often = sum(weights) * self.synthetic / (1 - self.synthetic) / len(spoken)
        kept = recorded.remove_columns(WEIGHT) if WEIGHT in recorded.column_names else recorded
        return concatenate_datasets([_weigh(kept, weights), _weigh(spoken, [often] * len(spoken))])

    def training_prompts(self) -> Prompts | None:
        """Prompts of training utterances, drawn anew in every pass; None where there are none."""
        if not self.train_prompts:
            return None
        return DrawnPrompts(self.finder, self.train_prompts, self.distractors, self.seed)

    def fit(self, spellings: Iterable[str], tokens: Tokens, own: str | None = None) -> list[str]:
        """The first of some terms that a prompt has room for, beside a row's own prompt."""
        room = min(MAX_PROMPT_TOKENS, tokens.max_tokens // 2 - 1) - len(tokens.soft_prompt)
        room -= len(tokens.text(own, None)) if own else 0
        kept = []
        for spelling in spellings:
            room -= len(tokens.text(f"{spelling},", None))
            if room < 0:
                break
            kept.append(spelling)
        return kept

    def describe(self, tokens: Tokens) -> dict[str, Any]:
        """The `vocabulary` part of run.json; dropped are the terms that a prompt of all of them has no room for."""
        described: dict[str, Any] = {"source": self.source, "terms": len(self.terms), "spoken": self.spoken}
        if self.prompt == "all":
            spellings = [term.spelling for term in self.terms]
            return {**described, "prompt": {"kind": "all", "dropped": spellings[len(self.fit(spellings, tokens)) :]}}
        return {**described, "prompt": {"kind": self.prompt, "dropped": []}} if self.prompt else described

    def choose_prompts(self, rows: Dataset, tokens: Tokens, first_pass: Mapping[str, str]) -> "ListedPrompts":
        """The prompt of every row of a panel.

        Args:
            first_pass: what was written for each id without a prompt; not needed where all terms are listed.
        """
        everything = [term.spelling for term in self.terms]
        prompts = {}
        for row in rows.select_columns(["id", "prompt", "language"]).to_list():
            id, own, language = row["id"], row["prompt"], row["language"]  # type: ignore[index, call-overload]
            wanted = everything
            if self.prompt == "found":
                wanted = self.finder.find_alike(first_pass.get(id, ""), language)[:FOUND_AT_MOST]
            kept = self.fit(wanted, tokens, own)
            # The likeliest stands last, where a decoder looks first.
            prompts[id] = join_prompts(kept[::-1] if self.prompt == "found" else kept, own)
        return ListedPrompts(prompts)


@dataclass(frozen=True)
class ListedPrompts:
    """Prompts by the rows' ids."""

    prompts: Mapping[str, str | None]

    def __call__(self, row: Mapping[str, Any], draw: Draw) -> str | None:
        return self.prompts.get(row["id"], row["prompt"])


@dataclass(frozen=True)
class DrawnPrompts:
    """Lists of terms before training utterances: those that are said, among others that are not."""

    finder: TermFinder
    share: float
    distractors: int
    seed: int
    spellings: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spellings", [term.spelling for term in self.finder.terms])

    def __call__(self, row: Mapping[str, Any], draw: Draw) -> str | None:
        rng = random.Random(f"{self.seed} {draw.number} {row['id']}")
        if rng.random() >= self.share:
            return row["prompt"]
        said = list(dict.fromkeys(each.spelling for each in self.finder.find(row["text"], row["language"])))
        count = min(rng.randint(FEWEST_OTHERS, self.distractors), len(self.spellings))
        others = [spelling for spelling in rng.sample(self.spellings, count) if spelling not in said]
        listed = [*others, *([] if rng.random() < ONLY_OTHERS else said)]
        rng.shuffle(listed)
        return join_prompts(listed, row["prompt"])


def join_prompts(spellings: Sequence[str], own: str | None) -> str | None:
    """A list of terms and behind it what was said before, which must stand next to the transcript."""
    return " ".join(text for text in (list_terms(spellings), own) if text) or None


def _weigh(rows: Dataset, weights: Sequence[float]) -> Dataset:
    return rows.add_column(WEIGHT, list(weights), feature=Value("float32"))  # type: ignore[call-arg, arg-type]


def _read_weights(bias: float | Sequence[float]) -> list[float]:
    weights = [bias] if isinstance(bias, int | float) else list(bias)
    if not weights or not all(_is_number(weight) and weight >= 0 for weight in weights):
        raise InputError(
            f"vocabulary.bias is {bias}; accepted: nats that a token of a term gains, 0 or more, such as 1.5, or "
            "several of which validation chooses: [0.5,1,2,4]."
        )
    return sorted({float(weight) for weight in weights})


def _read_range(noise_db: Sequence[float] | None) -> tuple[float, float] | None:
    if noise_db is None:
        return None
    limits = list(noise_db) if isinstance(noise_db, Sequence) else []
    if len(limits) != 2 or not all(map(_is_number, limits)) or limits[0] > limits[1]:
        raise InputError(
            f"vocabulary.noise_db={noise_db}: accepted are the lowest and the highest signal-to-noise ratio in dB, as "
            "[10,20], or null for clean speech."
        )
    return limits[0], limits[1]


def _check_settings(prompt: str | None, shares: Mapping[str, float], distractors: int, times: int) -> None:
    if prompt not in PROMPTS:
        raise InputError(f"vocabulary.prompt={prompt}: accepted are null, all (terms that fit) and found (by a pass).")
    for name, share in shares.items():
        if not _is_number(share) or not 0 <= share <= 1:
            raise InputError(f"vocabulary.{name}={share} is no share of the training utterances: it must be in [0, 1].")
    if distractors < FEWEST_OTHERS or times < 1:
        raise InputError(
            f"vocabulary.distractors={distractors} and vocabulary.times={times}: at least {FEWEST_OTHERS}, and 1."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
