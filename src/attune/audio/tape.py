"""A recording of any length, heard from front to back: what lies behind is forgotten, what lies ahead is not read yet.

Files that libsndfile reads are read by it, block by block. Others are handed to ffmpeg, where it is installed: films,
m4a, wma, amr. It is given the file alone and no network, and only containers of sound and film: a playlist is a text
that names other files, and may come from a stranger.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.waveform import (
    FASTEST_HZ,
    SAMPLE_RATE_HZ,
    SHORTEST_S,
    SLOWEST_HZ,
    UNKNOWN_FRAMES,
    AudioError,
    read_mono,
    resample,
)  # fmt: skip

STANDARD_INPUT = "-"
BLOCK_S = 10  # of a file that are decoded at once
EDGE_S = 1  # more than resampling looks ahead or back, so that blocks join without a seam
FFMPEG = "ffmpeg"
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,avi,flv,mpeg,mpegts,aac,ac3,eac3,amr,ape,wv,tta,dsf,caf,ogg,mp3"


class Tape:
    """Samples at 16 kHz that come block by block; of those that have come, the ones from the last place read on.

    Args:
        blocks: the recording, in parts of any length.
        duration_s: what its header says; None where it says nothing.
    """

    def __init__(self, blocks: Iterable[Float[Tensor, "sample"]], duration_s: float | None = None):
        self.duration_s = duration_s
        self._blocks = iter(blocks)
        self._held = torch.zeros(0)
        self._start = 0  # of what is held, in samples from the recording's beginning

    def read(self, start: int, samples: int) -> Float[Tensor, "part"]:
        """The recording from a place on, in samples; fewer than asked for at its end. Places never go back.

        Raises:
            AudioError: what comes cannot be decoded, or holds NaN or infinity.
        """
        self._fill(start + samples)
        self._held = self._held[start - self._start :]
        self._start = start
        return self._held[:samples]

    def goes_beyond(self, end: int) -> bool:
        """Whether there is anything from a place on."""
        self._fill(end + 1)
        return self.known_samples > end

    @property
    def known_samples(self) -> int:
        """How far it has been read; its length, once its end has."""
        return self._start + len(self._held)

    def _fill(self, end: int) -> None:
        blocks = [self._held]
        known = self.known_samples
        while known < end and (block := next(self._blocks, None)) is not None:
            if not torch.isfinite(block).all():
                raise AudioError("not finite: the samples hold NaN or infinity")
            blocks.append(block)
            known += len(block)
        self._held = torch.cat(blocks)


@contextmanager
def open_tape(file: str) -> Iterator[Tape]:
    """A file of any length at 16 kHz in mono; `-` is standard input, kept in a temporary file while it is heard.

    Raises:
        AudioError: it is missing, empty or broken; here, or when it is read.
    """
    if file == STANDARD_INPUT:
        with NamedTemporaryFile(prefix="attune-") as kept:  # a decoder goes to and fro, which a pipe does not
            shutil.copyfileobj(sys.stdin.buffer, kept)
            kept.flush()
            with _open(kept.name, "standard input") as tape:
                yield tape
        return
    if not Path(file).is_file():
        raise AudioError(f"cannot be decoded: there is no file {file}")
    with _open(file, file) as tape:
        yield tape


@contextmanager
def _open(path: str, name: str) -> Iterator[Tape]:
    try:
        sound = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError):  # the last two of a name: x.raw, one in Latin-1
        with _ask_ffmpeg(path, f"{name} ({Path(path).stat().st_size} bytes)") as tape:
            yield _begin(tape)
        return
    with sound:
        rate_hz = sound.samplerate
        if not SLOWEST_HZ <= rate_hz <= FASTEST_HZ:
            raise AudioError(f"cannot be decoded: its header names a sampling rate of {rate_hz} Hz")
        duration_s = sound.frames / rate_hz if sound.frames < UNKNOWN_FRAMES else None
        yield _begin(Tape(join_blocks(lambda frames: _read(sound, frames), rate_hz), duration_s))


def _begin(tape: Tape) -> Tape:
    if not tape.goes_beyond(int(SHORTEST_S * SAMPLE_RATE_HZ) - 1):
        raise AudioError(f"empty: {tape.known_samples / SAMPLE_RATE_HZ:.3f} s of audio")
    return tape


def _read(sound: soundfile.SoundFile, frames: int) -> Float[Tensor, "frame"]:
    try:
        return read_mono(sound, frames)
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        raise AudioError(f"cannot be decoded behind {sound.tell() / sound.samplerate:.1f} s: {error}") from None


def join_blocks(read: Callable[[int], Float[Tensor, "frame"]], rate_hz: int) -> Iterator[Float[Tensor, "sample"]]:
    """Resample a recording block by block, each with a second of what lies before and behind it.

    Args:
        read: a number of frames -> as many further ones, at their own rate; fewer at the end.
    """
    block, edge = BLOCK_S * rate_hz, EDGE_S * rate_hz
    held, lead_s, is_last = read(block + edge), 0, False
    while not is_last:
        is_last = len(held) < lead_s * rate_hz + block + edge
        heard = resample(held, rate_hz)[lead_s * SAMPLE_RATE_HZ :]
        yield heard if is_last else heard[: BLOCK_S * SAMPLE_RATE_HZ]
        held = torch.cat([held[lead_s * rate_hz + block - edge :], read(block)])
        lead_s = EDGE_S


@contextmanager
def _ask_ffmpeg(path: str, name: str) -> Iterator[Tape]:
    """What ffmpeg makes of a file that libsndfile does not read."""
    program = shutil.which(FFMPEG)
    if program is None:
        raise AudioError(
            f"cannot be decoded: {name} is not a file that libsndfile reads (wav, flac, ogg, opus, mp3, aiff, au). "
            "Others, such as m4a and films, are read by ffmpeg, which is not installed here"
        )
    given = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i", f"file:{path}"]
    wanted = ["-map", "0:a:0", "-ac", "1", "-ar", str(SAMPLE_RATE_HZ), "-f", "f32le", "pipe:1"]
    with TemporaryFile() as said:
        command = [program, "-nostdin", "-v", "error", *given, *wanted]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)

        def read_blocks() -> Iterator[Float[Tensor, "sample"]]:
            while raw := process.stdout.read(4 * BLOCK_S * SAMPLE_RATE_HZ):  # type: ignore[union-attr]
                yield torch.from_numpy(np.frombuffer(raw[: len(raw) // 4 * 4], dtype="<f4").copy())
            if process.wait():
                said.seek(0)
                reason = " ".join(said.read(2000).decode(errors="replace").split())
                raise AudioError(f"cannot be decoded: {name} is read by neither libsndfile nor ffmpeg: {reason}")

        try:
            yield Tape(read_blocks())
        finally:
            process.kill()
            process.communicate()
