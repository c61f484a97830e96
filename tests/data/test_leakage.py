"""A recording that is learnt and also scored is found, whatever was done to it; what only sounds alike is not."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor
from torchaudio.functional import resample
from whispers import make_sound

from attune.audio.context import AudioContext
from attune.audio.fingerprint import compute_bit_error_rate, compute_fingerprint
from attune.audio.speech import Voice, speak
from attune.audio.waveform import SAMPLE_RATE_HZ, encode_wav, load_waveform
from attune.data.audit import Audit, audit_corpus
from attune.data.corpora.schema import build_dataset
from attune.data.leakage import find_limit
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.tokens import Tokens

DIGITS = Path(__file__).parents[3] / "shared" / "data" / "digits"
SENTENCES = ("The kitchen door was open.", "Seven blue boats came back on Sunday.", "Nobody had watered the garden.")
Waveform = Float[Tensor, "sample"]


def encode(waveform: Waveform, rate_hz: int = SAMPLE_RATE_HZ, gain: float = 1.0, **how: Any) -> bytes:
    buffer = io.BytesIO()
    samples = (gain * resample(waveform, SAMPLE_RATE_HZ, rate_hz)).clamp(-1, 1).numpy()
    soundfile.write(buffer, samples, rate_hz, **how)
    return buffer.getvalue()


MP3 = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.7}
COPIES = {
    "the same file": encode_wav,
    "flac": lambda waveform: encode(waveform, format="FLAC"),
    "quieter": lambda waveform: encode(waveform, gain=0.1, format="WAV"),
    "mp3": lambda waveform: encode(waveform, **MP3),
    "mp3 at 44.1 kHz, quieter": lambda waveform: encode(waveform, 44_100, 0.4, **MP3),
    "ogg at 22 kHz": lambda waveform: encode(waveform, 22_050, 0.5, format="OGG"),
    "opus": lambda waveform: encode(waveform, 48_000, format="OGG", subtype="OPUS"),
    "8 kHz": lambda waveform: encode(waveform, 8_000, format="WAV"),
    "8 kHz, mu-law": lambda waveform: encode(waveform, 8_000, format="WAV", subtype="ULAW"),
    "without its first 70 ms": lambda waveform: encode_wav(waveform[1120:]),
    "with noise at 20 dB": lambda waveform: encode_wav(
        waveform + 0.1 * waveform.std() * torch.randn(waveform.shape, generator=torch.Generator().manual_seed(0))
    ),
}


def make_row(id: str, audio: bytes, text: str = "No.", speaker: str | None = None) -> dict[str, Any]:
    row = {"id": id, "audio": {"path": None, "bytes": audio}, "text": text, "language": "en", "place": f"line {id}"}
    return {**row, "speaker": speaker}


def audit(tokens: Tokens, **splits: list[dict[str, Any]]) -> Audit:
    return audit_corpus({split: build_dataset(rows) for split, rows in splits.items()}, tokens)


def find_pairs(found: Audit) -> set[tuple[str, str]]:
    """(learnt id, the scored place that it was found to be)."""
    return {(each.id, each.reason.split(" (")[0]) for each in found.findings.of("shared_audio")}


@pytest.fixture(scope="module")
def voices() -> list[list[Waveform]]:
    """Each sentence in four voices."""
    voices = [Voice("en-us", variant, rate) for variant, rate in (("m1", 160), ("m2", 160), ("f1", 160), ("f1", 175))]
    return [[speak(sentence, voice) for voice in voices] for sentence in SENTENCES]


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_found(how: str, voices: list[list[Waveform]], nano_tokens: Tokens) -> None:
    scored = [make_row(f"s{i}", encode_wav(voice)) for i, sentence in enumerate(voices) for voice in sentence[:1]]
    learnt = [make_row(f"t{i}", COPIES[how](sentence[0])) for i, sentence in enumerate(voices)]
    others = [make_row(f"o{i}{v}", encode_wav(sentence[v])) for i, sentence in enumerate(voices) for v in (1, 2, 3)]
    found = audit(nano_tokens, train=[*others, *learnt], validation=others[:1], test=scored)
    expected = {(f"t{i}", f"line s{i}") for i in range(len(SENTENCES))} | {("o01", "line o01")}
    assert find_pairs(found) == expected


def test_another_voice_or_pace_is_another_recording(voices: list[list[Waveform]], nano_tokens: Tokens) -> None:
    for scored in range(4):
        learnt = [
            make_row(f"{i}{v}", encode_wav(each[v])) for i, each in enumerate(voices) for v in range(4) if v != scored
        ]
        test = [make_row(f"s{i}", encode_wav(each[scored])) for i, each in enumerate(voices)]
        assert not find_pairs(audit(nano_tokens, train=learnt, test=test))


def test_tones_are_like_each_other_and_no_copies(nano_tokens: Tokens) -> None:
    time_s = torch.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tones = [0.3 * torch.sin(2 * torch.pi * hertz * time_s) for hertz in (440, 441, 880)]
    train, test = (
        [make_row(f"{i}", encode(tone, gain=gain, format="WAV")) for i, tone in enumerate(tones)] for gain in (1, 0.9)
    )
    assert not find_pairs(audit(nano_tokens, train=train, test=test))


def test_short_recordings_must_be_the_same_samples(nano_tokens: Tokens) -> None:
    word = make_sound(0.25, 3)
    train = [make_row("exact", encode_wav(word)), make_row("quieter", encode_wav(0.3 * word))]
    assert find_pairs(audit(nano_tokens, train=train, test=[make_row("s", encode_wav(word))])) == {("exact", "line s")}
    assert [round(find_limit(frames), 2) for frames in (0, 8, 31, 64, 900)] == [-1.0, -0.07, 0.21, 0.3, 0.3]


def test_a_run_stops_unless_it_may_go_on(voices: list[list[Waveform]], nano_tokens: Tokens) -> None:
    rows = [make_row(f"{i}{v}", encode_wav(voice)) for i, each in enumerate(voices) for v, voice in enumerate(each)]

    class Leaking:
        def splits(self) -> dict[str, Any]:
            leaked = make_row("leaked", encode(voices[0][0], 44_100, 0.5, **MP3))
            rows_of = {"train": [*rows[4:], leaked], "validation": rows[1:2], "test": rows[:1]}
            return {split: build_dataset(of) for split, of in rows_of.items()}

    with pytest.raises(
        InputError, match=r"line leaked \(train\) is line 00 \(test\): the same sound(?s:.*)data.allow_leakage=true"
    ):
        SpeechDataModule(Leaking(), nano_tokens, AudioContext()).prepare()
    for settings in (
        {"allow_leakage": True},
        {"audit": {"shared_audio": "warning"}},
        {"audit": {"shared_audio": "off"}},
    ):
        data = SpeechDataModule(Leaking(), nano_tokens, AudioContext(), **settings)  # type: ignore[arg-type]
        data.prepare()
        assert len(data.splits["train"]) == 9


def read_digits(split: str) -> Iterator[dict[str, Any]]:
    for line in (DIGITS / f"{split}.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield make_row(row["id"], (DIGITS / row["audio"]).read_bytes(), row["text"], row["speaker"])


@pytest.mark.skipif(not DIGITS.is_dir(), reason="the digits, real recordings, are not beside the repository")
def test_real_speakers_who_say_the_same_words(nano_tokens: Tokens) -> None:
    """Six people say ten words, over and over: no false alarm, and each of forty copies is found."""
    train, dev, test = (list(read_digits(split)) for split in ("train", "dev", "test"))
    hows = [how for how in COPIES if how != "the same file"]
    copies = [
        make_row(f"copy {row['id']}", COPIES[hows[i % len(hows)]](load_waveform(row["audio"]["bytes"])))
        for i, row in enumerate(test[:40])
    ]
    found = audit(nano_tokens, train=[*train, *copies], validation=dev, test=test)
    assert find_pairs(found) == {(f"copy {row['id']}", f"line {row['id']}") for row in test[:40]}
    assert set(found.shared["test"].speakers) == {row["speaker"] for row in test}
    learnt = {row["text"] for row in train}
    assert found.shared["test"].ids == {row["id"] for row in test if row["text"] in learnt}


def test_bits_do_not_depend_on_gain_and_tell_speech_apart(voices: list[list[Waveform]]) -> None:
    one, other = compute_fingerprint(voices[0][0]), compute_fingerprint(voices[1][0])
    assert compute_bit_error_rate(one, compute_fingerprint(0.25 * voices[0][0]), 0)[0] == 0
    assert np.mean([compute_bit_error_rate(one, other, offset)[0] for offset in range(-9, 10)]) > 0.4
    assert compute_bit_error_rate(one, other, 10_000) == (1.0, 0)
