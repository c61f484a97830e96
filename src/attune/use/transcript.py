"""What was said in a recording, and how it is written down: text, JSON, SubRip or WebVTT."""

import json
from dataclasses import asdict, dataclass

from attune.text.tokens import Segment


@dataclass(frozen=True)
class Word:
    """A word with its punctuation, and when it was said, in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class WordedSegment(Segment):
    """A segment with the times of its words, in order, without overlap, within the segment."""

    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Args:
        file: as the user wrote it.
        language: Whisper's code; None where nothing was audible, so that none could be detected.
        segments: in order, without overlap, within [0, duration_s]; with words where those were asked for.
    """

    file: str
    duration_s: float
    language: str | None
    text: str
    segments: list[Segment]

    @property
    def words(self) -> list[Word]:
        return [word for segment in self.segments if isinstance(segment, WordedSegment) for word in segment.words]


def format_text(transcript: Transcript) -> str:
    """One line; with words a line each: start, end and word, with tabs between them."""
    lines = [f"{word.start_s:.2f}\t{word.end_s:.2f}\t{word.text}" for word in transcript.words]
    return "\n".join(lines or [transcript.text]) + "\n"


def format_json(transcript: Transcript) -> str:
    """{file, duration_s, language, text, segments: [{start_s, end_s, text}]}, times to the millisecond.

    With words a segment also has words: [{start_s, end_s, text}].
    """
    values = asdict(transcript)
    parts = [word for segment in values["segments"] for word in segment.get("words", ())]
    for timed in (values, *values["segments"], *parts):
        timed |= {name: round(value, 3) for name, value in timed.items() if isinstance(value, float)}
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def format_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, a comma before the milliseconds; with words a cue each."""
    cues = [
        f"{number}\n{format_time(part.start_s, ',')} --> {format_time(part.end_s, ',')}\n"
        f"{part.text.replace('-->', '->')}\n"
        for number, part in enumerate(transcript.words or transcript.segments, start=1)
    ]
    return "\n".join(cues)


def format_vtt(transcript: Transcript) -> str:
    """WebVTT: a header, a dot before the milliseconds, and the three characters of its markup escaped."""
    cues = [
        f"{format_time(segment.start_s, '.')} --> {format_time(segment.end_s, '.')}\n{_write_cue(segment)}\n"
        for segment in transcript.segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _write_cue(segment: Segment) -> str:
    """A cue's text; the time of each word that begins behind the one before it stands in front of it."""
    if not isinstance(segment, WordedSegment) or not segment.words:
        return _escape(segment.text)
    written, shown_s = "", segment.start_s
    for word, begin, end in _place_words(segment):
        if round(word.start_s * 1000) > round(shown_s * 1000):
            written += f"<{format_time(word.start_s, '.')}>"
            shown_s = word.start_s
        written += _escape(segment.text[begin:end])
    return written


def _place_words(segment: WordedSegment) -> list[tuple[Word, int, int]]:
    """Each word, and where it and the space behind it stand in the segment's text."""
    begins, searched = [], 0
    for word in segment.words:
        found = max(segment.text.find(word.text, searched), searched)
        begins.append(found)
        searched = found + len(word.text)
    ends = [*begins[1:], len(segment.text)]
    return list(zip(segment.words, [0, *begins[1:]], ends, strict=True))


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def format_time(time_s: float, mark: str) -> str:
    """3661.5 -> 01:01:01,500; hours are written also where they are 0, and may exceed 99."""
    seconds, milliseconds = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{milliseconds:03d}"


FORMATS = {"text": format_text, "json": format_json, "srt": format_srt, "vtt": format_vtt}
