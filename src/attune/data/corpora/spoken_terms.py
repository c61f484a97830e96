"""Terms spoken by a machine, in sentences: training material for a list of terms, without one recording.

Each term is said as its pronunciations have it, in the sentences that the list gives for it; in English also in plain
carrier sentences and in everyday ones, in the place of a word.
"""

import hashlib
import importlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor

from attune.audio.phonemes import check_names, translate
from attune.audio.speech import Voice
from attune.audio.waveform import SAMPLE_RATE_HZ, encode_wav, resample
from attune.data.corpora.rendering import RENDERING, Rendering, Utterance, locate_cache, render
from attune.data.corpora.schema import build_dataset
from attune.errors import InputError
from attune.text.sentences import draw_sentences, split_words
from attune.text.vocabulary import Term

CARRIERS = (
    "{}.", "The word is {}.", "We talked about {} this morning.", "She wrote {} on the first page.",
    "{} was the last thing on the list.", "They asked me what {} means.", "Please look at {} once more.",
    "I had never heard of {} before.", "It says {} here, and nothing else.", "After {} there is a short break.",
)  # fmt: skip
REPLACED_LETTERS = 5  # of an everyday sentence, the word that a term takes the place of has so many letters or more
VARIANTS = ("", "m1", "m2", "m3", "m4", "f1", "f2", "f3", "f4")


class Synthesiser(Protocol):
    """A speech synthesiser of the user's own: one function."""

    def __call__(self, text: str, pronunciations: Mapping[str, str], seed: int) -> tuple[Float[Tensor, "sample"], int]:
        """Speak `text`.

        Args:
            pronunciations: of the terms in it that have one, as the list writes it.
            seed: of the voice, so that a sentence can be said in another one.

        Returns:
            Samples in [-1, 1], and their rate in Hz.
        """
        ...


@dataclass(frozen=True)
class Speakers:
    """Who says the terms.

    Args:
        accents: espeak-ng voices; none: American English for English, else the voice of the language's code.
        variants: vocal tracts.
        words_per_minute, pitch: lowest and highest.
        noise_db: lowest and highest signal-to-noise ratio of added white noise; None for clean speech.
        synthesiser: "module.function" of a Synthesiser, in the place of espeak-ng.
    """

    accents: Sequence[str] = ()
    variants: Sequence[str] = VARIANTS
    words_per_minute: tuple[int, int] = (150, 190)
    pitch: tuple[int, int] = (35, 65)
    noise_db: tuple[float, float] | None = None
    synthesiser: str | None = None


def speak_terms(
    terms: Sequence[Term], times: int, speakers: Speakers, language: str, seed: int, cache_dir: str | None = None
) -> Dataset:
    """Each term spoken `times` times, as rows of the schema. espeak-ng's are kept in the cache.

    Raises:
        InputError: a voice has no sound that a pronunciation needs (with the term's place), or there is no such
            synthesiser.
    """
    planned = plan_terms(terms, times, speakers, language, seed)
    if speakers.synthesiser:
        return build_dataset(_synthesise(planned, terms, load_synthesiser(speakers.synthesiser), language))
    key = hashlib.sha256(repr((RENDERING, language, planned)).encode()).hexdigest()[:16]
    folder = locate_cache(cache_dir) / "speech" / f"terms-{key}"
    if not folder.is_dir():
        render({folder: Rendering(planned, language)})
    return Dataset.load_from_disk(str(folder))


