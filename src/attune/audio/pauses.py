"""Where nobody speaks: pauses by loudness, and a recording cut at them into stretches that fit Whisper's window."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attune.audio.tape import Tape
from attune.audio.waveform import HOP_SAMPLES, SAMPLE_RATE_HZ, SHORTEST_S, WINDOW_S

FLOOR_DB = -80.0  # below it, 16-bit audio holds nothing but its own rounding
QUIET_SHARE = 0.2  # of the way from the quietest to the loudest moments, in decibels
SILENT_DB = 45.0  # below what was loud before: whoever speaks so much more quietly is not understood
SHORTEST_PAUSE_S = 0.2  # the closure of a plosive is half as long
LONG_PAUSE_S = 1.0  # of which all but the ends is left out
KEPT_S = 0.3  # of a long pause, before and behind what is said
CUT_WITHIN_S = 6.0  # where there is no pause, a window ends at the quietest moment of its last seconds


def find_pauses(waveform: Float[Tensor, "sample"], loud_db: float = -np.inf) -> list[tuple[int, int]]:
    """Begin and end, in samples, of what is quiet for 0.2 s or more, measured by the waveform's own range.

    Quiet is what lies in the lowest fifth between its quietest and its loudest moments (5th and 95th of 100, in
    decibels): with clean speech some 15 dB above the room, in noise just above the noise.

    Args:
        loud_db: how loud the recording was before; what is 45 dB below it is quiet too. A stretch in which nobody
            speaks has no quiet and no loud moments of its own.
    """
    loudness_db = compute_loudness(waveform)
    if not len(loudness_db):
        return []
    low_db, high_db = np.percentile(loudness_db, [5, 95])
    is_quiet = loudness_db <= max(low_db + QUIET_SHARE * (high_db - low_db), loud_db - SILENT_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_quiet, [False]]).astype(np.int8)))
    shortest = round(SHORTEST_PAUSE_S * SAMPLE_RATE_HZ / HOP_SAMPLES)
    frames = len(is_quiet)
    return [
        (int(begin) * HOP_SAMPLES, len(waveform) if end == frames else int(end) * HOP_SAMPLES)
        for begin, end in edges.reshape(-1, 2)
        if end - begin >= shortest
    ]


def compute_loudness(waveform: Float[Tensor, "sample"]) -> Float[np.ndarray, "frame"]:
    """Of each 10 ms, with those beside it, in decibels below full scale; at least -80."""
    if len(waveform) < HOP_SAMPLES:
        return np.zeros(0)
    power = functional.avg_pool1d(waveform.square()[None], HOP_SAMPLES)
    power = functional.avg_pool1d(power, 3, stride=1, padding=1, count_include_pad=False)[0]
    return 10 * np.log10(power.numpy() + 10 ** (FLOOR_DB / 10))


def cut_at_pauses(tape: Tape, longest_s: float = WINDOW_S) -> Iterator[tuple[int, Float[Tensor, "sample"]]]:
    """The stretches of a recording, each with the sample at which it begins; silence of a second and more is left out.

    A stretch ends in the middle of the widest pause in the second half of the longest that it may be, so that it ends
    with a sentence more often than within one; where nobody pauses, at the quietest moment of its last seconds.

    Args:
        longest_s: of a stretch, at most Whisper's window.
    """
    longest, start, loud_db = int(longest_s * SAMPLE_RATE_HZ), 0, -np.inf
    while tape.goes_beyond(start + int(SHORTEST_S * SAMPLE_RATE_HZ) - 1):
        window = tape.read(start, longest)
        more = tape.goes_beyond(start + longest)
        loud_db = max(loud_db, float(np.percentile(compute_loudness(window), 95)))
        pauses = find_pauses(window, loud_db)
        skipped = _find_beginning(window, pauses)
        if skipped:
            start += skipped
            continue
        end = _find_end(window, pauses) if more else len(window)
        yield start, window[: _find_last(window[:end], pauses)]
        start += end


def _find_beginning(window: Float[Tensor, "sample"], pauses: list[tuple[int, int]]) -> int:
    """How much of a long pause at the window's beginning is passed over."""
    if not pauses or pauses[0][0] > 0 or pauses[0][1] < LONG_PAUSE_S * SAMPLE_RATE_HZ:
        return 0
    is_all = pauses[0][1] == len(window)
    return len(window) if is_all else pauses[0][1] - int(KEPT_S * SAMPLE_RATE_HZ)


def _find_end(window: Float[Tensor, "sample"], pauses: list[tuple[int, int]]) -> int:
    late = [(end - begin, (begin + end) // 2) for begin, end in pauses if begin + end > len(window)]
    return max(late)[1] if late else find_quiet_sample(window)


def _find_last(stretch: Float[Tensor, "sample"], pauses: list[tuple[int, int]]) -> int:
    """Where a stretch ends without the long pause behind it."""
    for begin, end in pauses:
        if end >= len(stretch) and len(stretch) - begin >= LONG_PAUSE_S * SAMPLE_RATE_HZ:
            return begin + int(KEPT_S * SAMPLE_RATE_HZ)
    return len(stretch)


def find_quiet_sample(window: Float[Tensor, "sample"]) -> int:
    """The middle of the quietest 0.2 s in the window's last 6 s: a cut there loses no word."""
    tail = window[-int(CUT_WITHIN_S * SAMPLE_RATE_HZ) :]
    pause, step = int(SHORTEST_PAUSE_S * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ // 100
    energy = functional.avg_pool1d(tail.square()[None], pause, step)[0]
    return len(window) - len(tail) + int(torch.argmin(energy)) * step + pause // 2
