"""Pronunciations: what espeak-ng is given, and that it says so."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.log_mel import LogMel
from attune.audio.phonemes import ARPABET, IPA, check_names, load_names, translate
from attune.audio.speech import Voice, speak
from attune.errors import InputError

WORDS = {"seven": "/ˈsɛvən/", "money": "/ˈmʌni/", "kitchen": "/ˈkɪtʃən/"}


@pytest.mark.parametrize(
    ("pronunciation", "sound"),
    [
        ("/ˈsɛvən/", "[[s|'|E|v|@|n]]"),
        ("[ˈsɛvən]", "[[s|'|E|v|@|n]]"),
        ("S EH1 V AH0 N", "[[s|'|E|v|@|n]]"),
        ("/ˌvænkəˈmaɪsɪn/", "[[v|,|a|n|k|@|m|'|aI|s|I|n]]"),
        ("/t͡ʃiːz/", "[[tS|i:|z]]"),
        ("/dʒɪn ˈtoʊ/", "[[dZ|I|n t|'|oU]]"),
        ("vanko my sin", "vanko my sin"),
        ("NASA", "NASA"),  # no symbol of ARPAbet
    ],
)
def test_what_espeak_is_given(pronunciation: str, sound: str) -> None:
    assert translate(pronunciation) == sound


@pytest.mark.parametrize(("pronunciation", "symbol"), [("/tʘ/", "ʘ"), ("/y/", "y"), ("/sː/", "ː")])
def test_a_symbol_that_cannot_be_spoken_is_named(pronunciation: str, symbol: str) -> None:
    with pytest.raises(InputError, match=rf"holds '{symbol}' \(U\+"):
        translate(pronunciation)


@pytest.mark.parametrize("pronunciation", ["/", "...", "[[h@]]x[["])
def test_nothing_to_say(pronunciation: str) -> None:
    with pytest.raises(InputError, match="has nothing to say"):
        translate(pronunciation)


@pytest.mark.parametrize("accent", ["en-us", "en-gb-scotland", "en-029", "en-gb-x-rp"])
def test_english_voices_have_every_sound(accent: str) -> None:
    assert {*IPA.values(), *ARPABET.values()} <= load_names(accent)


def test_a_voice_without_a_sound_is_refused() -> None:
    check_names(translate("/ʃtʁasə/"), "de")
    with pytest.raises(InputError, match="'de' has no sound 'ɔɪ'"):
        check_names(translate("/ɔɪ/"), "de")
    check_names("any words", "de")


def hear(text: str, phonemes: bool = False) -> Float[Tensor, "frame mel"]:
    waveform = speak(text, Voice("en-us"), phonemes)
    return LogMel(80)(waveform[None])[0].T


def measure_distance(a: Float[Tensor, "a mel"], b: Float[Tensor, "b mel"]) -> float:
    """Mean distance along the best alignment in time (dynamic time warping), of every second frame."""
    costs = torch.cdist(a[::2], b[::2]).tolist()
    best = [[float("inf")] * (len(costs[0]) + 1) for _ in range(len(costs) + 1)]
    best[0][0] = 0.0
    for i, row in enumerate(costs, start=1):
        for j, cost in enumerate(row, start=1):
            best[i][j] = cost + min(best[i - 1][j], best[i][j - 1], best[i - 1][j - 1])
    return best[-1][-1] / (len(costs) + len(costs[0]))


@pytest.mark.parametrize("word", WORDS)
def test_a_word_in_ipa_sounds_like_itself_and_not_like_others(word: str) -> None:
    spoken = hear(translate(WORDS[word]), phonemes=True)
    distances = {other: measure_distance(spoken, hear(other)) for other in WORDS}
    assert min(distances, key=lambda other: distances[other]) == word
    assert distances[word] < 0.5 * min(distance for other, distance in distances.items() if other != word)


def test_a_term_spelt_unlike_its_sound_is_spoken_as_written_in_ipa() -> None:
    """Niamh rhymes with leave, which espeak-ng does not know."""
    written, pronounced = hear("Niamh"), hear(translate("/ˈniːv/"), phonemes=True)
    assert measure_distance(pronounced, hear("neeve")) < 0.5 * measure_distance(written, hear("neeve"))


def test_phonemes_within_a_sentence() -> None:
    said = hear(f"The {translate('/ˈsɛvən/')} boats.", phonemes=True)
    assert measure_distance(said, hear("The seven boats.")) < 0.1 * measure_distance(said, hear("The money boats."))
