"""A thousand files spoilt at random: none ends the audit or holds it up, and of each one knows what became of it."""

import csv
import io
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from whispers import make_sound

from attune.data.audit import audit_corpus, load_row
from attune.data.corpora.schema import build_dataset
from attune.data.findings import write_rejections
from attune.text.tokens import Tokens

FILES = 1000
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "mp3": None, "ogg": "VORBIS"}
Spoil = Callable[[bytes, str, random.Random], bytes]


def encode(samples: np.ndarray, rate_hz: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind.upper(), subtype=subtype or FORMATS[kind])
    return buffer.getvalue()


def make_whole(kind: str, rng: random.Random) -> bytes:
    rate_hz = rng.choice([8_000, 16_000, 22_050, 44_100, 48_000])
    return encode(make_sound(rng.uniform(0.3, 0.6), rng.randrange(50)).numpy(), rate_hz, kind)


def truncate(whole: bytes, kind: str, rng: random.Random) -> bytes:
    return whole[: rng.randrange(len(whole))]


def flip_bits(whole: bytes, kind: str, rng: random.Random) -> bytes:
    spoilt = bytearray(whole)
    for _ in range(rng.choice([1, 8, 200])):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def break_header(whole: bytes, kind: str, rng: random.Random) -> bytes:
    """Any of the first 64 bytes: lengths, rates, channels and magic words."""
    spoilt = bytearray(whole)
    for _ in range(rng.choice([1, 4])):
        at = rng.randrange(64)
        spoilt[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(1 << 32)]))
    return bytes(spoilt)


def hold_no_numbers(whole: bytes, kind: str, rng: random.Random) -> bytes:
    samples = make_sound(0.4, 1).numpy().copy()
    samples[rng.randrange(len(samples))] = rng.choice([np.nan, np.inf, -np.inf])
    return encode(samples, 16_000, "wav", "FLOAT")


def have_eight_channels(whole: bytes, kind: str, rng: random.Random) -> bytes:
    samples = np.stack([make_sound(0.4, seed).numpy() for seed in range(8)], axis=1)
    return encode(samples, 48_000, rng.choice(["wav", "flac"]))


def be_very_fast(whole: bytes, kind: str, rng: random.Random) -> bytes:
    return encode(make_sound(2.0, rng.randrange(50)).numpy(), 192_000, rng.choice(["wav", "flac"]))


def be_empty(whole: bytes, kind: str, rng: random.Random) -> bytes:
    return rng.choice([b"", encode(np.zeros(0, np.float32), 16_000, "wav")])


def leave_whole(whole: bytes, kind: str, rng: random.Random) -> bytes:
    return whole


SPOILS: list[Spoil] = [
    truncate, flip_bits, break_header, hold_no_numbers, have_eight_channels, be_very_fast, be_empty, leave_whole,
]  # fmt: skip


def test_a_thousand_spoilt_files(tmp_path: Path, nano_tokens: Tokens) -> None:
    rng, rows = random.Random(0), []
    for number in range(FILES):
        kind, spoil = rng.choice(list(FORMATS)), SPOILS[number % len(SPOILS)]
        suffix = rng.choice([*FORMATS, "txt"]) if spoil is leave_whole else kind  # what is whole has a wrong extension
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(spoil(make_whole(kind, rng), kind, rng))
        row = {"id": f"{spoil.__name__} {number}", "audio": {"path": str(path), "bytes": None}, "text": "No."}
        rows.append({**row, "language": "en", "place": f"line {number}"})
    started = time.perf_counter()
    found = audit_corpus({"train": build_dataset(rows)}, nano_tokens)
    assert time.perf_counter() - started < 120

    write_rejections(found.rejections, tmp_path / "rejected.csv")
    with (tmp_path / "rejected.csv").open(newline="", encoding="utf-8") as file:
        rejected = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    kept = set(found.splits["train"]["id"])
    assert not kept & rejected.keys() and len(kept) + len(rejected) == FILES
    assert all(reason.split(":")[0] and len(reason) > 10 for reason in rejected.values())
    for row in found.splits["train"].select(range(0, len(kept), 7)):
        waveform = load_row(row)  # type: ignore[arg-type]
        assert waveform.isfinite().all() and 0.02 <= len(waveform) / 16_000 <= 30

    fates = Counter((id.split()[0], id in kept) for id in (row["id"] for row in rows))
    each = FILES // len(SPOILS)
    assert fates["hold_no_numbers", False] == fates["be_empty", False] == each
    assert fates["have_eight_channels", True] == fates["be_very_fast", True] == fates["leave_whole", True] == each
    for spoil in ("truncate", "flip_bits", "break_header"):
        assert fates[spoil, True] and fates[spoil, False]
