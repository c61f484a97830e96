"""Hear a recording of any length with a Whisper, window by window.

Whisper hears 30 s at once. Longer recordings are heard by its sequential algorithm (Radford et al. 2022, section 3.8):
the window goes on from the last time that the decoder wrote down, and a passage that came out garbled is decoded again
at a higher temperature. transformers' `generate` makes the tokens of one window; the walk through the windows is ours,
because its own keeps every window's logits until the end (2.5 GB an hour with whisper-tiny.en), breaks off with an
exception when it gets `encoder_outputs` together with a threshold, and pads the last window with zeros of log-mel.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from attune.audio.pauses import find_quiet_sample
from attune.audio.waveform import SAMPLE_RATE_HZ, SILENCE_PEAK
from attune.model.bias import TermBias, TermProcessor
from attune.model.decode import cap_tokens, decode
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper
from attune.text.tokens import Segment, Tokens
from attune.use.attempts import Attempt, Thresholds, judge
from attune.use.segments import WINDOW_SAMPLES, Heard, split_segments
from attune.use.words import add_words, time_words


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
        words: whether segments are given the times of their words.
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
        words: bool = False,
    ):
        self.bias, self.prompt, self.words = bias, prompt, words
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
        states = encode_stretches(self.whisper, [window])
        self.language = self.language or detect_language(self.whisper, states)
        attempt = self._decode(states, window)
        if self.has_decoder and self.thresholds.is_silence(attempt):
            return Heard([], window_s)
        heard = self._read(attempt, window_s, more)
        return self._time_words(heard, states, window) if self.words else heard

    def _read(self, attempt: Attempt, window_s: float, more: bool) -> Heard:
        tokens = self.whisper.tokens
        if self.timestamps:
            return split_segments(tokens, attempt.ids, window_s, more)
        spoken = [token for token in attempt.ids if token not in tokens.special]
        return Heard([Segment(0.0, window_s, tokens.transcript(spoken))], window_s, [spoken])

    def _decode(self, states: Float[Tensor, "1 position told"], window: Float[Tensor, "sample"]) -> Attempt:
        tokens, length = self.whisper.tokens, torch.tensor([len(window)])
        prefix = make_prefix(tokens, self.language, self.task, self.timestamps, self.prompt)
        if self.timestamps:
            room = tokens.max_tokens - len(prefix)  # `generate` refuses what cannot fit
            limit = min(cap_tokens(tokens, [prefix], length)[0], room)
            return self._decode_with_fallback(states, prefix, limit)
        ids = decode(self.whisper, states, [prefix], length.to(states.device), self.bias)
        return judge(self.whisper, states, [prefix], ids)[0] if self.has_decoder else Attempt(ids[0], 0.0, 0.0, 0.0)

    def _time_words(
        self, heard: Heard, states: Float[Tensor, "1 position told"], window: Float[Tensor, "sample"]
    ) -> Heard:
        """The same segments with their words, all of the window's laid along its sound at once."""
        prefix = make_prefix(self.whisper.tokens, self.language, self.task, False, self.prompt)
        words = time_words(self.whisper, states, [prefix], [heard.ids], [window], [self.language])[0]
        return replace(heard, segments=add_words(heard.segments, words))

    def _decode_with_fallback(
        self, states: Float[Tensor, "1 position told"], prefix: Sequence[int], limit: int
    ) -> Attempt:
        """The first attempt that is silence or credible; else the likeliest of those that repeat themselves least."""
        attempts: list[Attempt] = []
        for temperature in self.thresholds.temperatures:
            ids = self._generate(states, prefix, limit, temperature)
            attempts += judge(self.whisper, states, [prefix], [ids])
            if self.thresholds.is_silence(attempts[-1]) or self.thresholds.is_credible(attempts[-1]):
                return attempts[-1]
        return max(attempts, key=lambda attempt: (not self.thresholds.repeats(attempt), attempt.mean_log_probability))

    def _generate(
        self, states: Float[Tensor, "1 position told"], prefix: Sequence[int], limit: int, temperature: float
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


def encode_stretches(
    whisper: Whisper, stretches: Sequence[Float[Tensor, "sample"]]
) -> Float[Tensor, "batch position told"]:
    """Encoder states of stretches of up to 30 s, each padded to Whisper's window.

    The log-mel is made of each stretch by itself, not of the whole file as in openai/whisper: its floor lies 80 dB
    below the loudest moment of what it is given, and models are trained on windows. One bang must not drown quiet
    speech an hour later, and 31 s must sound like 29 s. The padding is silent audio, as in training.
    """
    padded = [functional.pad(stretch, (0, WINDOW_SAMPLES - len(stretch))) for stretch in stretches]
    return whisper.encode(torch.stack(padded).to(whisper.network.device))


def make_prefix(tokens: Tokens, language: str | None, task: str, timestamps: bool, prompt: str | None) -> list[int]:
    """What the decoder is given: terms if there are any, then start, language, task and, unless timestamps, that."""
    # The learned prompt of a model with finetune=prompt is in it, whether there are terms or not.
    before = tokens.prompt(prompt, room=tokens.max_tokens // 2 if prompt else tokens.max_tokens)
    return [*before, *tokens.prefix(str(language), task, timestamps)]


def detect_language(whisper: Whisper, states: Float[Tensor, "1 position told"]) -> str:
    """The likeliest language token behind <|startoftranscript|>."""
    tokens = whisper.tokens
    start = torch.tensor([[*tokens.prompt(None, room=tokens.max_tokens), tokens.start]], device=states.device)
    logits = whisper.project(whisper.decode(states, start))[0, -1]
    return max(tokens.languages, key=lambda code: logits[tokens.languages[code]].item())
