"""What a transcript looks like as text, JSON, SubRip and WebVTT."""

import json
from dataclasses import replace

import pytest

from attune.text.tokens import Segment
from attune.use.transcript import (
    Transcript,
    Word,
    WordedSegment,
    format_json,
    format_srt,
    format_text,
    format_time,
    format_vtt,
)


@pytest.fixture(scope="module")
def transcript() -> Transcript:
    segments = [Segment(0.0, 1.5, "Hello, <world> & all."), Segment(3661.0456, 3662.0, "Où --> là ?")]
    return Transcript("talk.wav", 3700.25, "fr", "Hello, <world> & all. Où --> là ?", segments)


def test_times() -> None:
    assert format_time(0.0, ",") == "00:00:00,000"
    assert format_time(59.9996, ".") == "00:01:00.000"
    assert format_time(3661.5, ",") == "01:01:01,500"
    assert format_time(360_000.0, ".") == "100:00:00.000"


def test_text(transcript: Transcript) -> None:
    assert format_text(transcript) == "Hello, <world> & all. Où --> là ?\n"


def test_subrip(transcript: Transcript) -> None:
    assert format_srt(transcript) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello, <world> & all.\n\n2\n01:01:01,046 --> 01:01:02,000\nOù -> là ?\n"
    )


def test_webvtt(transcript: Transcript) -> None:
    assert format_vtt(transcript) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello, &lt;world&gt; &amp; all.\n\n"
        "01:01:01.046 --> 01:01:02.000\nOù --&gt; là ?\n"
    )
    assert format_vtt(replace(transcript, segments=[])) == "WEBVTT\n"


def test_json(transcript: Transcript) -> None:
    content = format_json(transcript)
    assert "Où" in content
    assert json.loads(content) == {
        "file": "talk.wav",
        "duration_s": 3700.25,
        "language": "fr",
        "text": "Hello, <world> & all. Où --> là ?",
        "segments": [
            {"start_s": 0.0, "end_s": 1.5, "text": "Hello, <world> & all."},
            {"start_s": 3661.046, "end_s": 3662.0, "text": "Où --> là ?"},
        ],
    }


@pytest.fixture(scope="module")
def worded() -> Transcript:
    words = (Word(0.25, 0.5, "Hello,"), Word(0.5, 0.5, "<world>"), Word(0.75, 1.5, "& all."))
    return Transcript(
        "talk.wav", 2.0, "en", "Hello, <world> & all.", [WordedSegment(0.0, 1.5, "Hello, <world> & all.", words)]
    )


def test_words_as_text_and_subrip(worded: Transcript) -> None:
    assert format_text(worded) == "0.25\t0.50\tHello,\n0.50\t0.50\t<world>\n0.75\t1.50\t& all.\n"
    assert format_srt(worded).startswith("1\n00:00:00,250 --> 00:00:00,500\nHello,\n\n2\n00:00:00,500 --> ")
    assert format_srt(worded).count("-->") == 3


def test_words_in_webvtt(worded: Transcript) -> None:
    line = format_vtt(worded).split("\n")[3]
    assert line == "<00:00:00.250>Hello, <00:00:00.500>&lt;world&gt; <00:00:00.750>&amp; all."


def test_words_in_json(worded: Transcript) -> None:
    (segment,) = json.loads(format_json(worded))["segments"]
    assert segment["words"][0] == {"start_s": 0.25, "end_s": 0.5, "text": "Hello,"}
    assert len(segment["words"]) == 3
