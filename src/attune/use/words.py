"""Word times: what was written in a stretch of sound, laid along it."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from attune.audio.pauses import find_pauses
from attune.audio.waveform import POSITIONS_PER_S, SAMPLES_PER_POSITION, WINDOW_POSITIONS
from attune.model.align import Span, align
from attune.model.whisper import Whisper
from attune.text.tokens import Segment
from attune.text.words import split_words
from attune.use.transcript import Word, WordedSegment


def time_words(
    whisper: Whisper,
    states: Float[Tensor, "batch position told"],
    prefixes: Sequence[Sequence[int]],
    written: Sequence[Sequence[Sequence[int]]],
    stretches: Sequence[Float[Tensor, "sample"]],
    languages: Sequence[str | None],
) -> list[list[list[Word]]]:
    """Of each stretch and each part of what was written in it, the words in order, in seconds from its start.

    Args:
        states: of the encoder, which heard the stretches.
        prefixes: what the decoder was given, without times.
        written: what it wrote: of each stretch the parts (its segments), of each part the text ids alone.
    """
    joined = [[token for part in parts for token in part] for parts in written]
    spans = align(whisper, states, prefixes, joined, [find_audible(stretch) for stretch in stretches])
    found = []
    for parts, row, language in zip(written, spans, languages, strict=True):
        left = iter(row)
        split = [split_words(whisper.tokens, part, language) for part in parts]
        found.append([[_read_word(text, list(islice(left, count))) for text, count in words] for words in split])
    return found


def find_audible(stretch: Float[Tensor, "sample"]) -> Int[np.ndarray, "position"]:
    """The encoder positions of a stretch that lie in no pause; all, where it is nothing but one."""
    is_heard = np.ones(min(-(-len(stretch) // SAMPLES_PER_POSITION), WINDOW_POSITIONS), dtype=bool)
    for begin, end in find_pauses(stretch):
        is_heard[-(-begin // SAMPLES_PER_POSITION) : end // SAMPLES_PER_POSITION] = False
    return np.flatnonzero(is_heard) if is_heard.any() else np.arange(len(is_heard))


def _read_word(text: str, spans: Sequence[Span]) -> Word:
    return Word(spans[0][0] / POSITIONS_PER_S, spans[-1][1] / POSITIONS_PER_S, text)


def add_words(segments: Sequence[Segment], words: Sequence[Sequence[Word]]) -> list[Segment]:
    """Segments, and the words of each -> segments with words."""
    pairs = zip(segments, words, strict=True)
    return [WordedSegment(segment.start_s, segment.end_s, segment.text, tuple(own)) for segment, own in pairs]
