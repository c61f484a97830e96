"""Speech that this machine speaks itself: the embedded corpora, rendered by espeak-ng in seconds and cached.

A corpus is described by panels of voices; each panel draws its own sentences from a grammar, of a split of its own, so
that no sentence of a test panel is ever heard in training.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from attune.audio.speech import Voice
from attune.data.corpora.environments import ENVIRONMENTS
from attune.data.corpora.rendering import RENDERING, Rendering, Utterance, locate_cache, render
from attune.errors import InputError
from attune.text.sentences import EVERYDAY, draw_sentences


@dataclass(frozen=True)
class Panel:
    """Voices and a number of sentences.

    Args:
        utterances: how many to render.
        accents: espeak-ng voices, such as "en-us".
        variants: vocal tracts, such as "m1"; each pair of accent and variant is a speaker.
        split: of which split the sentences are drawn: train, validation or test.
        words_per_minute, pitch: lowest and highest; each speaker has its own, each utterance a little of its own.
        noise_db: lowest and highest signal-to-noise ratio of added white noise, in dB; None for a clean recording.
        environments: noisy places of data/corpora/environments.py instead of white noise; utterances take them in turn.
        grammar: which sentences are spoken: everyday, clinical, russian, russian_phrases.
        language: Whisper's code; None is the corpus's.

    Raises:
        InputError: there is no such environment, or no noise_db for it.
    """

    utterances: int
    accents: Sequence[str]
    variants: Sequence[str]
    split: str = "train"
    words_per_minute: tuple[int, int] = (150, 190)
    pitch: tuple[int, int] = (35, 65)
    noise_db: tuple[float, float] | None = None
    environments: Sequence[str] = ()
    grammar: str = EVERYDAY
    language: str | None = None

    def __post_init__(self) -> None:
        unknown = [each for each in self.environments if each not in ENVIRONMENTS]
        if unknown or (self.environments and not self.noise_db):
            raise InputError(
                f"data.corpus: a panel has environments={list(self.environments)} and noise_db={self.noise_db}. "
                f"Accepted: {', '.join(ENVIRONMENTS)}, with a range of signal-to-noise ratios, as in noise_db: [0, 20]."
            )


class SyntheticCorpus:
    """Rendered panels. The same arguments give the same bytes; a second run finds them in the cache.

    Args:
        panels: train, validation and test -> a Panel, or its fields as a mapping.
        retention: NAME -> the panel `retention/NAME`: what the model could do before.
        language: Whisper's code for all of them.
        seed: of the sentences and of the voices' settings.
        cache_dir: where rendered panels are kept; default ATTUNE_CACHE or ~/.cache/attune.
        replay: voices of what the model could do before, to be trained on; rendered only where a run replays.
        retention_validation: NAME -> a panel like `retention/NAME` to make choices on; rendered only where one is made.

    Raises:
        InputError: a panel draws its sentences from a split that could leak into a score.
    """

    def __init__(
        self,
        panels: Mapping[str, Panel | Mapping[str, Any]],
        retention: Mapping[str, Panel | Mapping[str, Any]] | None = None,
        language: str = "en",
        seed: int = 0,
        cache_dir: str | None = None,
        replay: Panel | Mapping[str, Any] | None = None,
        retention_validation: Mapping[str, Panel | Mapping[str, Any]] | None = None,
    ):
        self.panels = _read_panels({**panels, **_under("retention", retention)})
        self.extra_panels = _read_panels(
            {**({"replay": replay} if replay else {}), **_under("retention_validation", retention_validation)}
        )
        _check_splits(self.panels, self.extra_panels)
        self.language = language
        self.seed = seed
        self.cache_dir = locate_cache(cache_dir)

    def splits(self) -> dict[str, Dataset]:
        return self._load(self.panels)

    def more(self) -> dict[str, Callable[[], Dataset]]:
        return {name: partial(self._load_one, name, panel) for name, panel in self.extra_panels.items()}

    def _load(self, panels: Mapping[str, Panel]) -> dict[str, Dataset]:
        folders = {name: self._locate(name, panel) for name, panel in panels.items()}
        missing = {folder: name for name, folder in folders.items() if not folder.is_dir()}
        render(
            {
                folder: Rendering(self._plan(name, panels[name]), panels[name].language or self.language)
                for folder, name in missing.items()
            }
        )
        return {name: Dataset.load_from_disk(str(folder)) for name, folder in folders.items()}

    def _load_one(self, name: str, panel: Panel) -> Dataset:
        return self._load({name: panel})[name]

    def _locate(self, name: str, panel: Panel) -> Path:
        key = json.dumps(self._key(name, panel), sort_keys=True)
        return self.cache_dir / "speech" / hashlib.sha256(key.encode()).hexdigest()[:16]

    def _key(self, name: str, panel: Panel) -> list[Any]:
        """What the sound depends on. Fields that came later stand in it only where they are set: a panel that was
        rendered before they came is found where it lies."""
        described = asdict(panel)
        language = described.pop("language") or self.language
        later = {"environments": panel.environments, "grammar": panel.grammar != EVERYDAY}
        described = {key: value for key, value in described.items() if later.get(key, True)}
        return [RENDERING, name, described, language, self.seed]

    def _plan(self, name: str, panel: Panel) -> list[Utterance]:
        return plan_panel(name, panel, self.seed)


def _under(room: str, panels: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"{room}/{name}": panel for name, panel in (panels or {}).items()}


def _read_panels(panels: Mapping[str, Panel | Mapping[str, Any]]) -> dict[str, Panel]:
    return {name: panel if isinstance(panel, Panel) else Panel(**panel) for name, panel in panels.items()}


def _check_splits(panels: Mapping[str, Panel], extra: Mapping[str, Panel]) -> None:
    """Sentences belong to one split each: where every panel draws from its own, nothing that is scored was heard."""
    for name, panel in extra.items():
        _demand(name, panel, "train" if name == "replay" else "validation")
    for name, panel in panels.items():
        if extra and name.split("/")[0] in ("test", "retention"):
            _demand(name, panel, "test")


def _demand(name: str, panel: Panel, split: str) -> None:
    if panel.split != split:
        raise InputError(
            f"data.corpus: {name} draws sentences of the split {panel.split!r}, so the same ones could be trained on "
            f"and scored. Give it split: {split}."
        )


def plan_panel(name: str, panel: Panel, seed: int) -> list[Utterance]:
    """Who says what: sentences go round the speakers in turn, each speaker with a rate and a pitch of its own.

    `test/NAME` says what `test` says, in the same voices and places: only what its panel sets otherwise differs.
    """
    rng = random.Random(f"{seed} {'test' if name.startswith('test/') else name}")
    speakers = [Voice(accent, variant) for accent in panel.accents for variant in panel.variants]
    rng.shuffle(speakers)
    settings = [(rng.randint(*panel.words_per_minute), rng.randint(*panel.pitch)) for _ in speakers]
    sentences = draw_sentences(panel.utterances, seed=rng.randrange(2**31), split=panel.split, grammar=panel.grammar)
    planned = []
    for index, sentence in enumerate(sentences):
        speaker, (rate, pitch) = speakers[index % len(speakers)], settings[index % len(speakers)]
        voice = Voice(speaker.accent, speaker.variant, rate + rng.randint(-8, 8), pitch + rng.randint(-3, 3))
        noise_db = rng.uniform(*panel.noise_db) if panel.noise_db else None
        utterance = Utterance(f"{name.replace('/', '-')}-{index:05d}", (sentence,), voice, index, noise_db)
        if panel.environments:  # a seed of its own: the places of one panel are not those of another
            environment = panel.environments[index % len(panel.environments)]
            utterance = replace(utterance, seed=rng.randrange(2**31), environment=environment)
        planned.append(utterance)
    return planned
