"""What both sides of the benchmark need: clips, a model, and how memory is measured."""

import json
import random
import resource
import sys
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

import soundfile
import torch

SHORTEST_S, LONGEST_S = 2.0, 6.0
RATE_HZ = 16_000
PARTS = 3  # batches a step, on both sides: the default of trainer.accumulate_grad_batches
FEATURE_PASSES = 5  # over the clips: one takes ours a seventh of a second, too little to time
Clip = tuple[torch.Tensor, str]  # waveform, text


def peak_resident_gb() -> float:
    """Largest resident memory of this process so far, in 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def make_clips(count: int, folder: Path, digits: str | None = None) -> Path:
    """A manifest of clips of 2 to 6 s, 16 kHz, ready for either side: rendered sentences, and as many clips of recorded
    digits, where there is a manifest of them."""
    rendered = (pair for pair in render_sentences(seed=5) if has_right_length(pair))
    recorded = filter(has_right_length, islice(join_digits(Path(digits)), 10 * count)) if digits else rendered
    clips = (next(source) for source in cycle([rendered, recorded]))
    return write_clips(islice(clips, count), folder)


def has_right_length(clip: Clip) -> bool:
    return SHORTEST_S <= len(clip[0]) / RATE_HZ <= LONGEST_S


def make_clips_of(length_s: float, count: int, folder: Path) -> Path:
    """A manifest of clips of exactly this length: sentences one after another, the last one cut off."""
    return write_clips((fill_clip(length_s, seed) for seed in range(count)), folder)


def fill_clip(length_s: float, seed: int) -> Clip:
    wanted = round(length_s * RATE_HZ)
    pieces: list[torch.Tensor] = []
    said: list[str] = []
    for waveform, sentence in render_sentences(seed=100 + seed):
        if sum(map(len, pieces)) + len(waveform) <= wanted or not said:
            said.append(sentence)
        pieces.append(waveform)
        if sum(map(len, pieces)) >= wanted:
            return torch.cat(pieces)[:wanted], " ".join(said)
    raise ValueError(f"too few sentences for {length_s} s")


def render_sentences(seed: int) -> Iterator[Clip]:
    from attune.audio.speech import Voice, speak
    from attune.text.sentences import draw_sentences

    voices = [Voice("en-us", variant) for variant in ("m1", "f1", "m3", "f2")]
    for index, sentence in enumerate(draw_sentences(512, seed=seed, split="test")):
        yield speak(sentence, voices[index % len(voices)]), sentence


def join_digits(manifest: Path) -> Iterator[Clip]:
    """Recordings of digits, single ones or several, as many to a clip as it takes; drawn for ever."""
    from attune.audio.waveform import load_waveform

    rows = [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()]
    drawn = random.Random(0)
    while True:
        wanted_s, pieces, said = drawn.uniform(SHORTEST_S, LONGEST_S - 1), [torch.zeros(0)], []
        while sum(map(len, pieces)) < wanted_s * RATE_HZ:
            row = drawn.choice(rows)
            pieces.append(load_waveform(manifest.parent / row["audio"]))
            said.append(row["text"])
        yield torch.cat(pieces), " ".join(said)


def write_clips(clips: Iterable[Clip], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, (waveform, text) in enumerate(clips):
        path = folder / f"{index:04d}.wav"
        soundfile.write(path, waveform.numpy(), RATE_HZ)
        rows.append({"audio": str(path), "text": text, "language": "en"})
    manifest = folder / "clips.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    return manifest


def make_tiny(folder: Path) -> Path:
    """whisper-tiny's architecture and vocabulary with random weights: as fast and as large as the published one."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import whisper as openai
    from openai_vocabulary import build_openai_tokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    from attune.model.save import save_whisper
    from attune.model.scratch import Scratch, make_whisper
    from attune.text.tokens import Tokens

    vocabulary = Path(openai.__file__).parent / "assets" / "multilingual.tiktoken"
    torch.manual_seed(0)
    tokens = Tokens(build_openai_tokenizer(vocabulary, list(LANGUAGES)))
    save_whisper(make_whisper(tokens, Scratch(width=384, layers=4, heads=6)), folder)
    return folder
