"""Hear a recording of any length with a Whisper, window by window.

Whisper hears 30 s at once. Longer recordings are heard by its sequential algorithm (Radford et al. 2022, section 3.8):
the window goes on from the last time that the decoder wrote down, and a passage that came out garbled is decoded again
at a higher temperature. transformers' `generate` makes the tokens of one window; the walk through the windows is ours,
because its own keeps every window's logits until the end (2.5 GB an hour with whisper-tiny.en), breaks off with an
exception when it gets `encoder_outputs` together with a threshold, and pads the last window with zeros of log-mel.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from attune.audio.waveform import SAMPLE_RATE_HZ, SHORTEST_S, SILENCE_PEAK, WINDOW_S
from attune.model.bias import TermBias, TermProcessor
from attune.model.decode import cap_tokens, decode
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper
from attune.text.tokens import SECONDS_PER_TIMESTAMP, Segment, Tokens

WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
CUT_WITHIN_S = 6.0  # without timestamps, a window ends at the quietest moment of its last seconds
PAUSE_S = 0.2  # what has to be quiet
CUT_OFF_S = 0.5  # a segment that ends so close to the window's end was cut by it


@dataclass(frozen=True)
class Thresholds:
    """When a passage is decoded again and when it counts as silence; the values of openai/whisper.

    Args:
        temperatures: of the attempts, in order; 0 takes the likeliest token.
        compression_ratio: text that zlib makes more than so many times smaller repeats itself.
        mean_log_probability: of the text tokens, in nats; below it the decoder was guessing. Unlike openai/whisper's it
            leaves the timestamps out: a model that was fine-tuned without them is unsure of them, not of the words.
        no_speech: probability of <|nospeech|> above which a passage of which the decoder is unsure is silence.
    """

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio: float = 2.4
    mean_log_probability: float = -1.0
    no_speech: float = 0.6


@dataclass(frozen=True)
class Heard:
    """A window's segments, in seconds from its start, and how far the window moves on."""

    segments: list[Segment]
    advance_s: float


@dataclass(frozen=True)
class Attempt:
    """One decoding of a window, and what it is worth."""

    ids: list[int]
    compression_ratio: float
    mean_log_probability: float
    no_speech_probability: float


