"""Path or bytes -> mono waveform at 16 kHz, and every constant of Whisper's audio front end."""

import io
import math
import os
import wave
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

SAMPLE_RATE_HZ = 16_000
N_FFT = 400  # samples: a 25 ms Hann window
HOP_SAMPLES = 160  # 10 ms between frames
FRAMES_PER_S = SAMPLE_RATE_HZ // HOP_SAMPLES  # 100
SAMPLES_PER_POSITION = 2 * HOP_SAMPLES  # 320: the encoder's second convolution has stride 2
POSITIONS_PER_S = SAMPLE_RATE_HZ // SAMPLES_PER_POSITION  # 50
WINDOW_S = 30.0
WINDOW_POSITIONS = int(WINDOW_S * POSITIONS_PER_S)  # 1500
SILENCE_PEAK = 1e-4  # -80 dBFS: below it, 16-bit audio holds nothing but its own rounding
SHORTEST_S = 0.02  # less than one encoder position cannot hold a word
SLOWEST_HZ, FASTEST_HZ = 2_000, 1_000_000  # sampling rates; a header that names another is broken
READ_SAMPLES = 1 << 22  # at a time: a broken header can promise more than any memory holds
MOST_FRAMES = 1 << 25  # of one utterance: 134 MB, 11 min at 48 kHz. Five hours of silence are 1 MB of FLAC
UNKNOWN_FRAMES = 1 << 62  # libsndfile names more where a header leaves the length open, as that of a FLAC stream may
HEAD_BYTES = 4096  # of a WAV file, before which its sound begins; unless a picture stands there
PHASES = 64  # of a resampling filter, from which on it is applied as a matrix product

ACCEPTED_AUDIO = (
    "audio is a path or the bytes of a file that libsndfile reads (wav, flac, ogg, opus, mp3, aiff, au), "
    "at any sampling rate, with any number of channels"
)


class AudioError(Exception):
    """One utterance cannot be used. The message is the reason that stands in rejected.csv."""


def load_waveform(
    source: str | Path | bytes, start_s: float | None = None, end_s: float | None = None
) -> Float[Tensor, "sample"]:
    """Read one utterance: decode, cut, downmix, resample.

    Args:
        source: a path, or the bytes of an audio file.
        start_s, end_s: the part to keep, in seconds; only that part is decoded.

    Returns:
        float32 in [-1, 1], one channel, 16 kHz, shape (sample,).

    Raises:
        AudioError: the file is missing, cannot be decoded, or ends before `start_s`; or so much is asked for that it
            can be no utterance, which is told by the header, before anything is decoded.
    """
    return load_recording(source, start_s, end_s)[0]


def load_recording(
    source: str | Path | bytes, start_s: float | None = None, end_s: float | None = None
) -> tuple[Float[Tensor, "sample"], int]:
    """The same, and the sampling rate that the file has, in Hz."""
    if not isinstance(source, bytes) and not os.path.isfile(source):  # a pipe would be waited for, a device never ends
        raise AudioError(f"cannot be decoded: {_reason(source)}")
    try:
        samples, rate_hz = _read_part(source, start_s, end_s)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError):
        raise AudioError(f"cannot be decoded: {_reason(source)}") from None
    if len(samples) > MOST_FRAMES:
        raise AudioError(_too_long(f"more than {MOST_FRAMES / rate_hz:.1f} s"))
    return resample(samples, rate_hz), rate_hz


def _read_part(
    source: str | Path | bytes, start_s: float | None, end_s: float | None
) -> tuple[Float[Tensor, "frame"], int]:
    """The mean of the channels, at the file's own rate in Hz; no more than MOST_FRAMES and one."""
    plain = _read_wav_header(source)
    if plain is not None and plain.is_16_bit:
        first, last = _find_part(plain.frames, plain.rate_hz, start_s, end_s)
        if last - first <= MOST_FRAMES:
            return _read_plain(source, plain, first, max(last - first, 0)), plain.rate_hz
    with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
        rate_hz = file.samplerate
        first, last = _find_part(file.frames, rate_hz, start_s, end_s)
        wanted = max(last - first, 0)
        if MOST_FRAMES < wanted < UNKNOWN_FRAMES:
            raise AudioError(_too_long(f"{wanted / rate_hz:.1f} s by its header"))
        if first > 0:
            file.seek(first)
        return read_mono(file, min(wanted, MOST_FRAMES + 1)), rate_hz


def measure_seconds(source: str | Path | bytes, start_s: float | None = None, end_s: float | None = None) -> float:
    """How long an utterance is by the header of its file, in seconds: nothing is decoded, so that it may be wrong.

    Raises:
        AudioError: there is no such header.
    """
    try:
        plain = _read_wav_header(source)
        frames, rate_hz = (plain.frames, plain.rate_hz) if plain else _read_header(source)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError):
        raise AudioError(f"cannot be decoded: {_reason(source)}") from None
    first, last = _find_part(frames, rate_hz, start_s, end_s)
    return max(last - first, 0) / rate_hz


def _read_header(source: str | Path | bytes) -> tuple[int, int]:
    """Frames and sampling rate in Hz of any file that libsndfile reads."""
    with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
        return file.frames, file.samplerate


@dataclass(frozen=True)
class PlainWav:
    """Plain PCM in a WAV file, which begins `offset` bytes into it."""

    frames: int
    rate_hz: int
    channels: int
    is_16_bit: bool
    offset: int


