"""Any file that libsndfile reads becomes the same 16 kHz mono; whatever else is an AudioError with its reason."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio import waveform as front_end
from attune.audio.waveform import (
    AudioError,
    compute_fault,
    encode_wav,
    load_recording,
    load_waveform,
    measure_seconds,
    resample,
)

SECONDS = 1.5


def make_tone(rate_hz: int, channels: int = 1, seconds: float = SECONDS) -> Float[Tensor, "sample channel"]:
    """A 440 Hz tone of amplitude 0.4; each channel further from its mean by as much as another one."""
    time_s = torch.arange(int(seconds * rate_hz)) / rate_hz
    tone = 0.4 * torch.sin(2 * torch.pi * 440 * time_s)
    gains = 1 + torch.linspace(-1, 1, channels) if channels > 1 else torch.ones(1)
    return tone[:, None] * gains


def encode(samples: Tensor, rate_hz: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.numpy(), rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("rate_hz", "channels"), [(8000, 1), (16_000, 1), (22_050, 1), (44_100, 2), (192_000, 8), (11_025, 1)]
)
def test_every_rate_and_any_number_of_channels(rate_hz: int, channels: int) -> None:
    waveform = load_waveform(encode(make_tone(rate_hz, channels), rate_hz, subtype="FLOAT"))
    assert waveform.dtype == torch.float32
    assert waveform.shape == (24_000,)
    inside = slice(400, -400)  # the resampler hears silence beyond the ends
    torch.testing.assert_close(waveform[inside], make_tone(16_000)[inside, 0], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("FLAC", "PCM_16", 1e-3),
        ("WAV", "PCM_24", 1e-3),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05),
        ("MP3", None, 0.05),
    ],
)
def test_every_codec(kind: str, subtype: str | None, tolerance: float, tmp_path: Path) -> None:
    data = encode(make_tone(48_000), 48_000, kind, subtype)
    (tmp_path / "tone").write_bytes(data)  # the content decides, not the name
    waveform = load_waveform(data)
    assert torch.equal(load_waveform(tmp_path / "tone"), waveform)
    assert torch.equal(load_waveform(str(tmp_path / "tone")), waveform)
    assert abs(waveform.shape[0] - 24_000) <= 1200  # a lossy codec may pad by a frame
    middle = waveform[4000:20_000]
    assert middle.std() == pytest.approx(0.4 / 2**0.5, rel=0.1 if tolerance > 0.01 else 0.01)
    peak_hz = torch.fft.rfft(middle).abs().argmax() * 16_000 / middle.shape[0]
    assert peak_hz == pytest.approx(440, abs=1)


def test_an_odd_rate_costs_no_memory() -> None:
    """44,101 and 16,000 share no divisor: the exact kernel would be 16,000 filters of 44,000 taps."""
    tone = make_tone(44_101)[:, 0]
    waveform = resample(tone, 44_101)
    assert waveform.shape == (24_000,)
    torch.testing.assert_close(waveform[400:-400], make_tone(16_000)[400:-400, 0], atol=2e-3, rtol=0)


def test_only_the_asked_part_is_decoded() -> None:
    ramp = torch.arange(48_000) / 48_000
    data = encode(ramp[:, None], 16_000, subtype="FLOAT")
    for start_s, end_s, first, last in (
        (0.5, 1.5, 8000, 24_000),
        (None, 1.0, 0, 16_000),
        (2.0, None, 32_000, 48_000),
        (2.0, 99.0, 32_000, 48_000),
        (2.0, 1.0, 0, 0),
    ):
        assert torch.equal(load_waveform(data, start_s, end_s), ramp[first:last])
    with pytest.raises(AudioError, match=r"ends at 3\.00 s, before start_s=3"):
        load_waveform(data, 3.0)


def test_the_cut_is_in_seconds_at_any_rate() -> None:
    data = encode(make_tone(44_100, 2), 44_100)
    assert load_waveform(data, 0.25, 0.75).shape == (8000,)


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 22_050, 44_100, 192_000])
def test_nothing_stays_nothing(rate_hz: int) -> None:
    waveform = load_waveform(encode(torch.zeros(0, 2), rate_hz))
    assert waveform.shape == (0,)
    assert str(compute_fault(waveform)).startswith("empty")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "its 0 bytes are not"),
        (b"RIFFnonsense", "its 12 bytes are not"),
        ("nowhere.wav", "there is no file nowhere.wav"),
        (encode(make_tone(16_000), 16_000, "FLAC")[:9000], "its 9000 bytes are not"),
        (encode(make_tone(48_000), 48_000, "OGG")[:60], "its 60 bytes are not"),
    ],
    ids=["nothing", "nonsense", "nowhere", "half a FLAC", "the head of an OGG"],
)
def test_what_cannot_be_decoded(source: str | bytes, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        load_waveform(source)


def test_a_text_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(AudioError, match=r"a\.wav \(8 bytes\) is not a file that libsndfile reads"):
        load_waveform(tmp_path / "a.wav")


@pytest.mark.parametrize("kind", ["WAV", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_gives_its_beginning_or_its_reason(kind: str, share: float) -> None:
    """libsndfile cannot tell a short WAV from a cut one; what no case may do is to end the run."""
    data = encode(make_tone(48_000), 48_000, kind)
    try:
        waveform = load_waveform(data[: int(share * len(data))])
    except AudioError:
        return
    assert waveform.shape[0] < 24_000
    assert torch.isfinite(waveform).all()


@pytest.mark.parametrize(
    ("waveform", "fault"),
    [
        (torch.zeros(100), "empty: 0.006 s"),
        (torch.zeros(16_000), "silent"),
        (torch.full((16_000,), 5e-5), "silent"),
        (torch.full((16_000,), float("nan")), "not finite"),
        (torch.tensor([0.1] * 9000 + [float("inf")]), "not finite"),
        (torch.full((480_001,), 0.1), "too long: 30.0 s"),
        (torch.full((480_000,), 0.1), None),
        (torch.full((320,), 0.1), None),
    ],
)
def test_faults(waveform: Tensor, fault: str | None) -> None:
    found = compute_fault(waveform)
    assert found is None if fault is None else str(found).startswith(fault)


def test_nan_samples_of_a_float_file_are_found() -> None:
    samples = make_tone(48_000)
    samples[1000] = float("nan")
    assert str(compute_fault(load_waveform(encode(samples, 48_000, subtype="FLOAT")))).startswith("not finite")


def test_what_is_encoded_is_decoded() -> None:
    tone = make_tone(16_000)[:, 0]
    torch.testing.assert_close(load_waveform(encode_wav(tone)), tone, atol=1e-4, rtol=0)
    assert load_waveform(encode_wav(3 * tone)).abs().max() == pytest.approx(1.0, abs=1e-4)  # clipped, not wrapped


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW"])
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_header_tells_what_decoding_finds(tmp_path: Path, subtype: str, channels: int, as_bytes: bool) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full((4410, channels), 0.1), 44_100, subtype=subtype)
    source = path.read_bytes() if as_bytes else path
    assert measure_seconds(source) == pytest.approx(0.1)
    assert measure_seconds(source, 0.02, 0.05) == pytest.approx(0.03)


def test_a_header_is_believed_no_further_than_its_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, np.full(16_000, 0.1), 16_000)
    path.write_bytes(path.read_bytes()[: 44 + 8_000])  # a quarter of the sound
    assert measure_seconds(path) == pytest.approx(0.25)
    assert measure_seconds(path.read_bytes()) == pytest.approx(0.25)


def test_a_header_may_stand_before_a_picture() -> None:
    plain = encode_wav(torch.full((16_000,), 0.1))
    picture = b"LIST" + (10_000).to_bytes(4, "little") + bytes(10_000)
    with_picture = plain[:36] + picture + plain[36:]
    framed = with_picture[:4] + (len(with_picture) - 8).to_bytes(4, "little") + with_picture[8:]
    assert measure_seconds(framed) == pytest.approx(1.0)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("part", [(None, None), (0.3, 1.1), (1.5, 9.0)])
def test_plain_files_are_read_as_libsndfile_reads_them(
    channels: int, part: tuple[float | None, float | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, noise = tmp_path / "a.wav", np.random.default_rng(0).normal(size=(8_000 * 2 + 7, channels))
    soundfile.write(path, (0.3 * noise).clip(-1, 1), 8_000, subtype="PCM_16")
    plain = [load_recording(source, *part) for source in (path, path.read_bytes())]
    monkeypatch.setattr(front_end, "_read_wav_header", lambda _: None)
    expected, rate_hz = load_recording(path, *part)
    assert all(torch.equal(found, expected) and rate == rate_hz == 8_000 for found, rate in plain)


def test_sizes_that_contradict_each_other_are_no_crash() -> None:
    sound = bytearray(encode_wav(torch.zeros(1_600)))
    sound[4:8] = (30).to_bytes(4, "little")  # of all chunks, less than the first of them says of itself
    sound[16:20] = (10_000).to_bytes(4, "little")
    with pytest.raises(AudioError, match="cannot be decoded"):
        measure_seconds(bytes(sound))
