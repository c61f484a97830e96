"""Text with times beside a recording: SubRip (.srt), WebVTT (.vtt) and Praat's TextGrid.

Read here and not by a library, because a row that is dropped without a word is the one mistake that nobody finds:
praatio ends a tier at the first field that it cannot read [its source], and the subtitle packages skip what they do not
know. Of all three formats only times and text are needed, which is little.
"""

import html
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from attune.errors import InputError

TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}[.,]\d{1,3})"  # WebVTT may leave the hours out, SubRip writes a comma
TIMING = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}")
SPEAKER = re.compile(r"<v[^ >]*\s+([^>]+)>")  # WebVTT's voice
# <i>, </i>, <v Anna>, <00:00:01.000>, and the {\an8} of some SubRip files; but not what "3 < 5 and 7 > 2" encloses.
MARKUP = re.compile(r"</?[^\W\d][^>]*>|<[\d:.]+>|\{\\[^}]*\}")
# Praat reads text in quotes and numbers that stand alone, and passes over all else: one rule for the long format, where
# each is introduced ("xmin = 0.5"), and for the short one, where it is not. A comment runs from "!" to the line's end.
TEXTGRID = re.compile(r'"((?:[^"]|"")*)"|!.*|(?<!\S)(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)')
TextOrNumber = TypeVar("TextOrNumber", str, float)


@dataclass(frozen=True)
class Cue:
    """What is said from one time to another, in seconds from the recording's start; where a person finds it."""

    start_s: float
    end_s: float
    text: str
    place: str
    speaker: str | None = None


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 with its mark, as Praat writes it; line ends become \\n.

    Raises:
        InputError: it is in another encoding.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}. It must be text in UTF-8 (or UTF-16).") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_subtitles(path: Path) -> list[Cue]:
    """The cues of an .srt or .vtt file, without markup; those without text are left out.

    In SubRip some files have no empty line between cues, or one within a cue: a number ahead of two times is the cue's
    own, and all other text belongs to the cue before it.

    Raises:
        InputError: it holds no cue, or a line with an arrow that has no two times.
    """
    cues: list[tuple[float, float, list[str], str]] = []
    lines: list[str] | None = None  # of the cue that is open: from its times to an empty line
    is_subrip = path.suffix.lower() == ".srt"
    text = read_text(path)
    is_numbered = is_subrip and (text.split() or [""])[0].isdecimal()
    for number, line in enumerate(text.split("\n"), start=1):
        if "-->" in line:
            if is_numbered and lines and lines[-1].strip().isdecimal():
                lines.pop()
            lines = []
            cues.append((*_read_times(line, f"{path}, line {number}"), lines, f"{path}, line {number}"))
        elif not line.strip():
            lines = lines if is_subrip else None
        elif lines is not None:
            lines.append(line)
    if not cues:
        raise InputError(f"{path} holds no subtitle. Each begins with a line such as 00:00:01,000 --> 00:00:02,500.")
    made = (_make_cue(start_s, end_s, " ".join(lines), place) for start_s, end_s, lines, place in cues)
    return [cue for cue in made if cue.text]


def _read_times(line: str, place: str) -> tuple[float, float]:
    match = TIMING.match(line)
    if not match:
        raise InputError(f"{place}: {line.strip()!r} is no pair of times such as 00:00:01,000 --> 00:00:02,500.")
    hours, minutes, seconds, *end = match.groups()
    return _seconds(hours, minutes, seconds), _seconds(*end)


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def _make_cue(start_s: float, end_s: float, text: str, place: str) -> Cue:
    voice = SPEAKER.search(text)
    plain = " ".join(html.unescape(MARKUP.sub("", text)).split())
    return Cue(start_s, end_s, plain, place, html.unescape(voice[1]).strip() if voice else None)


def read_textgrid(path: Path, tiers: Sequence[str] = ()) -> list[Cue]:
    """The labelled intervals of a TextGrid, in Praat's long or short text format.

    Args:
        tiers: names of interval tiers; where there are several, each is a speaker. None takes the only one there is.

    Raises:
        InputError: it is no such file, has no tier of that name, or has several of which none was chosen.
    """
    tokens = deque(_tokenize(read_text(path)))
    fields = len(tokens)
    try:
        found = _read_tiers(tokens)
    except (IndexError, ValueError):
        raise InputError(
            f"{path} is no TextGrid behind its field {fields - len(tokens)}. Save it from Praat as a text file or a "
            "short text file."
        ) from None
    names = [name for name, _ in found]
    wanted = list(tiers) or names
    if not set(wanted) <= set(names) or (not tiers and len(names) != 1):
        raise InputError(
            f"{path} has the interval tiers {', '.join(map(repr, names)) or 'none'}; data.tiers is {list(tiers)}. Name "
            "those that hold what is said, as in data.tiers=[words]."
        )
    return [
        Cue(start_s, end_s, label, f"{path}, tier {name}, at {start_s:g} s", name if len(wanted) > 1 else None)
        for name, intervals in found
        if name in wanted
        for start_s, end_s, text in intervals
        if (label := " ".join(text.split()))
    ]


def _tokenize(text: str) -> list[str | float]:
    """Text in quotes as str, numbers as float, in order."""
    tokens: list[str | float] = []
    for match in TEXTGRID.finditer(text):
        if match[2] is not None:
            tokens.append(float(match[2]))
        elif match[1] is not None:
            tokens.append(match[1].replace('""', '"'))
    return tokens


def _read_tiers(tokens: deque[str | float]) -> list[tuple[str, list[tuple[float, float, str]]]]:
    """(name, intervals) of each interval tier; tiers of points are passed over.

    Raises:
        IndexError, ValueError: the fields are not those of a TextGrid.
    """
    if not _take(tokens, str).startswith("ooTextFile") or _take(tokens, str) != "TextGrid":
        raise ValueError
    _take_times(tokens)
    tiers = []
    for _ in range(int(_take(tokens, float))):
        kind, name = _take(tokens, str), _take(tokens, str)
        _take_times(tokens)
        count = int(_take(tokens, float))
        if kind == "IntervalTier":
            tiers.append((name, [(*_take_times(tokens), _take(tokens, str)) for _ in range(count)]))
        else:
            for field in [float, str] * count:
                _take(tokens, field)
    return tiers


def _take_times(tokens: deque[str | float]) -> tuple[float, float]:
    return _take(tokens, float), _take(tokens, float)


def _take(tokens: deque[str | float], kind: type[TextOrNumber]) -> TextOrNumber:
    if not isinstance(tokens[0], kind):
        raise ValueError
    return tokens.popleft()  # type: ignore[return-value]