class Listener:
    """A Whisper that listens to one recording, window by window.

    Args:
        whisper: in evaluation mode, on its device.
        language: a code that the model knows; None detects it in the first window that is not silent.
        task: transcribe or translate.
        timestamps: whether the decoder writes times. Without them a window is decoded exactly as a run scores models,
            greedily and once, and longer recordings are cut at quiet moments.
        bias: terms that the decoder is drawn to.
        prompt: terms that stand before every window, as if they had been said.
    """

    def __init__(
        self,
        whisper: Whisper,
        language: str | None,
        task: str,
        timestamps: bool,
        thresholds: Thresholds | None = None,
        bias: TermBias | None = None,
        prompt: str | None = None,
    ):
        self.bias, self.prompt = bias, prompt
        self.whisper = whisper
        self.language = language if whisper.tokens.is_multilingual else "en"
        self.task = task
        self.has_decoder = find_writer(whisper.network) is None  # which alone writes times, and knows silence
        self.timestamps = timestamps and self.has_decoder
        self.thresholds = thresholds or Thresholds()

    @torch.no_grad()
    def hear(self, window: Float[Tensor, "sample"], more: bool) -> Heard:
        """Transcribe up to 30 s; `more` says that the recording goes on behind the window."""
        if more and not self.timestamps:
            window = window[: find_quiet_sample(window)]
        window_s = len(window) / SAMPLE_RATE_HZ
        if not len(window) or window.abs().max() < SILENCE_PEAK:
            return Heard([], window_s)
        attempt = self._decode(window)
        if self._is_silence(attempt):
            return Heard([], window_s)
        if self.timestamps:
            return split_segments(self.whisper.tokens, attempt.ids, window_s, more)
        return Heard([Segment(0.0, window_s, self.whisper.tokens.transcript(attempt.ids))], window_s)

    def _decode(self, window: Float[Tensor, "sample"]) -> Attempt:
        # The log-mel is made of each window by itself, not of the whole file as in openai/whisper: its floor lies 80 dB
        # below the loudest moment of what it is given, and models are trained on windows. One bang must not drown quiet
        # speech an hour later, and 31 s must sound like 29 s. The padding is silent audio, as in training.
        padded = functional.pad(window, (0, WINDOW_SAMPLES - len(window)))
        states = self.whisper.encode(padded[None].to(self.whisper.network.device))
        self.language = self.language or self._detect_language(states)
        tokens, length = self.whisper.tokens, torch.tensor([len(window)])
        # The learned prompt of a model with finetune=prompt is in it, whether there are terms or not.
        prompt = tokens.prompt(self.prompt, room=tokens.max_tokens // 2 if self.prompt else tokens.max_tokens)
        prefix = [*prompt, *tokens.prefix(self.language, self.task, self.timestamps)]
        if self.timestamps:
            room = tokens.max_tokens - len(prefix)  # `generate` refuses what cannot fit
            limit = min(cap_tokens(length, tokens.tokens_per_s)[0], room)
            return self._decode_with_fallback(states, prefix, limit)
        ids = decode(self.whisper, states, [prefix], length.to(states.device), self.bias)[0]
        return self._judge(states, prefix, ids) if self.has_decoder else Attempt(ids, 0.0, 0.0, 0.0)

    def _detect_language(self, states: Float[Tensor, "1 position width"]) -> str:
        """The likeliest language token behind <|startoftranscript|>."""
        tokens = self.whisper.tokens
        start = torch.tensor([[*tokens.prompt(None, room=tokens.max_tokens), tokens.start]], device=states.device)
        logits = self.whisper.project(self.whisper.decode(states, start))[0, -1]
        return max(tokens.languages, key=lambda code: logits[tokens.languages[code]].item())

    def _decode_with_fallback(
        self, states: Float[Tensor, "1 position width"], prefix: Sequence[int], limit: int
    ) -> Attempt:
        """The first attempt that is silence or credible; else the likeliest of those that repeat themselves least."""
        attempts: list[Attempt] = []
        for temperature in self.thresholds.temperatures:
            ids = self._generate(states, prefix, limit, temperature)
            attempts.append(self._judge(states, prefix, ids))
            if self._is_silence(attempts[-1]) or self._is_credible(attempts[-1]):
                return attempts[-1]
        return max(attempts, key=lambda attempt: (not self._repeats(attempt), attempt.mean_log_probability))

    def _generate(
        self, states: Float[Tensor, "1 position width"], prefix: Sequence[int], limit: int, temperature: float
    ) -> list[int]:
        """New ids by transformers, under Whisper's rules for timestamps; <|endoftext|> left out."""
        # transformers would draw from the 50 likeliest tokens; openai/whisper draws from all.
        sampling: dict[str, Any] = {"do_sample": True, "top_k": 0} if temperature > 0 else {"do_sample": False}
        output: Any = self.whisper.network.generate(
            encoder_outputs=BaseModelOutput(states),  # type: ignore[arg-type]
            decoder_input_ids=torch.tensor([prefix], device=states.device),
            language=f"<|{self.language}|>" if self.whisper.tokens.is_multilingual else None,
            return_timestamps=True,
            temperature=temperature,
            max_length=limit,  # Whisper's own `generate` adds the prefix to it
            logits_processor=LogitsProcessorList([TermProcessor(self.bias)] if self.bias else []),
            force_unique_generate_call=True,  # else it goes on behind the last timestamp, in a window padded with 0.0
            **sampling,
        )
        return [token for token in output[0, len(prefix) :].tolist() if token != self.whisper.tokens.end_of_text]

    def _judge(self, states: Float[Tensor, "1 position width"], prefix: Sequence[int], ids: list[int]) -> Attempt:
        """Read an attempt back in one pass: how sure was the model of its words, and that there were any?"""
        tokens = self.whisper.tokens
        inputs = torch.tensor([[*prefix, *ids]], device=states.device)
        logits = self.whisper.project(self.whisper.decode(states, inputs))[0].float().log_softmax(dim=-1)
        targets = torch.tensor([*ids, tokens.end_of_text], device=states.device)
        chosen = logits[len(prefix) - 1 : len(prefix) + len(ids)].gather(1, targets[:, None])[:, 0]
        text = tokens.transcript(ids).encode()
        return Attempt(
            ids=ids,
            compression_ratio=len(text) / len(zlib.compress(text)),
            mean_log_probability=chosen[targets < tokens.first_timestamp].mean().item(),
            no_speech_probability=logits[prefix.index(tokens.start), tokens.no_speech].exp().item(),
        )

    def _repeats(self, attempt: Attempt) -> bool:
        return attempt.compression_ratio > self.thresholds.compression_ratio

    def _is_credible(self, attempt: Attempt) -> bool:
        return not self._repeats(attempt) and attempt.mean_log_probability >= self.thresholds.mean_log_probability

    def _is_silence(self, attempt: Attempt) -> bool:
        unsure = attempt.mean_log_probability < self.thresholds.mean_log_probability
        return unsure and attempt.no_speech_probability > self.thresholds.no_speech


def find_quiet_sample(window: Float[Tensor, "sample"]) -> int:
    """The middle of the quietest 0.2 s in the window's last 6 s: a cut there loses no word."""
    tail = window[-int(CUT_WITHIN_S * SAMPLE_RATE_HZ) :]
    pause, step = int(PAUSE_S * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ // 100
    energy = functional.avg_pool1d(tail.square()[None], pause, step)[0]
    return len(window) - len(tail) + int(energy.argmin()) * step + pause // 2


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
    segments = [_read_segment(tokens, ids[start:end], window_s) for start, end in pairwise(bounds)]
    if is_ended and more and cuts and segments[-1].end_s > window_s - CUT_OFF_S:
        return Heard(segments[:-1], segments[-1].start_s)
    return Heard(segments, window_s if is_ended or not cuts else segments[-1].end_s)


def _read_segment(tokens: Tokens, ids: Sequence[int], window_s: float) -> Segment:
    """<|start|> text <|end|>; a time that is missing is that of the window."""
    times_s = [(i, (token - tokens.first_timestamp) * SECONDS_PER_TIMESTAMP) for i, token in enumerate(ids)]
    times_s = [(i, time_s) for i, time_s in times_s if time_s >= 0]
    start_s = next((time_s for i, time_s in times_s if i == 0), 0.0)
    end_s = next((time_s for i, time_s in reversed(times_s) if i > 0), window_s)
    return Segment(start_s, end_s, tokens.transcript(ids))


def walk(
    waveform: Float[Tensor, "sample"],
    hear: Callable[[Float[Tensor, "sample"], bool], Heard],
    on_progress: Callable[[float], None] = lambda heard_s: None,
) -> list[Segment]:
    """Move a window of 30 s through a recording.

    Args:
        hear: a window, and whether the recording goes on behind it -> what was heard.
        on_progress: is told the seconds that have been heard.

    Returns:
        Segments with text, in order, without overlap, within the recording.
    """
    segments: list[Segment] = []
    start, duration_s = 0, len(waveform) / SAMPLE_RATE_HZ
    while len(waveform) - start >= SHORTEST_S * SAMPLE_RATE_HZ:
        window = waveform[start : start + WINDOW_SAMPLES]
        heard = hear(window, start + len(window) < len(waveform))
        for segment in heard.segments:
            begins_s = max(start / SAMPLE_RATE_HZ + segment.start_s, segments[-1].end_s if segments else 0.0)
            ends_s = min(start / SAMPLE_RATE_HZ + segment.end_s, duration_s)
            if segment.text and ends_s > begins_s:  # what begins in the padding behind the end was not heard there
                segments.append(Segment(begins_s, ends_s, segment.text))
        # A decoder that writes no time beyond 0.00 would keep the window where it is for ever.
        start += round(heard.advance_s * SAMPLE_RATE_HZ) or len(window)
        on_progress(min(start, len(waveform)) / SAMPLE_RATE_HZ)
    return segments
