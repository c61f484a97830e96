"""A window's ids -> its segments, and a window that walks through a recording."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from attune.audio.tape import Tape
from attune.audio.waveform import SAMPLE_RATE_HZ, SHORTEST_S, WINDOW_S
from attune.text.tokens import SECONDS_PER_TIMESTAMP, Segment, Tokens
from attune.use.transcript import Word, WordedSegment

WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
CUT_OFF_S = 0.5  # a segment that ends so close to the window's end was cut by it


@dataclass(frozen=True)
class Heard:
    """A window's segments, in seconds from its start, and how far the window moves on.

    Args:
        ids: of each segment's text; [] where nobody asks for them.
    """

    segments: list[Segment]
    advance_s: float
    ids: list[list[int]] = field(default_factory=list, compare=False)


def split_segments(tokens: Tokens, ids: Sequence[int], window_s: float, more: bool) -> Heard:
    """Whisper's reading of timestamps: two in a row end a segment and begin the next.

    Where the decoder began a segment that it did not end, the window moves to that beginning, and the segment is heard
    whole. Where it ended the last one, nothing is said behind it, and the window moves on by its whole length. Beyond
    openai/whisper: a last segment that ends at the window's very end is heard again too, because a model that was
    fine-tuned on whole utterances has never seen one that the window cut, and ends it there.

    Args:
        ids: as decoded, without prefix and <|endoftext|>.
        more: the recording goes on behind the window.
    """
    is_time = [token >= tokens.first_timestamp for token in ids]
    cuts = [i for i in range(1, len(ids)) if is_time[i - 1] and is_time[i]]
    is_ended = is_time[-2:] == [False, True]
    bounds = [0, *cuts, len(ids)] if is_ended or not cuts else [0, *cuts]
    parts = [ids[start:end] for start, end in pairwise(bounds)]
    segments = [_read_segment(tokens, part, window_s) for part in parts]
    spoken = [[token for token in part if token not in tokens.special] for part in parts]
    if is_ended and more and cuts and segments[-1].end_s > window_s - CUT_OFF_S:
        return Heard(segments[:-1], segments[-1].start_s, spoken[:-1])
    return Heard(segments, window_s if is_ended or not cuts else segments[-1].end_s, spoken)


def _read_segment(tokens: Tokens, ids: Sequence[int], window_s: float) -> Segment:
    """<|start|> text <|end|>; a time that is missing is that of the window."""
    times_s = [(i, (token - tokens.first_timestamp) * SECONDS_PER_TIMESTAMP) for i, token in enumerate(ids)]
    times_s = [(i, time_s) for i, time_s in times_s if time_s >= 0]
    start_s = next((time_s for i, time_s in times_s if i == 0), 0.0)
    end_s = next((time_s for i, time_s in reversed(times_s) if i > 0), window_s)
    return Segment(start_s, end_s, tokens.transcript(ids))


def walk(
    tape: Tape,
    hear: Callable[[Float[Tensor, "sample"], bool], Heard],
    on_progress: Callable[[float], None] = lambda heard_s: None,
    longest_s: float = WINDOW_S,
) -> list[Segment]:
    """Move a window through a recording.

    Args:
        hear: a window, and whether the recording goes on behind it -> what was heard.
        on_progress: is told the seconds that have been heard.
        longest_s: the window, at most Whisper's.

    Returns:
        Segments with text, in order, without overlap, within the recording.
    """
    segments: list[Segment] = []
    start = 0
    while tape.goes_beyond(start + int(SHORTEST_S * SAMPLE_RATE_HZ) - 1):
        window = tape.read(start, int(longest_s * SAMPLE_RATE_HZ))
        heard = hear(window, tape.goes_beyond(start + len(window)))
        for segment in heard.segments:
            earliest_s = segments[-1].end_s if segments else 0.0
            # What begins in the padding behind the end was not heard there.
            placed = place(segment, start / SAMPLE_RATE_HZ, earliest_s, (start + len(window)) / SAMPLE_RATE_HZ)
            if placed.text and placed.end_s > placed.start_s:
                segments.append(placed)
        # A decoder that writes no time beyond 0.00 would keep the window where it is for ever.
        start += round(heard.advance_s * SAMPLE_RATE_HZ) or len(window)
        on_progress(min(start, tape.known_samples) / SAMPLE_RATE_HZ)
    return segments


def place(segment: Segment, offset_s: float, earliest_s: float, latest_s: float) -> Segment:
    """A segment of a window -> one of the recording, cut to what is free of it; its words with it."""
    begins_s = max(offset_s + segment.start_s, earliest_s)
    ends_s = min(offset_s + segment.end_s, latest_s)
    placed = replace(segment, start_s=begins_s, end_s=ends_s)
    if not isinstance(placed, WordedSegment):
        return placed
    times_s = [(offset_s + word.start_s, offset_s + word.end_s, word.text) for word in placed.words]
    cut = [(min(max(start, begins_s), ends_s), min(max(end, begins_s), ends_s), text) for start, end, text in times_s]
    return replace(placed, words=tuple(Word(*each) for each in cut))
