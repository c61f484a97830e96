"""What both sides of the benchmark need: clips, a model, and how memory is measured."""

import json
import resource
import sys
from pathlib import Path

import soundfile
import torch

SHORTEST_S, LONGEST_S = 2.0, 6.0


def peak_resident_gb() -> float:
    """Largest resident memory of this process so far, in 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def make_clips(count: int, folder: Path) -> Path:
    """A manifest of rendered sentences of 2 to 6 s, 16 kHz, ready for either side."""
    from attune.audio.speech import Voice, speak
    from attune.text.sentences import draw_sentences

    voices = [Voice("en-us", variant) for variant in ("m1", "f1", "m3", "f2")]
    rows: list[dict[str, str]] = []
    for index, sentence in enumerate(draw_sentences(4 * count, seed=5, split="test")):
        waveform = speak(sentence, voices[index % len(voices)])
        if SHORTEST_S <= len(waveform) / 16_000 <= LONGEST_S:
            path = folder / f"{len(rows):04d}.wav"
            soundfile.write(path, waveform.numpy(), 16_000)
            rows.append({"audio": str(path), "text": sentence, "language": "en"})
        if len(rows) == count:
            break
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
