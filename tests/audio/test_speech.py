"""espeak-ng: the same words and voice are the same samples, whatever was said before."""

import subprocess
import sys

import pytest
import torch

from attune.audio.speech import Voice, speak
from attune.errors import InputError

# f2 is breathy: the library draws its noise from a seed that is the time of day, unless it is told another
VOICES = (Voice("en-us", "f2"), Voice("en-gb-scotland", "f2", 210, 70), Voice("en-029", "", 120, 40, 80))
TEXTS = ("Seven blue boats.", "Nobody had watered the garden.")


def test_the_order_does_not_matter() -> None:
    said = {(text, voice): speak(text, voice) for text in TEXTS for voice in VOICES}
    for (text, voice), samples in reversed(said.items()):
        assert torch.equal(speak(text, voice), samples)


def test_another_process_says_the_same() -> None:
    program = (
        "import hashlib; from attune.audio.speech import Voice, speak;"
        "speak('Something else.', Voice('en-029'));"
        f"print(hashlib.sha256(speak({TEXTS[0]!r}, Voice('en-us', 'f2')).numpy().tobytes()).hexdigest())"
    )
    import hashlib

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == hashlib.sha256(speak(TEXTS[0], VOICES[0]).numpy().tobytes()).hexdigest()


def test_every_setting_is_heard() -> None:
    plain = speak(TEXTS[0], Voice("en-us", "m1"))
    assert plain.dtype == torch.float32 and 0.05 < plain.abs().max() <= 1
    assert 0.5 * 16_000 < plain.shape[0] < 3 * 16_000
    changed = [
        Voice("en-gb-scotland", "m1"),
        Voice("en-us", "f1"),
        Voice("en-us", "m1", 250),
        Voice("en-us", "m1", 170, 90),
        Voice("en-us", "m1", 170, 50, 0),
    ]
    for voice in changed:
        assert not torch.equal(speak(TEXTS[0], voice), plain)
    assert speak(TEXTS[0], changed[2]).shape[0] < 0.85 * plain.shape[0]


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        (Voice("en-klingon"), "no accent 'en-klingon'"),
        (Voice("en-us", "m99"), "no voice variant 'm99'. Accepted: .*m1"),
        (Voice("en-klingon", "m1"), "no accent 'en-klingon'"),
    ],
)
def test_what_espeak_does_not_know_is_refused(voice: Voice, message: str) -> None:
    with pytest.raises(InputError, match=message):
        speak("Hello.", voice)


def test_after_a_refusal_it_still_speaks() -> None:
    before = speak(TEXTS[1], VOICES[1])
    with pytest.raises(InputError):
        speak(TEXTS[1], Voice("en-klingon"))
    assert torch.equal(speak(TEXTS[1], VOICES[1]), before)


def test_no_text_is_short_silence() -> None:
    assert speak("", Voice()).abs().max() == 0
