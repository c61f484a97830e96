"""Hear recordings by their pauses: stretches between pauses, several at once, of one recording or of many.

Nothing that is decoded depends on what was decoded before, so that a whole batch runs at once; and no time that the
decoder writes is needed: a stretch's place is known, and within it words are laid along the sound. A stretch is decoded
exactly as a run scores utterances.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.pauses import cut_at_pauses
from attune.audio.tape import Tape, open_tape
from attune.audio.waveform import SAMPLE_RATE_HZ, SILENCE_PEAK, WINDOW_S, AudioError
from attune.model.bias import TermBias
from attune.model.decode import decode
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper
from attune.text.tokens import Segment
from attune.use.attempts import Thresholds, compute_compression, judge
from attune.use.listen import Listener, detect_language, encode_stretches, make_prefix
from attune.use.segments import place, walk
from attune.use.transcript import Word, WordedSegment
from attune.use.words import time_words

PAUSED_S = 0.4  # between two words: a segment ends there


@dataclass
class Recording:
    """A file that is being heard."""

    file: str
    language: str | None
    segments: list[Segment] = field(default_factory=list)
    heard_s: float = 0.0
    duration_s: float | None = None
    waiting: int = 0  # stretches that are cut and not yet heard
    is_read: bool = False
    fault: Exception | None = None


@dataclass(frozen=True)
class Stretch:
    """A part of a recording, between pauses."""

    recording: Recording
    start_s: float
    waveform: Float[Tensor, "sample"]


class StretchListener:
    """A Whisper that listens to stretches of recordings, several at once.

    Args:
        whisper, task, bias, prompt: as for a Listener.
        times: whether segments are shorter than stretches: they are cut between words, where there is a pause.
        words: whether they are given the times of their words.
        batch: stretches at once.
        longest_s: of a stretch, at most 30 s.
    """

    def __init__(
        self,
        whisper: Whisper,
        task: str = "transcribe",
        times: bool = False,
        words: bool = False,
        bias: TermBias | None = None,
        prompt: str | None = None,
        batch: int = 8,
        longest_s: float = WINDOW_S,
    ):
        self.whisper, self.task, self.bias, self.prompt = whisper, task, bias, prompt
        self.times, self.words, self.batch, self.longest_s = times, words, batch, longest_s
        self.has_decoder = find_writer(whisper.network) is None
        self.thresholds = Thresholds()

    def hear_all(
        self, files: Sequence[str], language: str | None, on_progress: Callable[[Recording], None]
    ) -> Iterator[Recording]:
        """Each recording as soon as it and those before it are heard; `fault` says why one could not be."""
        recordings: deque[Recording] = deque()
        batch: list[Stretch] = []
        for file in files:
            recordings.append(Recording(file, language if self.whisper.tokens.is_multilingual else "en"))
            for stretch in self._cut(recordings[-1]):
                batch.append(stretch)
                if len(batch) == self.batch:
                    self._hear(batch)
                    batch.clear()
                    on_progress(recordings[-1])
            while recordings and recordings[0].is_read and not recordings[0].waiting:
                yield recordings.popleft()
        if batch:
            self._hear(batch)
        yield from recordings

    def _cut(self, recording: Recording) -> Iterator[Stretch]:
        try:
            with open_tape(recording.file) as tape:
                recording.duration_s = tape.duration_s
                for start, waveform in cut_at_pauses(tape, self.longest_s):
                    recording.heard_s = start / SAMPLE_RATE_HZ
                    if len(waveform) and waveform.abs().max() >= SILENCE_PEAK:
                        recording.waiting += 1
                        yield Stretch(recording, recording.heard_s, waveform)
                recording.duration_s = tape.known_samples / SAMPLE_RATE_HZ
        except (AudioError, OSError) as error:
            recording.fault = error
        recording.is_read = True

    @torch.no_grad()
    def _hear(self, batch: Sequence[Stretch]) -> None:
        """Transcribe up to a batch of stretches, and hand each recording its segments."""
        states = encode_stretches(self.whisper, [stretch.waveform for stretch in batch])
        for stretch, own in zip(batch, states, strict=True):
            if stretch.recording.language is None:
                stretch.recording.language = detect_language(self.whisper, own[None])
        prefixes = [self._make_prefix(stretch) for stretch in batch]
        lengths = torch.tensor([len(stretch.waveform) for stretch in batch], device=states.device)
        written = decode(self.whisper, states, prefixes, lengths, self.bias)
        silent = self._find_silent(states, prefixes, written)
        timed = self._time(batch, states, prefixes, written)
        for index, stretch in enumerate(batch):
            stretch.recording.waiting -= 1
            if not silent[index]:
                self._keep(stretch, written[index], timed[index])

    def _make_prefix(self, stretch: Stretch) -> list[int]:
        return make_prefix(self.whisper.tokens, stretch.recording.language, self.task, False, self.prompt)

    def _find_silent(self, states: Tensor, prefixes: Sequence[list[int]], written: Sequence[list[int]]) -> list[bool]:
        if not self.has_decoder:
            return [False] * len(written)
        return [self.thresholds.is_silence(each) for each in judge(self.whisper, states, prefixes, written)]

    def _time(
        self, batch: Sequence[Stretch], states: Tensor, prefixes: Sequence[list[int]], written: Sequence[list[int]]
    ) -> list[list[Word]]:
        if not self.times and not self.words:
            return [[] for _ in batch]
        spoken = [[[token for token in ids if token not in self.whisper.tokens.special]] for ids in written]
        waveforms = [stretch.waveform for stretch in batch]
        languages = [stretch.recording.language for stretch in batch]
        found = time_words(self.whisper, states, prefixes, spoken, waveforms, languages)
        return [words for (words,) in found]

    def _keep(self, stretch: Stretch, ids: list[int], words: Sequence[Word]) -> None:
        text, recording = self.whisper.tokens.transcript(ids), stretch.recording
        length_s = len(stretch.waveform) / SAMPLE_RATE_HZ
        if self.has_decoder and compute_compression(text) > self.thresholds.compression_ratio:
            segments = self._hear_again(stretch)
        elif words and self.times:
            segments = cut_between_words(text, words)
        else:
            segments = [
                WordedSegment(0.0, length_s, text, tuple(words)) if self.words else Segment(0.0, length_s, text)
            ]
        for segment in segments:
            earliest_s = recording.segments[-1].end_s if recording.segments else 0.0
            placed = place(segment, stretch.start_s, earliest_s, stretch.start_s + length_s)
            if placed.text:
                recording.segments.append(_without_words(placed) if not self.words else placed)

    def _hear_again(self, stretch: Stretch) -> Sequence[Segment]:
        """What repeats itself is heard as a single recording would be, with times and, if need be, at random."""
        recording = stretch.recording
        listener = Listener(
            self.whisper, recording.language, self.task, True, self.thresholds, self.bias, self.prompt, self.words
        )
        return walk(Tape([stretch.waveform]), listener.hear)


def cut_between_words(text: str, words: Sequence[Word]) -> list[Segment]:
    """A stretch's words -> segments that end where nobody speaks for 0.4 s; the text of each as it is written there."""
    groups: list[list[Word]] = []
    for word in words:
        if groups and word.start_s - groups[-1][-1].end_s < PAUSED_S:
            groups[-1].append(word)
        else:
            groups.append([word])
    segments: list[Segment] = []
    begin = 0
    for number, group in enumerate(groups):
        end = begin
        for word in group:
            end = max(text.find(word.text, end), end) + len(word.text)
        end = len(text) if number == len(groups) - 1 else end
        segments.append(WordedSegment(group[0].start_s, group[-1].end_s, text[begin:end].strip(), tuple(group)))
        begin = end
    return segments


def _without_words(segment: Segment) -> Segment:
    return Segment(segment.start_s, segment.end_s, segment.text)
