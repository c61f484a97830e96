"""What was said in a recording, and how it is written down: text, JSON, SubRip or WebVTT."""

import json
from dataclasses import asdict, dataclass

from attune.text.tokens import Segment


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Args:
        file: as the user wrote it.
        language: Whisper's code; None where nothing was audible, so that none could be detected.
        segments: in order, without overlap, within [0, duration_s].
    """

    file: str
    duration_s: float
    language: str | None
    text: str
    segments: list[Segment]


def format_text(transcript: Transcript) -> str:
    """One line."""
    return transcript.text + "\n"


def format_json(transcript: Transcript) -> str:
    """{file, duration_s, language, text, segments: [{start_s, end_s, text}]}, times to the millisecond."""
    values = asdict(transcript)
    for timed in (values, *values["segments"]):
        timed |= {name: round(value, 3) for name, value in timed.items() if isinstance(value, float)}
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def format_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, a comma before the milliseconds."""
    cues = [
        f"{number}\n{format_time(segment.start_s, ',')} --> {format_time(segment.end_s, ',')}\n"
        f"{segment.text.replace('-->', '->')}\n"
        for number, segment in enumerate(transcript.segments, start=1)
    ]
    return "\n".join(cues)


def format_vtt(transcript: Transcript) -> str:
    """WebVTT: a header, a dot before the milliseconds, and the three characters of its markup escaped."""
    cues = [
        f"{format_time(segment.start_s, '.')} --> {format_time(segment.end_s, '.')}\n"
        f"{segment.text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n"
        for segment in transcript.segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def format_time(time_s: float, mark: str) -> str:
    """3661.5 -> 01:01:01,500; hours are written also where they are 0, and may exceed 99."""
    seconds, milliseconds = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{milliseconds:03d}"


FORMATS = {"text": format_text, "json": format_json, "srt": format_srt, "vtt": format_vtt}
