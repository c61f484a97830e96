"""What tests of readers do: write recordings, and run a corpus through everything up to a batch."""

from pathlib import Path

import soundfile
import torchaudio
from whispers import make_sound

from attune.audio.context import AudioContext
from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.data.batch import Batch
from attune.data.corpora.schema import FEATURES, Corpus
from attune.data.module import SpeechDataModule
from attune.text.tokens import Tokens


def write_sound(path: Path, length_s: float, seed: int, rate_hz: int = SAMPLE_RATE_HZ) -> Path:
    """A recording in the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = torchaudio.functional.resample(make_sound(length_s, seed), SAMPLE_RATE_HZ, rate_hz)
    soundfile.write(path, sound.clamp(-0.99, 0.99).numpy(), rate_hz, format=path.suffix[1:].upper())
    return path


def prepare(corpus: Corpus, tokens: Tokens, **settings: float | int) -> tuple[SpeechDataModule, Batch]:
    """The data module of a corpus behind the audit, and its first training batch; its splits may share sounds."""
    data = SpeechDataModule(corpus, tokens, AudioContext(), allow_leakage=True, **settings)  # type: ignore[arg-type]
    data.prepare()
    for split in ("train", "validation", "test"):
        assert set(data.splits[split].column_names) >= set(FEATURES)
    return data, next(iter(data.train_dataloader()))
