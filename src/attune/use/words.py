"""Word times: what was written in a stretch of sound, laid along it."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from attune.audio.pauses import find_pauses
from attune.audio.waveform import POSITIONS_PER_S, SAMPLE_RATE_HZ, SAMPLES_PER_POSITION
from attune.model.align import Span, align
from attune.model.whisper import Whisper
from attune.text.tokens import Segment
from attune.text.words import split_words
from attune.use.transcript import Word, WordedSegment


def time_words(
    whisper: Whisper,
    states: Float[Tensor, "batch position width"],
    prefixes: Sequence[Sequence[int]],
    written: Sequence[Sequence[int]],
    stretches: Sequence[Float[Tensor, "sample"]],
    languages: Sequence[str | None],
) -> list[list[tuple[Word, int]]]:
    """Of each stretch, its words in order, in seconds from its start, and how many ids spell each.

    Args:
        states: of the encoder, which heard the stretches.
        prefixes: what the decoder was given, without times.
        written: what it wrote: text ids alone.
    """
    positions = [-(-len(stretch) // SAMPLES_PER_POSITION) for stretch in stretches]
    found = []
    for row, spans in enumerate(align(whisper, states, prefixes, written, positions)):
        pauses_s = [(begin / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ) for begin, end in find_pauses(stretches[row])]
        found.append(_read_words(split_words(whisper.tokens, written[row], languages[row]), spans, pauses_s))
    return found


def _read_words(
    words: Sequence[tuple[str, int]], spans: Sequence[Span], pauses_s: Sequence[tuple[float, float]]
) -> list[tuple[Word, int]]:
    found: list[tuple[Word, int]] = []
    first, earliest_s = 0, 0.0
    for text, count in words:
        start, end = spans[first][0], spans[first + count - 1][1]
        start_s, end_s = leave_out_pauses(start / POSITIONS_PER_S, end / POSITIONS_PER_S, pauses_s)
        start_s = max(start_s, earliest_s)
        earliest_s = max(end_s, start_s)
        found.append((Word(start_s, earliest_s, text), count))
        first += count
    return found


def leave_out_pauses(start_s: float, end_s: float, pauses_s: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The longest part of a word's time in which it is not quiet; all of it where there is none.

    The path of an alignment gives a pause to the word before it or to the one behind it, as it happens.
    """
    parts, begin_s = [], start_s
    for quiet_s, loud_s in pauses_s:
        if loud_s > start_s and quiet_s < end_s:
            parts.append((begin_s, max(quiet_s, begin_s)))
            begin_s = min(loud_s, end_s)
    parts.append((begin_s, end_s))
    longest = max(parts, key=lambda part: part[1] - part[0])
    return longest if longest[1] > longest[0] else (start_s, end_s)


def deal_words(
    segments: Sequence[Segment], written: Sequence[Sequence[int]], words: Sequence[tuple[Word, int]]
) -> list[Segment]:
    """Segments, what ids each is made of, and the words of all of them -> segments with words.

    A word that begins in one segment and ends in the next, which no language has but a tokenizer may make, is the
    first one's.
    """
    dealt: list[Segment] = []
    place, spelt, due = 0, 0, 0
    for segment, ids in zip(segments, written, strict=True):
        due += len(ids)
        first = place
        while place < len(words) and spelt < due:
            spelt += words[place][1]
            place += 1
        own = tuple(word for word, _ in words[first:place])
        dealt.append(WordedSegment(segment.start_s, segment.end_s, segment.text, own))
    return dealt
