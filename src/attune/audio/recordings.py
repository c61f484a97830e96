"""A folder of recorded noise or of recorded impulse responses, from which augmentation draws."""

from pathlib import Path

import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.waveform import SAMPLE_RATE_HZ, AudioError, load_waveform
from attune.errors import InputError

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au"}
LONGEST_RESPONSE_S = 1.0  # of an impulse response from a file; what comes later is inaudible under speech


class Recordings:
    """The audio files under a folder.

    Args:
        folder: searched at any depth.
        key: the setting that names it, for the message.

    Raises:
        InputError: there is no such folder, no audio in it, or a file that cannot be read.
    """

    def __init__(self, folder: str, key: str):
        self.key = key
        found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        if not found:
            raise InputError(f"{key}={folder}: no audio there ({', '.join(sorted(AUDIO_SUFFIXES))}, at any depth).")
        self.duration_s = {path: self._measure(path) for path in found}
        self.paths = found

    def _measure(self, path: Path) -> float:
        try:
            duration_s: float = soundfile.info(str(path)).duration
        except (soundfile.SoundFileError, OSError):
            duration_s = 0.0
        if duration_s <= 0:
            raise InputError(f"{self.key}: {path} cannot be decoded or is empty. Mend it or take it out of the folder.")
        return duration_s

    def draw_stretch(self, samples: int, generator: torch.Generator) -> Float[Tensor, "sample"]:
        """A stretch of a recording, from anywhere in it; a short one is repeated."""
        path, chance = self._draw(generator)
        start_s = chance * max(0.0, self.duration_s[path] - samples / SAMPLE_RATE_HZ)
        stretch = self._load(path, start_s, start_s + samples / SAMPLE_RATE_HZ)
        return stretch.repeat(-(-samples // len(stretch)))[:samples]

    def draw_response(self, generator: torch.Generator) -> Float[Tensor, "sample"]:
        """A recording from its loudest sample on, which is the direct sound."""
        response = self._load(self._draw(generator)[0], 0.0, None)
        first = int(response.abs().argmax())
        return response[first : first + int(LONGEST_RESPONSE_S * SAMPLE_RATE_HZ)]

    def _draw(self, generator: torch.Generator) -> tuple[Path, float]:
        which, where = torch.rand(2, generator=generator, device=generator.device).tolist()
        return self.paths[int(which * len(self.paths))], where

    def _load(self, path: Path, start_s: float, end_s: float | None) -> Float[Tensor, "sample"]:
        try:
            waveform = load_waveform(path, start_s, end_s)
        except AudioError as error:
            raise InputError(f"{self.key}: {path}: {error}. Mend it or take it out of the folder.") from None
        if len(waveform) == 0 or not torch.isfinite(waveform).all():
            raise InputError(f"{self.key}: {path} holds no finite sound. Mend it or take it out of the folder.")
        return waveform
