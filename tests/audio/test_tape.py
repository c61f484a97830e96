"""Recordings read from front to back, whatever they are kept in."""

import io
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from attune.audio import tape as under_test
from attune.audio.tape import Tape, open_tape
from attune.audio.waveform import SAMPLE_RATE_HZ, AudioError, encode_wav, load_waveform


def make_noise(duration_s: float, seed: int = 0, rate_hz: int = SAMPLE_RATE_HZ) -> torch.Tensor:
    return 0.1 * torch.randn(int(duration_s * rate_hz), generator=torch.Generator().manual_seed(seed))


def read_all(file: str, step: int = 30_000) -> torch.Tensor:
    parts, start = [], 0
    with open_tape(file) as tape:
        while len(part := tape.read(start, step)):
            parts.append(part)
            start += len(part)
        assert tape.known_samples == start
    return torch.cat(parts)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3"])
def test_blocks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, rate_hz: int) -> None:
    stereo = torch.stack([make_noise(8.0, 0, rate_hz), make_noise(8.0, 1, rate_hz)], dim=1)
    soundfile.write(tmp_path / f"a.{suffix}", stereo.numpy(), rate_hz)
    monkeypatch.setattr(under_test, "BLOCK_S", 2)
    whole = load_waveform(tmp_path / f"a.{suffix}")
    assert torch.allclose(read_all(str(tmp_path / f"a.{suffix}")), whole, atol=1e-6)


def test_every_format_of_libsndfile(tmp_path: Path) -> None:
    for kind, subtype in [("AIFF", "PCM_16"), ("AU", "ULAW"), ("CAF", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "OPUS"),
                          ("W64", "FLOAT"), ("RF64", "PCM_16"), ("WAV", "GSM610")]:  # fmt: skip
        path = tmp_path / kind
        soundfile.write(path, make_noise(1.0).numpy(), SAMPLE_RATE_HZ, format=kind, subtype=subtype)
        assert len(read_all(str(path))) == pytest.approx(SAMPLE_RATE_HZ, abs=400), kind


def test_what_lies_behind_is_forgotten() -> None:
    made: list[int] = []

    def blocks():  # noqa: ANN202
        for number in range(1000):
            made.append(number)
            yield torch.full((1000,), float(number))

    tape = Tape(blocks())
    for start in range(0, 900_000, 700):
        part = tape.read(start, 1500)
        assert (part[0], part[-1]) == (start // 1000, (start + 1499) // 1000)
        assert len(tape._held) <= 2500 and len(made) <= start // 1000 + 3
    assert not Tape([torch.zeros(5)]).goes_beyond(5) and Tape([torch.zeros(5)]).goes_beyond(4)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_files_without_sound_say_so(tmp_path: Path, rate_hz: int) -> None:
    soundfile.write(tmp_path / "a.wav", torch.zeros(0).numpy(), rate_hz)
    with pytest.raises(AudioError, match="empty"):
        read_all(str(tmp_path / "a.wav"))
    with pytest.raises(AudioError, match="there is no file"):
        read_all(str(tmp_path / "b.wav"))
    not_finite = torch.tensor([0.1] * 9000 + [float("nan")])
    soundfile.write(tmp_path / "c.wav", not_finite.numpy(), 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        read_all(str(tmp_path / "c.wav"))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    wav = encode_wav(make_noise(3.0))

    class Piped:
        buffer = io.BytesIO(wav)

    monkeypatch.setattr(sys, "stdin", Piped)
    assert torch.equal(read_all("-"), load_waveform(wav))


@pytest.mark.parametrize("name", ["talk.raw", os.fsdecode("caf\u00e9.wav".encode("latin-1"))])
def test_a_name_that_libsndfile_refuses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(encode_wav(torch.zeros(8000)))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AudioError, match="ffmpeg, which is not"), open_tape(str(tmp_path / name)):
        pass


def test_without_ffmpeg_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0 ftypM4A nothing of use")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match=r"a\.m4a \(26 bytes\) is not a file that libsndfile .* ffmpeg, which is not"):
        read_all(str(tmp_path / "a.m4a"))


STAND_IN = """#!{python}
import sys
if b"good" not in open(sys.argv[sys.argv.index("-i") + 1].removeprefix("file:"), "rb").read():
    sys.exit("Invalid data\\nfound")
for _ in range({blocks}):
    sys.stdout.buffer.write(b"\\0\\0\\0\\x3f" * 16000)
"""


def test_others_are_read_by_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name, which writes halves for ever so long; what it does not know it says."""
    program = tmp_path / "ffmpeg"
    program.write_text(STAND_IN.format(python=sys.executable, blocks=25))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "a.m4a").write_bytes(b"good")
    (tmp_path / "b.m4a").write_bytes(b"bad")
    assert torch.equal(read_all(str(tmp_path / "a.m4a")), torch.full((25 * SAMPLE_RATE_HZ,), 0.5))
    with pytest.raises(AudioError, match="neither libsndfile nor ffmpeg: Invalid data found"):
        read_all(str(tmp_path / "b.m4a"))
    with open_tape(str(tmp_path / "a.m4a")) as tape:  # leaves it in the middle, and does not wait
        assert len(tape.read(0, 100)) == 100 and tape.duration_s is None


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    """ffmpeg itself opens what a playlist or a concatenation names."""
    (tmp_path / "secret.wav").write_bytes(encode_wav(make_noise(3.0)))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    for name, text in {"a.m3u8": playlist, "b.mp4": f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="neither libsndfile nor ffmpeg"):
            read_all(str(tmp_path / name))
