"""Text, voice, pronunciation -> waveform, by espeak-ng: the speech of the embedded corpora, rendered offline.

The library comes in the wheel of `espeakng-loader`. It is GPL-3, so nothing loads it until somebody speaks.
"""

import _ctypes
import ctypes
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.waveform import resample
from attune.errors import InputError

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, no sound device is opened
_UTF8 = 1  # espeakCHARS_UTF8
_PHONEMES = 0x100  # espeakPHONEMES: [[...]] holds phonemes
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_BREATH_SEED = 1  # breathy voices (f2, f5, whisper) are noise in part; the library would seed it with the time of day
_ONE_AT_A_TIME = threading.Lock()  # the library's state is global
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker.

    Args:
        accent: an espeak-ng voice: "en-us", "en-gb-scotland", "en-029" (Caribbean), "sw" (Swahili), ...
        variant: a vocal tract: "m1" to "m8", "f1" to "f5", or a named one such as "Annie"; "" is the plain one.
        words_per_minute: 80 to 450.
        pitch: 0 to 99; 50 is the variant's own.
        intonation: 0 (monotone) to 99; 50 is the variant's own.
    """

    accent: str = "en-us"
    variant: str = ""
    words_per_minute: int = 170
    pitch: int = 50
    intonation: int = 50

    @property
    def name(self) -> str:
        return f"{self.accent}+{self.variant}" if self.variant else self.accent


def speak(text: str, voice: Voice, phonemes: bool = False) -> Float[Tensor, "sample"]:
    """Render a text: float32 in [-1, 1] at 16 kHz, about 6 ms for a sentence.

    With `phonemes`, what stands in it between double brackets is spoken as audio/phonemes.py has spelt it.

    The same text and voice give the same samples, in any order and in any process: espeak-ng carries the phase of its
    oscillators from one text to the next, so each text gets the library as freshly loaded.

    Raises:
        InputError: espeak-ng has no such voice.
    """
    import espeakng_loader

    check_voice(voice, Path(espeakng_loader.get_data_path()))
    with _ONE_AT_A_TIME:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        try:
            samples, rate_hz = _synthesise(library, espeakng_loader.get_data_path(), text, voice, phonemes)
        finally:
            library.espeak_Terminate()
            _ctypes.dlclose(library._handle)
    return resample(samples, rate_hz)


@cache
def _find_variants(data: Path) -> set[str]:
    return {path.name for path in (data / "voices" / "!v").iterdir()}


def check_voice(voice: Voice, data: Path) -> None:
    """espeak-ng takes an unknown variant in silence and speaks with another one; this refuses it."""
    variants = _find_variants(data)
    if voice.variant and voice.variant not in variants:
        raise InputError(f"espeak-ng has no voice variant {voice.variant!r}. Accepted: {', '.join(sorted(variants))}.")


def _synthesise(
    library: ctypes.CDLL, data: str, text: str, voice: Voice, phonemes: bool
) -> tuple[Float[Tensor, "sample"], int]:
    rate_hz: int = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), 0)
    if rate_hz <= 0:
        raise RuntimeError(f"espeak-ng did not start with its data in {data}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(_BREATH_SEED))
    chunks: list[bytes] = []

    def collect(samples: int, count: int, _events: int) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    callback = _Callback(collect)  # bound to a name: the library calls it, Python must not free it
    library.espeak_SetSynthCallback(callback)
    _set_voice(library, data, voice)
    raw = text.encode()
    library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, _UTF8 | (_PHONEMES if phonemes else 0), None, None)
    samples = torch.frombuffer(bytearray(b"".join(chunks) or b"\0\0"), dtype=torch.int16)
    return samples.float() / 32768, rate_hz


@cache
def _find_accents(data: str) -> dict[str, str]:
    """Accent -> its file below lang/, by which espeak-ng finds it in a third of the time that a name takes."""
    folder = Path(data) / "lang"
    return {path.name.lower(): str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _set_voice(library: ctypes.CDLL, data: str, voice: Voice) -> None:
    place = _find_accents(data).get(voice.accent.lower(), voice.accent)
    if library.espeak_SetVoiceByName(f"{place}+{voice.variant}".rstrip("+").encode()) != 0:
        raise InputError(
            f"espeak-ng has no accent {voice.accent!r}. Accepted: 'en-us', 'en-gb-scotland', 'en-029', "
            "'en-gb-x-rp' and the codes of some hundred other languages, such as 'sw' or 'hi'."
        )
    for parameter, value in ((_RATE, voice.words_per_minute), (_PITCH, voice.pitch), (_RANGE, voice.intonation)):
        library.espeak_SetParameter(parameter, value, 0)
