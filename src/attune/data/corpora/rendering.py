"""Utterances that espeak-ng speaks, on all cores, into a dataset on disk that a second run finds."""

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from attune.audio.speech import Voice, speak
from attune.audio.waveform import SAMPLE_RATE_HZ, WINDOW_S, encode_wav
from attune.data.corpora.environments import place
from attune.data.corpora.schema import FEATURES, OPTIONAL
from attune.errors import CACHE, check_writable

RENDERING = 3  # raise it when the rendering changes: it is part of the cache's key
CHUNK = 16  # utterances a worker renders before it hands them over


@dataclass(frozen=True)
class Utterance:
    """What is to be rendered: enough to make the same sound again.

    Args:
        parts: sentences, spoken one after the other with pauses between; none is an utterance without speech.
        noise_db: signal-to-noise ratio of added white noise in dB; None for a clean recording.
        environment: a noisy place instead of white noise.
        spoken: what espeak-ng is given instead of `parts`, one for one, where it holds phonemes; else empty.
        prompt: text that the decoder sees before the transcript.
        timestamps: whether the row carries its parts' times.
    """

    id: str
    parts: tuple[str, ...]
    voice: Voice
    seed: int
    noise_db: float | None = None
    prompt: str | None = None
    timestamps: bool = False
    environment: str | None = None
    spoken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rendering:
    """Utterances of one dataset, and Whisper's code for their language."""

    utterances: Sequence[Utterance]
    language: str


def locate_cache(cache_dir: str | None) -> Path:
    """Where what was rendered is kept, from one run to the next."""
    return Path(cache_dir or os.environ.get("ATTUNE_CACHE") or Path.home() / ".cache" / "attune")


def render(renderings: Mapping[Path, Rendering]) -> None:
    """Speak on all cores, and leave each rendering in its folder as a dataset of the schema.

    All of them share one pool of workers: a small panel keeps no core waiting.
    """
    if not renderings:
        return
    for folder in renderings:
        check_writable(folder, CACHE)
    chunks = {folder: _cut(each.utterances) for folder, each in renderings.items()}
    count = sum(map(len, chunks.values()))
    # Not in Jupyter: there rich's stand-in for stderr and the bars of `datasets` print each other without end.
    bar = Progress(transient=True, disable=not Console().is_terminal)
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool, bar:
        spoken = iter(bar.track(pool.map(_speak_chunk, chain(*chunks.values())), count, description="rendering speech"))
        for folder, each in renderings.items():
            rows = chain.from_iterable(islice(spoken, len(chunks[folder])))
            _write(({**OPTIONAL, "segments": [], "language": each.language, **row} for row in rows), folder)


def _cut(utterances: Sequence[Utterance]) -> list[Sequence[Utterance]]:
    return [utterances[start : start + CHUNK] for start in range(0, len(utterances), CHUNK)]


def _write(rows: Iterable[dict[str, Any]], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as partial:
        # ArrowWriter writes row by row: forty hours of speech never stand in memory.
        with ArrowWriter(features=FEATURES, path=f"{partial}/data-00000-of-00001.arrow") as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        Dataset.from_file(f"{partial}/data-00000-of-00001.arrow").save_to_disk(f"{partial}/ready")
        _publish(Path(partial) / "ready", folder)


def _publish(ready: Path, folder: Path) -> None:
    """Rename into place, whole or not at all; another run may have rendered the same panel meanwhile."""
    try:
        ready.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _speak_chunk(chunk: Sequence[Utterance]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)  # one process a core: more threads would only wait for each other
    return [_speak_row(utterance) for utterance in chunk]


def _speak_row(utterance: Utterance) -> dict[str, Any]:
    rng = random.Random(f"{utterance.seed} {utterance.id}")
    waveform, segments = _speak_parts(utterance, rng) if utterance.parts else (make_non_speech(rng), [])
    where = ""
    if utterance.environment and utterance.noise_db is not None and utterance.parts:
        waveform = place(waveform, utterance.environment, utterance.noise_db, utterance.seed)
        where = f", {utterance.environment} at {utterance.noise_db:.1f} dB"
    elif utterance.noise_db is not None and utterance.parts:
        waveform = add_white_noise(waveform, utterance.noise_db, utterance.seed)
    return {
        "id": utterance.id,
        "audio": {"path": None, "bytes": encode_wav(waveform)},
        "text": " ".join(part["text"] for part in segments),
        "speaker": utterance.voice.name,
        "accent": utterance.voice.accent if utterance.parts else None,
        "duration_s": waveform.shape[0] / SAMPLE_RATE_HZ,
        "prompt": utterance.prompt,
        "segments": segments if utterance.timestamps else [],
        "place": f"rendered, {utterance.voice}{where}",
    }


def _speak_parts(utterance: Utterance, rng: random.Random) -> tuple[Float[Tensor, "sample"], list[dict[str, Any]]]:
    """The parts one after the other, as many as Whisper's window holds, and where each of them lies."""
    pieces: list[Tensor] = []
    segments: list[dict[str, Any]] = []
    length = 0
    for text, said in zip(utterance.parts, utterance.spoken or utterance.parts, strict=True):
        pause = int(SAMPLE_RATE_HZ * rng.uniform(0.0, 0.6)) if utterance.timestamps or length else 0
        spoken = speak(said, utterance.voice, phonemes=bool(utterance.spoken))
        if segments and length + pause + spoken.shape[0] > WINDOW_S * SAMPLE_RATE_HZ:
            break
        start = length + pause
        length = start + spoken.shape[0]
        pieces += [torch.zeros(pause), spoken]
        segments.append({"start_s": start / SAMPLE_RATE_HZ, "end_s": length / SAMPLE_RATE_HZ, "text": text})
    return torch.cat(pieces), segments


def make_non_speech(rng: random.Random) -> Float[Tensor, "sample"]:
    """One to eight seconds in which nobody speaks: coloured noise, sometimes with a hum, at any loudness."""
    count = int(SAMPLE_RATE_HZ * rng.uniform(1.0, 8.0))
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    spectrum = torch.fft.rfft(torch.randn(count, generator=generator))
    colour = rng.uniform(0.0, 1.0)  # 0 is white, 0.5 pink, 1 brown
    noise = torch.fft.irfft(spectrum / torch.arange(1, spectrum.shape[0] + 1).pow(colour), n=count)
    noise = noise / noise.abs().max()
    if rng.random() < 0.4:
        time_s = torch.arange(count) / SAMPLE_RATE_HZ
        noise = noise + rng.uniform(0.2, 1.0) * torch.sin(2 * torch.pi * rng.uniform(50, 2000) * time_s)
    return noise / noise.abs().max() * 10 ** rng.uniform(-2.5, -0.2)


def add_white_noise(waveform: Float[Tensor, "sample"], snr_db: float, seed: int) -> Float[Tensor, "sample"]:
    """Gaussian noise at a signal-to-noise ratio, over the whole utterance, in dB."""
    noise = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(seed))
    return waveform + noise * waveform.square().mean().sqrt() * 10 ** (-snr_db / 20)