def _read_wav_header(source: str | Path | bytes) -> PlainWav | None:
    """Of a WAV file with plain PCM that is as long as its header says, in a fifth of the time; None for others.

    A hundred thousand headers are read before the first step of a run.
    """
    if isinstance(source, bytes):
        head, size = source[:HEAD_BYTES], len(source)
    else:
        descriptor = os.open(source, os.O_RDONLY)
        try:
            head, size = os.read(descriptor, HEAD_BYTES), os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    if not head.startswith(b"RIFF"):
        return None
    try:
        with wave.open(opened := io.BytesIO(head)) as file:
            channels, width, rate_hz, frames = file.getparams()[:4]
            offset = opened.tell()  # wave stops where the samples begin
    except (wave.Error, EOFError, RuntimeError):  # the last for sizes that contradict each other
        return None
    is_whole = offset + frames * channels * width <= size
    return PlainWav(frames, rate_hz, channels, width == 2, offset) if is_whole else None


def _read_plain(source: str | Path | bytes, plain: PlainWav, first: int, frames: int) -> Float[Tensor, "frame"]:
    """The mean of the channels, as libsndfile reads it to the bit, in a third of the time."""
    offset, count = plain.offset + 2 * plain.channels * first, plain.channels * frames
    if isinstance(source, bytes):
        samples = np.frombuffer(source, "<i2", count, offset)
    else:
        samples = np.fromfile(source, "<i2", count, offset=offset)
    scaled = samples.astype(np.float32) / 32768
    return torch.from_numpy(scaled if plain.channels == 1 else scaled.reshape(-1, plain.channels).mean(axis=1))


def _find_part(frames: int, rate_hz: int, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First and last frame, by the file's own rate."""
    if not SLOWEST_HZ <= rate_hz <= FASTEST_HZ:
        raise AudioError(f"cannot be decoded: its header names a sampling rate of {rate_hz} Hz")
    first = int((start_s or 0.0) * rate_hz)
    last = frames if end_s is None else min(int(end_s * rate_hz), frames)
    if first > 0 and first >= frames:
        raise AudioError(f"cut: it ends at {frames / rate_hz:.2f} s, before start_s={start_s:g}")
    return first, last


def read_mono(file: soundfile.SoundFile, frames: int) -> Float[Tensor, "frame"]:
    """At most so many further frames, as far as the file really goes: the mean of its channels, at its own rate."""
    step = max(1, READ_SAMPLES // file.channels)
    blocks = [_read_block(file, min(step, frames))]
    while len(blocks[-1]) == step and (frames := frames - step) > 0:
        blocks.append(_read_block(file, min(step, frames)))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _read_block(file: soundfile.SoundFile, frames: int) -> Float[Tensor, "frame"]:
    samples: np.ndarray = file.read(frames, dtype="float32", always_2d=True)
    return torch.from_numpy(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1))


def resample(waveform: Float[Tensor, "*batch sample"], rate_hz: int) -> Float[Tensor, "*batch resampled"]:
    """Bring a waveform from any rate to 16 kHz (torchaudio's windowed sinc); one without samples stays without."""
    if rate_hz == SAMPLE_RATE_HZ or waveform.shape[-1] == 0:
        return waveform
    resampler = _resampler(rate_hz)
    kernel: Tensor = resampler.kernel  # type: ignore[assignment]  # (phase, 1, sample)
    if kernel.shape[0] < PHASES:
        return resampler(waveform)
    # torchaudio's own convolution as one product: oneDNN would prepare it anew for every length, six times as dear.
    phases, width = kernel[:, 0], resampler.width
    step, length = resampler.orig_freq // resampler.gcd, waveform.shape[-1]
    windows = pad(waveform, (width, width + step)).unfold(-1, phases.shape[1], step)
    return (windows @ phases.T).flatten(-2)[..., : math.ceil(phases.shape[0] * length / step)]


@lru_cache(maxsize=32)
def _resampler(rate_hz: int) -> torchaudio.transforms.Resample:
    """The kernel depends on the two rates alone; computing it costs more than applying it to a short clip.

    Its size is the product of the two rates without their common divisor: at 44,101 Hz that would be several GB. Every
    usual rate is a fraction of 16 kHz with a denominator of at most 640; others are taken to the nearest within 1000,
    one millionth away.
    """
    ratio = Fraction(rate_hz, SAMPLE_RATE_HZ).limit_denominator(1000)
    return torchaudio.transforms.Resample(ratio.numerator, ratio.denominator)


def compute_fault(waveform: Float[Tensor, "sample"]) -> str | None:
    """Why a decoded waveform cannot be an utterance of Whisper's 30 s window, or None."""
    duration_s = waveform.shape[-1] / SAMPLE_RATE_HZ
    if duration_s < SHORTEST_S:
        return f"empty: {duration_s:.3f} s of audio"
    peak = compute_peak(waveform)
    if not math.isfinite(peak):
        return "not finite: the samples hold NaN or infinity"
    if peak < SILENCE_PEAK:
        return "silent: no sample above -80 dBFS"
    if duration_s > WINDOW_S:
        return _too_long(f"{duration_s:.1f} s")
    return None


def _too_long(length: str) -> str:
    return f"too long: {length}, and Whisper's window is {WINDOW_S:.0f} s (give start_s and end_s)"


def compute_peak(waveform: Float[Tensor, "sample"]) -> float:
    """The largest magnitude, in one pass; NaN where the samples hold one."""
    lowest, highest = waveform.aminmax()
    return float(torch.maximum(-lowest, highest))  # which keeps a NaN, as max() does not


def encode_wav(waveform: Float[Tensor, "sample"]) -> bytes:
    """The bytes of a 16-bit WAV file at 16 kHz."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform.clamp(-1, 1).numpy(), SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _reason(source: str | Path | bytes) -> str:
    """Why libsndfile could not read it."""
    if isinstance(source, bytes):
        return f"its {len(source)} bytes are not a file that libsndfile reads"
    path = Path(source)
    if not path.is_file():
        return f"there is no file {path}"
    return f"{path} ({path.stat().st_size} bytes) is not a file that libsndfile reads"