def plan_terms(terms: Sequence[Term], times: int, speakers: Speakers, language: str, seed: int) -> list[Utterance]:
    """Who says which term in which sentence, and how."""
    rng = random.Random(f"{seed} terms")
    accents = list(speakers.accents) or ["en-us" if language == "en" else language]
    voices = [(accent, variant) for accent in accents for variant in speakers.variants]
    everyday = draw_sentences(len(terms) * times, rng.randrange(2**31), "train") if language == "en" else []
    planned = []
    for number, (term, sentence) in enumerate(_pair(terms, times, everyday, rng)):
        accent, variant = rng.choice(voices)
        voice = Voice(accent, variant, rng.randint(*speakers.words_per_minute), rng.randint(*speakers.pitch))
        sounds = [translate(text) for text in term.pronunciations]
        noise_db = rng.uniform(*speakers.noise_db) if speakers.noise_db else None
        spoken: tuple[str, ...] = ()
        if sounds and not speakers.synthesiser:
            sound = sounds[(number // len(terms)) % len(sounds)]
            _check_sound(term, sound, accent)
            spoken = (put_sound(sentence, term.spelling, sound),)
        name = f"terms-{number:05d}"
        planned.append(Utterance(name, (sentence,), voice, rng.randrange(2**31), noise_db, spoken=spoken))
    return planned


def _check_sound(term: Term, sound: str, accent: str) -> None:
    try:
        check_names(sound, accent)
    except InputError as error:
        raise InputError(f"{term.place}: {term.spelling!r}: {error}") from None


def _pair(terms: Sequence[Term], times: int, everyday: Sequence[str], rng: random.Random) -> Iterator[tuple[Term, str]]:
    """Every term once, then every term again: its own contexts in turn, else carriers and everyday sentences."""
    sentences = iter(everyday)
    for round_ in range(times):
        for term in terms:
            other = next(sentences, "")
            if term.contexts and (round_ < len(term.contexts) or not other):
                yield term, term.contexts[round_ % len(term.contexts)]
            elif other and rng.random() < 0.5:
                yield term, put_into(other, term.spelling)
            elif other:
                yield term, rng.choice(CARRIERS).format(term.spelling)
            else:
                yield term, term.spelling


def put_into(sentence: str, spelling: str) -> str:
    """An everyday sentence with a term for its longest word: "The {kettle} was on." Short sentences get it behind."""
    longest = max(split_words(sentence), key=len)
    if len(longest) < REPLACED_LETTERS:
        return f"{sentence.rstrip('.?!')}, {spelling}."
    return re.sub(rf"\b{re.escape(longest)}\b", lambda _: spelling, sentence, count=1, flags=re.IGNORECASE)


def put_sound(sentence: str, spelling: str, sound: str) -> str:
    """What is said: the sentence with its term, wherever it stands, as it sounds.

    As it is written if it stands so ("It says IT"), else in any case; as a word of its own, and not as three letters of
    another ("We talked about Al"), unless it stands only within one: endings, compounds, scripts without spaces.
    """
    term = re.escape(spelling)
    for pattern in (rf"(?<!\w){term}(?!\w)", rf"(?i)(?<!\w){term}(?!\w)", rf"(?i){term}"):
        said, count = re.subn(pattern, lambda _: sound, sentence)
        if count:
            return said
    return sentence


def load_synthesiser(name: str) -> Synthesiser:
    """ "module.function" -> the function.

    Raises:
        InputError: there is none.
    """
    module, _, function = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"vocabulary.synthesiser={name} cannot be loaded: {error}. Give module.function of a file beside train.py: "
            "speak(text, pronunciations, seed) -> (samples, rate in Hz)."
        ) from None


def _synthesise(
    planned: Sequence[Utterance], terms: Sequence[Term], speak: Synthesiser, language: str
) -> Iterator[dict[str, Any]]:
    """Rows spoken by the user's own synthesiser; rows come term by term, as they were planned."""
    for number, utterance in enumerate(planned):
        term = terms[number % len(terms)]
        said = {term.spelling: term.pronunciations[0]} if term.pronunciations else {}
        samples, rate_hz = speak(utterance.parts[0], said, utterance.seed)
        waveform = resample(torch.as_tensor(samples, dtype=torch.float32), rate_hz)
        yield {
            "id": utterance.id,
            "audio": {"path": None, "bytes": encode_wav(waveform)},
            "text": utterance.parts[0],
            "language": language,
            "duration_s": waveform.shape[0] / SAMPLE_RATE_HZ,
            "place": f"synthesised, {term.place}",
        }
