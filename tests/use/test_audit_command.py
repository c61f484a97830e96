"""`attune audit` as a user meets it: a page, two lists, and an exit code that says whether a run could start."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from rich.console import Console
from whispers import make_sound

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.use.audit import run_audit
from attune.use.config import compose_run

HOSTILE = "</script><img src=x onerror=alert(1)> [bold]"


def write_split(folder: Path, name: str, texts: list[str], variant: str) -> list[dict[str, Any]]:
    rows = []
    for index, text in enumerate(texts):
        (folder / f"{name}-{index}.wav").write_bytes(encode_wav(speak(text or "No", Voice("en-us", variant))))
        rows.append({"audio": f"{name}-{index}.wav", "text": text, "language": "en", "speaker": variant})
    return rows


def save(folder: Path, **splits: list[dict[str, Any]]) -> list[str]:
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["data=manifest", *(f"data.{name}={folder / name}.jsonl" for name in splits)]


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    texts = ["One blue boat.", "Seven green lamps.", "A river of stone.", "The bread is warm."]
    learnt = write_split(tmp_path, "train", texts, "m1")
    return {
        "train": learnt,
        "validation": write_split(tmp_path, "validation", ["Nobody came."], "f1"),
        "test": write_split(tmp_path, "test", ["one blue boat", "Hardly anything."], "f2"),
    }


def run(words: list[str], out: Path) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=400)
    return run_audit(console, compose_run(words), out), console.file.getvalue()  # type: ignore[attr-defined]


def test_a_corpus_that_is_ready(splits: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    ready, told = run(save(tmp_path, **splits), tmp_path / "out")
    assert ready
    assert "audit: 7 utterances" in told and "3 speakers; warnings: 1 shared sentence\n" in told
    assert "test shares with what is learnt: 1 of 2 sentences" in told and "0 rows cannot be used" in told
    assert (tmp_path / "out" / "rejected.csv").read_text().splitlines() == ["split,id,place,reason"]
    page = (tmp_path / "out" / "audit.html").read_text()
    assert page.count("<svg") == 3 and page.count("<polyline") == 3
    assert not re.findall(r"(?:src|href)=|<script|url\(", page)  # it loads nothing
    assert "shared sentences" in page and "1 of 2" in page and "16 kHz" in page


def test_a_corpus_that_a_run_would_refuse(splits: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    """A test recording as a quiet MP3 among what is learnt, a text of 500 tokens, a broken file, a hostile text."""
    sound, rate_hz = soundfile.read(tmp_path / "test-1.wav")
    soundfile.write(tmp_path / "copy.mp3", 0.3 * sound, rate_hz, format="MP3")
    (tmp_path / "broken.wav").write_bytes(b"RIFFnonsense")
    (tmp_path / "other.wav").write_bytes(encode_wav(make_sound(2.0, 5) * torch.linspace(0.1, 1, 32_000)))
    row = splits["train"][0]
    splits["train"] += [{**row, "audio": "copy.mp3"}, {**row, "audio": "broken.wav"}]
    splits["train"] += [{**row, "audio": "other.wav", "text": "boat " * 600}, {**row, "text": HOSTILE}]
    words = save(tmp_path, **splits)
    ready, told = run(words, tmp_path / "out")
    assert not ready
    assert f"{tmp_path}/train.jsonl, line 5 (train) is {tmp_path}/test.jsonl, line 2 (test): the same sound" in told
    assert "1 of 8 utterances of train cannot be used" in told
    assert "line 7: The text has" in told
    with (tmp_path / "out" / "rejected.csv").open(newline="") as file:
        assert [row["place"].rpartition(", ")[2] for row in csv.DictReader(file)] == ["line 6", "line 7"]
    with (tmp_path / "out" / "audit.csv").open(newline="") as file:
        found = {(row["rule"], row["place"].rpartition(", ")[2], row["severity"]) for row in csv.DictReader(file)}
    assert found >= {
        ("shared_audio", "line 5", "error"),
        ("unusable", "line 6", "error"),
        ("unusable", "line 7", "error"),
    }
    assert ("duplicate_audio", "line 8", "warning") in found
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "<img" not in page and "<script" not in page

    keep = [row for row in splits["train"] if row["audio"] != "broken.wav" and len(row["text"]) < 400]
    words = save(tmp_path, **{**splits, "train": keep})
    assert not run(words, tmp_path / "out")[0]
    assert run([*words, "data.allow_leakage=true"], tmp_path / "out")[0]
    assert run([*words, "data.audit.shared_audio=off"], tmp_path / "out")[0]
