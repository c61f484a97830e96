"""Recordings that are scored, to be found again among those that are learnt: re-encoded, louder, or cut shorter.

Scored recordings are indexed by the bits of two neighbouring frames of their fingerprints. Every such pair of a learnt
recording is looked up, which costs as much for a thousand scored recordings as for ten, and what is found more than by
chance is compared bit by bit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attune.audio.fingerprint import Fingerprint, compute_bit_error_rate

MOST_INDEXED = 20_000  # scored recordings that are indexed by sound, some 4 kB each; of more, samples are compared
COMMON = 32  # scored places that share one key: so many are a tone or a hum, and tell nothing
COMPARED = 8  # alignments that are compared bit by bit, those with the most keys in common
MOST_DIFFERENT = 0.30  # of the bits of a copy
DEVIATIONS = 1.6  # six times 0.27, the standard deviation that a frame of unrelated speech has about one half
OVERLAP = 0.8  # of the shorter one's frames lie on the other's
COMMON_AUDIBLE = 0.6  # of its audible ones are audible there too; less than OVERLAP, for what is loud is relative
LARGEST_OFFSET = 1 << 20


@dataclass(frozen=True)
class Match:
    """A learnt recording that is a scored one."""

    split: str
    id: str
    place: str
    difference: float  # of the fingerprints' bits; 0 for the same samples
    is_exact: bool

    def describe(self) -> str:
        how = (
            "the same samples" if self.is_exact else f"the same sound, {100 * self.difference:.0f} % of its bits differ"
        )
        return f"{self.place} ({self.split}): {how}"


class ScoredRecordings:
    """What must not be learnt. Add all of it, then `find`."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str]] = []
        self._by_digest: dict[int, int] = {}
        self._prints: list[Fingerprint] = []
        self._keys = np.zeros(0, np.uint32)
        self._owners = np.zeros(0, np.int64)
        self._frames = np.zeros(0, np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray, int]] = []

    def add(self, split: str, row: Mapping[str, Any], shifted: Sequence[Fingerprint]) -> None:
        """Take in one recording, as `compute_shifted` gives it."""
        number = len(self._rows)
        self._rows.append((split, row["id"], row["place"]))
        self._by_digest.setdefault(shifted[0].digest, number)
        if number < MOST_INDEXED:
            self._prints.append(shifted[0])
            self._waiting += [(*each.keys(), number) for each in shifted]

    @property
    def left_out(self) -> int:
        """Scored recordings that only an exact copy is found of."""
        return len(self._rows) - len(self._prints)

    def sort(self) -> None:
        """Make ready to `find`; several threads may then do so."""
        if not self._waiting:
            return
        keys = np.concatenate([keys for keys, _, _ in self._waiting])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._frames = np.concatenate([frames for _, frames, _ in self._waiting])[order]
        self._owners = np.concatenate([np.full(len(keys), owner) for keys, _, owner in self._waiting])[order]
        self._waiting = []

    def find(self, fingerprint: Fingerprint) -> Match | None:
        """The scored recording that this one is; None where it is none."""
        if (number := self._by_digest.get(fingerprint.digest)) is not None:
            return Match(*self._rows[number], 0.0, True)
        for owner, offset in self._align(fingerprint):
            known = self._prints[owner]
            difference, frames = compute_bit_error_rate(known, fingerprint, offset)
            if difference <= find_limit(frames) and _covers(known, fingerprint, offset, frames):
                return Match(*self._rows[owner], difference, False)
        return None

    def _align(self, fingerprint: Fingerprint) -> list[tuple[int, int]]:
        """(scored recording, frame of this one that stands under its first), those with most keys in common first."""
        keys, frames = fingerprint.keys()
        first, last = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
        counts = last - first
        counts[counts > COMMON] = 0
        total = int(counts.sum())
        if not total:
            return []
        # The places of each key stand one behind the other, from `first` on.
        within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(first, counts) + within
        offsets = np.repeat(frames, counts) - self._frames[places]
        codes, votes = np.unique(
            self._owners[places] * 2 * LARGEST_OFFSET + offsets + LARGEST_OFFSET, return_counts=True
        )
        best = codes[np.argsort(-votes, kind="stable")[:COMPARED]]
        return [(int(code // (2 * LARGEST_OFFSET)), int(code % (2 * LARGEST_OFFSET)) - LARGEST_OFFSET) for code in best]


def _covers(one: Fingerprint, other: Fingerprint, offset: int, frames: int) -> bool:
    overlap = min(len(one.bits), len(other.bits) - offset) - max(0, -offset)
    audible = min(int(one.audible.sum()), int(other.audible.sum()))
    return overlap >= OVERLAP * min(len(one.bits), len(other.bits)) and frames >= COMMON_AUDIBLE * audible


def find_limit(frames: int) -> float:
    """The share of bits that a copy may differ in: six deviations of unrelated speech below one half, 0.3 at most.

    0.3 from two seconds on, 0.2 at one, 0 below 0.3 s, where only the same samples are the same recording.
    """
    return min(MOST_DIFFERENT, 0.5 - DEVIATIONS / math.sqrt(frames)) if frames else -1.0
