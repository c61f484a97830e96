"""Subtitles and TextGrids as programs write them."""

from pathlib import Path

import pytest

from attune.data.corpora.timed_text import Cue, read_subtitles, read_textgrid
from attune.errors import InputError

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i>, "you"
two.

2
00:00:03,000 --> 00:00:04,000
{\\an8}

3
01:00:00,250 --> 01:00:01,000
Late.
"""
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE
not said

first
00:01.000 --> 00:02.500 align:start position:10%
<v.loud Anna>Fish &amp; chips</v>

1:00:00.250 --> 1:00:01.000
سلام
"""
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "TextTier"
        name = "tones"
        xmin = 0
        xmax = 2.5
        points: size = 1
        points [1]:
            number = 0.5
            mark = "H* 3"
    item [2]:
        class = "IntervalTier"
        name = "said"
        xmin = 0
        xmax = 2.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 1.25 ! a comment, with "quotes" and 17
            text = "She said ""no"" ! 5 times"
        intervals [2]:
            xmin = 1.25
            xmax = 2
            text = ""
        intervals [3]:
            xmin = 2
            xmax = 2.5
            text = "two
lines"
"""
SHORT = (
    '"ooTextFile short"\n"TextGrid"\n\n0\n2.5\n<exists>\n2\n"IntervalTier"\n"A"\n0\n2.5\n1\n0\n1.5\n"one"\n'
    '"IntervalTier"\n"B"\n0\n2.5\n1\n1\n2.5\n"two"\n'
)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_subrip(newline: str, encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.srt", SRT.replace("\n", newline), encoding)
    assert read_subtitles(path) == [
        Cue(1.0, 2.5, 'Hello, "you" two.', f"{path}, line 2"),
        Cue(3600.25, 3601.0, "Late.", f"{path}, line 11"),
    ]


def test_subrip_as_some_programs_write_it(tmp_path: Path) -> None:
    """Without empty lines between cues, or with one in a cue: no number becomes text, and no text is lost."""
    times = [f"00:00:0{second},000 --> 00:00:0{second + 1},000" for second in range(4)]
    cues = [f"1\n{times[0]}\nOne.\n2\n{times[1]}\n3 < 5 and 7 > 2\n\nstill\n\n3\n{times[2]}\n<i>42</i>\n"]
    cues += [f"4\n{times[3]}\n42\n"]
    path = write(tmp_path / "a.srt", "\n".join(cues))
    assert [cue.text for cue in read_subtitles(path)] == ["One.", "3 < 5 and 7 > 2 still", "42", "42"]
    path = write(tmp_path / "unnumbered.srt", f"{times[0]}\n42\n\n{times[1]}\nTwo.\n")
    assert [cue.text for cue in read_subtitles(path)] == ["42", "Two."]


def test_webvtt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.vtt", VTT)
    assert read_subtitles(path) == [
        Cue(1.0, 2.5, "Fish & chips", f"{path}, line 10", "Anna"),
        Cue(3600.25, 3601.0, "سلام", f"{path}, line 13"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_textgrid_in_the_long_format(encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.TextGrid", LONG, encoding)
    said = [Cue(0, 1.25, 'She said "no" ! 5 times', f"{path}, tier said, at 0 s")]
    said += [Cue(2, 2.5, "two lines", f"{path}, tier said, at 2 s")]
    assert read_textgrid(path) == read_textgrid(path, ["said"]) == said


def test_tiers_are_speakers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.TextGrid", SHORT)
    assert [(cue.text, cue.speaker) for cue in read_textgrid(path, ["A", "B"])] == [("one", "A"), ("two", "B")]
    assert [(cue.text, cue.speaker) for cue in read_textgrid(path, ["B"])] == [("two", None)]


@pytest.mark.parametrize("tiers", [[], ["C"]])
def test_a_tier_that_must_be_chosen(tiers: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "a.TextGrid", SHORT)
    with pytest.raises(InputError, match=r"has the interval tiers 'A', 'B'; data.tiers is .*data.tiers=\[words\]"):
        read_textgrid(path, tiers)


@pytest.mark.parametrize("text", ["", "ooBinaryFile", SHORT[:-8], SHORT.replace("<exists>\n2", "<exists>\nmany"), SRT])
def test_what_is_no_textgrid_loses_nothing_in_silence(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.TextGrid is no TextGrid behind its field \d+. Save it from Praat"):
        read_textgrid(write(tmp_path / "a.TextGrid", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hello.\n", r"a.srt holds no subtitle. Each begins with a line such as"),
        ("1\n00:00:01 --> soon\nx\n", r"a.srt, line 2: '00:00:01 --> soon' is no pair of times"),
    ],
)
def test_what_are_no_subtitles(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_subtitles(write(tmp_path / "a.srt", text))


def test_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.srt cannot be read: .* It must be text in UTF-8"):
        read_subtitles(write(tmp_path / "a.srt", SRT.replace("Late", "Spät"), "latin-1"))
