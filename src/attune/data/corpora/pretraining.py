"""What nano was pretrained on: everything that a Whisper is expected to do, at rates, in synthetic voices.

Plain sentences; sentences with timestamps; windows of several sentences up to 30 s, with and without timestamps;
prompts of previous text; prompts of term lists with distractors; and sound in which nobody speaks.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attune.audio.speech import Voice
from attune.data.corpora.rendering import Utterance
from attune.data.corpora.synthetic import Panel, SyntheticCorpus, plan_panel
from attune.text.normalise import normalise
from attune.text.sentences import load_everyday_grammar

TERM_LETTERS = 5  # shorter words are mostly function words: nobody puts them on a list of terms


@dataclass(frozen=True)
class Rates:
    """Shares of the training utterances, each in [0, 1]; what is left is plain sentences."""

    timestamps: float = 0.08
    windows: float = 0.08
    previous_text: float = 0.06
    terms: float = 0.06
    non_speech: float = 0.05
    window_sentences: tuple[int, int] = (2, 9)


class PretrainingCorpus(SyntheticCorpus):
    """A SyntheticCorpus whose `train` panel is a mixture; the other panels are plain.

    Args:
        panels, retention, language, seed, cache_dir: as in SyntheticCorpus.
        rates: the mixture, as Rates or its fields.
    """

    def __init__(
        self,
        panels: Mapping[str, Panel | Mapping[str, Any]],
        retention: Mapping[str, Panel | Mapping[str, Any]] | None = None,
        rates: Rates | Mapping[str, Any] | None = None,
        language: str = "en",
        seed: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__(panels, retention, language, seed, cache_dir)
        self.rates = rates if isinstance(rates, Rates) else Rates(**(rates or {}))

    def _plan(self, name: str, panel: Panel) -> list[Utterance]:
        plain = plan_panel(name, panel, self.seed)
        return mix(plain, self.rates, self.seed) if name == "train" else plain

    def _key(self, name: str, panel: Panel) -> list[Any]:
        return [*super()._key(name, panel), *([repr(self.rates)] if name == "train" else [])]


def mix(plain: Sequence[Utterance], rates: Rates, seed: int) -> list[Utterance]:
    """Turn shares of plain utterances into the other kinds. Windows take the sentences that follow them as well."""
    rng = random.Random(f"{seed} mixture")
    vocabulary = sorted(word for word in load_everyday_grammar().vocabulary() if len(word) >= TERM_LETTERS)
    kinds = ("timestamps", "windows", "previous_text", "terms", "non_speech")
    weights = [getattr(rates, kind) for kind in kinds]
    mixed = []
    for index, utterance in enumerate(plain):
        kind = rng.choices([*kinds, "plain"], [*weights, 1 - sum(weights)])[0]
        follower = plain[(index + 1) % len(plain)].parts
        if kind == "timestamps":
            utterance = replace(utterance, timestamps=True)
        elif kind == "windows":
            count = rng.randint(*rates.window_sentences)
            parts = tuple(plain[(index + i) % len(plain)].parts[0] for i in range(count))
            utterance = replace(utterance, parts=parts, timestamps=rng.random() < 0.5)
        elif kind == "previous_text":
            utterance = replace(utterance, prompt=follower[0])
        elif kind == "terms":
            utterance = replace(utterance, prompt=_list_terms(utterance.parts[0], vocabulary, rng))
        elif kind == "non_speech":
            utterance = replace(utterance, parts=(), voice=Voice("none"))
        mixed.append(utterance)
    return mixed


def _list_terms(sentence: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    """Up to three words of the sentence among two to eight that it does not hold, in random order."""
    own = [word for word in normalise(sentence).split() if len(word) >= TERM_LETTERS]
    terms = rng.sample(own, min(len(own), rng.randint(1, 3))) + rng.sample(vocabulary, rng.randint(2, 8))
    rng.shuffle(terms)
    return ", ".join(terms) + "."
