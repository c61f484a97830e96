"""One utterance, listened to once: whether it can be used, what is wrong with its sound, and how to know it again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from attune.audio.fingerprint import Fingerprint, compute_fingerprint, compute_shifted
from attune.audio.waveform import SAMPLE_RATE_HZ, AudioError, compute_fault, compute_peak, load_recording
from attune.data.findings import Findings
from attune.data.leakage import Match

FULL_SCALE = 0.98  # resampling leaves a flat top that little below 1
CLIPPED = 0.005  # share of samples
DC_OFFSET = 0.03
QUIET = 0.6  # share of the time


@dataclass(frozen=True)
class Heard:
    """What was measured of one utterance.

    Args:
        fault: why it cannot be used; all else is 0 then.
        rate_hz: the file's own sampling rate.
        clipped: share of its samples at full scale; offset: their mean; quiet: share of its time 40 dB below its
            loudest moment.
        digest: of its samples; equal for equal sound within this process.
        fingerprints: where it is scored, as `compute_shifted` gives them.
        match: a scored recording that it is, where it is learnt.
    """

    fault: str | None = None
    duration_s: float = 0.0
    rate_hz: int = 0
    clipped: float = 0.0
    offset: float = 0.0
    quiet: float = 0.0
    digest: int = 0
    fingerprints: Sequence[Fingerprint] = ()
    match: Match | None = None


def listen(row: Mapping[str, Any], find: Callable[[Fingerprint], Match | None] | None = None) -> Heard:
    """Decode and measure one row of the schema.

    Args:
        find: looks a recording up among those that are scored; None for one that is scored itself, which keeps its
            fingerprints.
    """
    try:
        waveform, rate_hz = load_recorded_row(row)
    except AudioError as error:
        return Heard(str(error))
    duration_s = waveform.shape[0] / SAMPLE_RATE_HZ
    if fault := compute_fault(waveform):
        return Heard(fault, duration_s, rate_hz)
    fingerprints = [compute_fingerprint(waveform)] if find else compute_shifted(waveform)
    fingerprint = fingerprints[0]
    return Heard(
        None,
        duration_s,
        rate_hz,
        compute_clipped(waveform),
        float(waveform.mean()),
        1 - float(fingerprint.audible.mean()) if len(fingerprint.audible) else 0.0,
        fingerprint.digest,
        () if find else fingerprints,
        find(fingerprint) if find else None,
    )


def load_recorded_row(row: Mapping[str, Any]) -> tuple[Float[Tensor, "sample"], int]:
    """The waveform of one row of the schema, mono and 16 kHz, and the sampling rate of its file.

    Raises:
        AudioError: it cannot be decoded.
    """
    audio = row["audio"]
    source = audio["path"] if audio["bytes"] is None else audio["bytes"]  # no bytes at all are a file, and a broken one
    return load_recording(source, row["start_s"], row["end_s"])


def compute_clipped(waveform: Float[Tensor, "sample"]) -> float:
    """The share of samples at full scale."""
    if compute_peak(waveform) < FULL_SCALE:
        return 0.0
    return float((waveform.abs() >= FULL_SCALE).float().mean())


@dataclass
class SplitSounds:
    """What was heard of a split, a number for each row; 0 where the row cannot be used.

    Args:
        heard: which rows were listened to. Of the others the duration is what the row or the file's header says, and
            all else is 0.
    """

    duration_s: np.ndarray
    digest: np.ndarray
    usable: np.ndarray
    heard: np.ndarray
    rates_hz: dict[int, int] = field(default_factory=dict)  # sampling rate: utterances

    @classmethod
    def of(cls, rows: int) -> "SplitSounds":
        return cls(np.zeros(rows, np.float32), np.zeros(rows, np.int64), np.zeros(rows, bool), np.zeros(rows, bool))

    def note(self, index: int, heard: Heard) -> None:
        self.duration_s[index], self.digest[index] = heard.duration_s, heard.digest
        self.usable[index], self.heard[index] = heard.fault is None, True
        if heard.rate_hz:
            self.rates_hz[heard.rate_hz] = self.rates_hz.get(heard.rate_hz, 0) + 1

    def expect(self, indices: np.ndarray, duration_s: np.ndarray) -> None:
        """Take rows to be usable that nobody has listened to yet."""
        self.duration_s[indices], self.usable[indices] = duration_s, True


def judge_sound(split: str, row: Mapping[str, Any], heard: Heard, findings: Findings) -> None:
    """Apply the rules to one utterance's measures."""
    if heard.clipped > CLIPPED:
        findings.add("clipping", split, row, f"{100 * heard.clipped:.1f} % of the samples stand at full scale")
    if abs(heard.offset) > DC_OFFSET:
        findings.add("dc_offset", split, row, f"the samples' mean is {100 * heard.offset:+.1f} % of full scale")
    if heard.quiet > QUIET:
        findings.add("silence", split, row, f"{100 * heard.quiet:.0f} % of it is 40 dB below its loudest moment")
    if heard.match:
        findings.add("shared_audio", split, row, heard.match.describe())
