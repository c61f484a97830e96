"""Recordings by their pauses: batches change nothing, every file has its own, and a fault is one file's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch
from test_transcribe import ONCE, believing, make_noise, tokens, whisper, write_noise  # noqa: F401

from attune.audio.waveform import SAMPLE_RATE_HZ, AudioError
from attune.model.whisper import Whisper
from attune.text.tokens import Segment, Tokens
from attune.use.attempts import compute_compression
from attune.use.stretches import StretchListener, cut_between_words
from attune.use.transcribe import transcribe, transcribe_by_pauses
from attune.use.transcript import Transcript, Word, WordedSegment


@pytest.fixture
def spelling(whisper: Whisper) -> Iterator[Whisper]:  # noqa: F811
    """It writes whole characters alone: nano's tokenizer has single bytes, which at random are none."""
    config, spelt = whisper.network.generation_config, whisper.tokens.tokenizer.decode
    halves = [token for token in range(whisper.tokens.end_of_text) if "\ufffd" in spelt([token])]
    before, config.suppress_tokens = config.suppress_tokens, [*config.suppress_tokens, *halves]
    yield whisper
    config.suppress_tokens = before


def write_talk(path: Path, *parts_s: float) -> str:
    """So many seconds of noise each, with pauses of 0.6 s between."""
    pause = torch.zeros(int(0.6 * SAMPLE_RATE_HZ))
    parts = [torch.cat([make_noise(part_s, seed), pause]) for seed, part_s in enumerate(parts_s)]
    soundfile.write(path, torch.cat(parts).numpy(), SAMPLE_RATE_HZ)
    return str(path)


def hear(whisper: Whisper, *files: str, **asked: object) -> list[Transcript]:  # noqa: F811
    heard = dict(transcribe_by_pauses(whisper, files, "en", **asked))  # type: ignore[arg-type]
    assert list(heard) == list(files)
    return [transcript for transcript in heard.values() if isinstance(transcript, Transcript)]


def test_batches_change_nothing(whisper: Whisper, tmp_path: Path) -> None:  # noqa: F811
    files = [write_talk(tmp_path / "a.wav", 3.0, 2.5, 4.0, 3.0), write_talk(tmp_path / "b.wav", 2.0)]
    one, many = (hear(whisper, *files, batch=batch, longest_s=6.0) for batch in (1, 3))
    assert one == many
    assert len(one[0].segments) >= 3 and one[0].duration_s == pytest.approx(14.9)
    times_s = [time_s for segment in one[0].segments for time_s in (segment.start_s, segment.end_s)]
    assert times_s == sorted(times_s) and times_s[-1] <= one[0].duration_s


def test_a_short_file_reads_as_by_windows(whisper: Whisper, tmp_path: Path) -> None:  # noqa: F811
    file = write_noise(tmp_path / "a.wav", 3.0)
    assert hear(whisper, file)[0] == transcribe(whisper, file, "en", timestamps=False)


def test_a_fault_is_one_files_alone(whisper: Whisper, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "broken.wav").write_bytes(b"RIFFnonsense")
    soundfile.write(tmp_path / "silent.wav", torch.zeros(SAMPLE_RATE_HZ).numpy(), SAMPLE_RATE_HZ)
    files = [str(tmp_path / "broken.wav"), write_noise(tmp_path / "a.wav", 2.0), str(tmp_path / "silent.wav"), "gone"]
    found = dict(transcribe_by_pauses(whisper, files))
    assert [isinstance(found[file], AudioError) for file in files] == [True, False, False, True]
    assert found[files[1]].text and found[files[1]].language in whisper.tokens.languages  # type: ignore[union-attr]
    assert found[files[2]] == Transcript(files[2], 1.0, None, "", [])


def test_each_file_has_its_own_language(whisper: Whisper, tokens: Tokens, tmp_path: Path) -> None:  # noqa: F811
    files = [write_noise(tmp_path / "a.wav", 2.0), write_noise(tmp_path / "b.wav", 2.0)]
    with believing(whisper, tokens.languages["sw"]):
        found = dict(transcribe_by_pauses(whisper, files))
    assert {each.language for each in found.values()} == {"sw"}  # type: ignore[union-attr]


def test_silence_has_no_text(whisper: Whisper, tokens: Tokens, tmp_path: Path) -> None:  # noqa: F811
    with believing(whisper, tokens.no_speech):
        assert hear(whisper, write_noise(tmp_path / "a.wav", 3.0))[0].segments == []


@pytest.mark.parametrize("by_pauses", [False, True])
@pytest.mark.parametrize("timestamps", [False, True])
def test_words_have_times_in_order(
    spelling: Whisper,
    tmp_path: Path,
    timestamps: bool,
    by_pauses: bool,
) -> None:
    file = write_talk(tmp_path / "a.wav", 1.2, 1.0, 1.5)
    if by_pauses:
        (heard,) = hear(spelling, file, words=True, timestamps=timestamps, longest_s=2.5)
    else:
        heard = transcribe(spelling, file, "en", timestamps=timestamps, thresholds=ONCE, words=True)
    assert heard.words and all(isinstance(segment, WordedSegment) for segment in heard.segments)
    for segment in heard.segments:
        times_s = [time_s for word in segment.words for time_s in (word.start_s, word.end_s)]  # type: ignore[attr-defined]
        assert times_s == sorted(times_s)
        assert not times_s or segment.start_s <= times_s[0] <= times_s[-1] <= segment.end_s
    spelt = "".join("".join(word.text.split()) for word in heard.words)
    assert spelt == "".join(heard.text.split())  # no word is lost


def test_what_repeats_itself_is_heard_again(
    whisper: Whisper,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = [Segment(0.5, 2.0, "Heard again.")]
    monkeypatch.setattr(StretchListener, "_hear_again", lambda self, stretch: again)
    monkeypatch.setattr(whisper.tokens, "transcript", lambda ids: "no " * 60)
    (heard,) = hear(whisper, write_noise(tmp_path / "a.wav", 3.0))
    assert heard.segments == again and compute_compression("no " * 60) > 2.4


def test_segments_end_where_nobody_speaks() -> None:
    words = [Word(0.1, 0.4, "The"), Word(0.4, 0.9, "end."), Word(1.5, 1.9, "The"), Word(2.0, 2.2, "sea.")]
    segments = cut_between_words("The end. The sea.", words)
    assert [(s.start_s, s.end_s, s.text) for s in segments] == [(0.1, 0.9, "The end."), (1.5, 2.2, "The sea.")]
    assert segments[1].words == tuple(words[2:])  # type: ignore[attr-defined]
