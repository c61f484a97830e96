"""Several training utterances to one window (context=packed).

    encoder   | utterance 1 | gap | utterance 2 | gap | utterance 3 | silence
    decoder   <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> text 1 text 2 text 3 <|endoftext|>

With context.timestamps each text stands between the times of its utterance. Nothing is masked: the encoder hears the
window as one recording, as it does with long audio.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from datasets import Dataset

from attune.audio.context import PackedContext
from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.data.audit import load_row
from attune.data.batch import Example
from attune.data.corpora.schema import REJECTED, read_segments
from attune.text.normalise import spells_without_spaces
from attune.text.tokens import Segment, Tokens

OPEN = 8  # windows of a group that are still filled: with all of them, a corpus of one group would take hours
SLACK_TOKENS = 8  # a joined text may be cut into other tokens at its joints, in scripts without spaces


@dataclass(frozen=True)
class Share:
    """What an utterance takes of a window, and with which it may share one.

    Args:
        tokens: of its label, of the `room` that a window of its kind has.
        group: utterances of one group may share a window; None is always alone.
    """

    seconds: float
    tokens: int
    room: int
    group: tuple[str | None, str, str] | None


def measure_shares(rows: Dataset, tokens: Tokens, context: PackedContext) -> list[Share]:
    """Of every training utterance. One with a prompt stands alone: it says what came before, and is no one else's. So
    does one without speech, which is taught otherwise, and one with times of its own where none are taught."""
    return [_measure(row, tokens, context) for row in rows.remove_columns("audio").to_list()]  # type: ignore[arg-type]


def _measure(row: Mapping[str, Any], tokens: Tokens, context: PackedContext) -> Share:
    prefix = tokens.prefix(row["language"], row["task"], timestamps=context.timestamps)
    room = tokens.max_tokens - len(prefix) - len(tokens.prompt(None, room=tokens.max_tokens)) - SLACK_TOKENS
    is_alone = not row["text"].strip() or row["prompt"] or (row["segments"] and not context.timestamps)
    is_alone = is_alone or row.get(REJECTED) is not None  # a pair compares transcripts of one utterance
    if is_alone:
        return Share(row["duration_s"], 0, room, None)
    count = len(tokens.text(row["text"], row["language"])) + 2 * context.timestamps * max(1, len(row["segments"] or []))
    speaker = row["speaker"] if context.same_speaker else None
    return Share(row["duration_s"], count, room, (speaker, row["language"], row["task"]))


@dataclass
class _Window:
    room_s: float
    indices: list[int] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    def holds(self, index: int, share: Share, context: PackedContext) -> bool:
        """Whether there is room; an utterance that a pass holds twice is never said twice in one window."""
        in_time = self.seconds + context.gap_s + share.seconds <= self.room_s
        return in_time and self.tokens + share.tokens <= share.room and index not in self.indices

    def add(self, index: int, share: Share, context: PackedContext) -> None:
        self.seconds += share.seconds + (context.gap_s if self.indices else 0.0)
        self.tokens += share.tokens
        self.indices.append(index)


def pack(
    order: Sequence[int], shares: Sequence[Share], context: PackedContext, rng: random.Random, room_s: float
) -> list[tuple[int, ...]]:
    """Fill windows: each utterance, in the given order, goes into the first of its group's open windows that holds it.

    Every entry of `order` is in exactly one window. `rng` draws which utterances stand alone, and how much each window
    may hold, evenly from nothing to `room_s`: where all were full, a model would not learn to stop in a shorter one.
    No two share a window that take more than its room together.
    """
    windows: list[_Window] = []
    groups: dict[Any, list[_Window]] = defaultdict(list)
    for index in order:
        share = shares[index]
        is_alone = rng.random() < context.single_share or share.group is None
        mates = [] if is_alone else groups[share.group]
        window = next((mate for mate in mates if mate.holds(index, share, context)), None)
        if window is None:
            window = _Window(room_s * rng.random())
            windows.append(window)
            mates.append(window)
            del mates[:-OPEN]
        window.add(index, share, context)
    return [tuple(window.indices) for window in windows]


def join_rows(rows: Sequence[Mapping[str, Any]], positions: int, tokens: Tokens, context: PackedContext) -> Example:
    """One example of several rows of the schema, of one language and task, in a window of `positions`.

    Raises:
        AudioError: one of them cannot be decoded.
    """
    first = rows[0]
    gap = torch.zeros(int(context.gap_s * SAMPLE_RATE_HZ))
    waveforms = [load_row(row) for row in rows]
    pieces = [piece for waveform in waveforms for piece in (waveform, gap)][:-1]
    starts = list(accumulate((len(waveform) + len(gap) for waveform in waveforms), initial=0))
    space = "" if spells_without_spaces(first["language"]) else " "
    text = space.join(row["text"].strip() for row in rows)
    segments: list[Segment] = []
    if context.timestamps:
        for row, start, waveform in zip(rows, starts, waveforms, strict=False):
            segments += place_segments(row, start / SAMPLE_RATE_HZ, len(waveform) / SAMPLE_RATE_HZ)
    sequence = tokens.sequence(text, first["language"], first["task"], segments=segments)
    return Example(
        id="+".join(row["id"] for row in rows),
        waveform=torch.cat(pieces),
        positions=positions,
        decoder_input_ids=sequence.decoder_input_ids,
        labels=sequence.labels,
        prefix=tokens.prefix(first["language"], first["task"]),
        reference=text,
        language=first["language"],
        speaker=first["speaker"],
        utterances=len(rows),
    )


def place_segments(row: Mapping[str, Any], start_s: float, duration_s: float) -> list[Segment]:
    """The timed parts of a row, counted from the window's start; a row without any is one part."""
    own = read_segments(row) or [Segment(0.0, duration_s, row["text"])]
    return [Segment(start_s + part.start_s, start_s + part.end_s, part.text) for part in own]
