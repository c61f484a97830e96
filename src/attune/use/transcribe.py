"""Hear a recording of any length with a Whisper, and write it down as text, JSON, SubRip or WebVTT.

Whisper hears 30 s at once. Longer recordings are heard by its sequential algorithm (Radford et al. 2022, section 3.8):
the window goes on from the last time that the decoder wrote down, and a passage that came out garbled is decoded again
at a higher temperature. transformers' `generate` makes the tokens of one window; the walk through the windows is ours,
because its own keeps every window's logits until the end (2.5 GB an hour with whisper-tiny.en), breaks off with an
exception when it gets `encoder_outputs` together with a threshold, and pads the last window with zeros of log-mel.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from attune.audio.waveform import SAMPLE_RATE_HZ, SHORTEST_S, SILENCE_PEAK, WINDOW_S, AudioError, load_waveform
from attune.errors import InputError
from attune.model.decode import cap_tokens, decode
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper, complete_generation_config, load_tokens, load_whisper
from attune.text.normalise import spells_without_spaces
from attune.text.tokens import SECONDS_PER_TIMESTAMP, Segment, Tokens

WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
BLOCK_S = 60  # of a file that are decoded at once: an hour of 48 kHz stereo is 1.4 GB, at 16 kHz in mono 0.23 GB
EDGE_S = 1  # more than resampling looks ahead or back, so that blocks join without a seam
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
class Transcript:
    """What was said in a recording.

    Args:
        file: as the user wrote it.
        language: Whisper's code; None where nothing was audible, so that none could be detected.
        segments: in order, without overlap, within [0, duration_s].
    """

    file: str
    duration_s: float
    language: str | None
    text: str
    segments: list[Segment]


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
    """

    def __init__(
        self, whisper: Whisper, language: str | None, task: str, timestamps: bool, thresholds: Thresholds | None = None
    ):
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
        learned = tokens.prompt(None, room=tokens.max_tokens)  # the prompt of a model with finetune=prompt
        prefix = [*learned, *tokens.prefix(self.language, self.task, self.timestamps)]
        if self.timestamps:
            limit = min(cap_tokens(length)[0], tokens.max_tokens - len(prefix))  # `generate` refuses what cannot fit
            return self._decode_with_fallback(states, prefix, limit)
        ids = decode(self.whisper, states, [prefix], length.to(states.device))[0]
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


def transcribe(
    whisper: Whisper,
    file: str,
    language: str | None = None,
    task: str = "transcribe",
    timestamps: bool | None = None,
    thresholds: Thresholds | None = None,
    on_progress: Callable[[float, float], None] = lambda heard_s, duration_s: None,
) -> Transcript:
    """Hear one file.

    Args:
        timestamps: None asks for them where the recording is longer than Whisper's window.
        on_progress: is told the seconds heard and the seconds in all.

    Raises:
        AudioError: the file is missing, empty or broken; the message is the reason.
    """
    waveform = load_recording(file)
    duration_s = len(waveform) / SAMPLE_RATE_HZ
    timed = duration_s > WINDOW_S if timestamps is None else timestamps
    listener = Listener(whisper, language, task, timed, thresholds)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # higher temperatures draw tokens: the same file gives the same text
        segments = walk(waveform, listener.hear, lambda heard_s: on_progress(heard_s, duration_s))
    spaced = task == "translate" or not spells_without_spaces(listener.language)
    text = (" " if spaced else "").join(segment.text for segment in segments)
    return Transcript(file, duration_s, listener.language, text, segments)


def load_recording(file: str) -> Float[Tensor, "sample"]:
    """A file of any length at 16 kHz, decoded in blocks: 0.23 GB an hour; 0.9 GB while they are joined."""
    blocks, start_s = [], 0
    while not blocks or len(blocks[-1]) == BLOCK_S * SAMPLE_RATE_HZ:
        lead_s = min(start_s, EDGE_S)
        block = load_waveform(file, start_s - lead_s, start_s + BLOCK_S + EDGE_S)
        blocks.append(block[lead_s * SAMPLE_RATE_HZ : (lead_s + BLOCK_S) * SAMPLE_RATE_HZ])
        start_s += BLOCK_S
    waveform = torch.cat(blocks)
    if len(waveform) < SHORTEST_S * SAMPLE_RATE_HZ:
        raise AudioError(f"empty: {len(waveform) / SAMPLE_RATE_HZ:.3f} s of audio")
    if not torch.isfinite(waveform).all():
        raise AudioError("not finite: the samples hold NaN or infinity")
    return waveform


def find_model(run_or_model: str) -> str:
    """A run folder -> the model in it; any other name stays.

    Raises:
        InputError: the run has not finished, so that there is no model in it.
    """
    folder = Path(run_or_model)
    if not (folder / "run.json").is_file() or (folder / "config.json").is_file():
        return run_or_model
    if not (folder / "model" / "config.json").is_file():
        raise InputError(
            f"{folder} is a run without a model: it has not finished, or it failed (see its run.json). "
            f"Go on with it: python train.py resume={folder}"
        )
    return str(folder / "model")


def load_listening(run_or_model: str, device: str) -> Whisper:
    """A Whisper that is ready to listen.

    Args:
        run_or_model: a run folder, a model folder, a hub name, or 'nano'.
        device: auto, cpu or cuda.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device=cuda: torch sees no CUDA device here. Accepted: auto, cpu, cuda.")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    source = find_model(run_or_model)
    whisper = load_whisper(source, load_tokens(source)).eval().to(chosen)
    network, tokens = whisper.network, whisper.tokens
    network.generation_config = complete_generation_config(network.generation_config, tokens)
    return whisper


def check_language(tokens: Tokens, language: str | None, task: str) -> str | None:
    """A language's code, if the model can be asked for it and for the task.

    Raises:
        InputError: the model is English-only, or knows no such language.
    """
    if not tokens.is_multilingual and (task == "translate" or (language and language.lower() not in ("en", "english"))):
        raise InputError("This Whisper is English-only: it takes --language=en and --task=transcribe, no others.")
    try:
        return tokens.language_code(language) if language and tokens.is_multilingual else language
    except InputError as error:
        raise InputError(f"--language={language}: {error}") from None


def format_text(transcript: Transcript) -> str:
    """One line."""
    return transcript.text + "\n"


def format_json(transcript: Transcript) -> str:
    """{file, duration_s, language, text, segments: [{start_s, end_s, text}]}, times to the millisecond."""
    values = asdict(transcript)
    for timed in (values, *values["segments"]):
        timed |= {name: round(value, 3) for name, value in timed.items() if isinstance(value, float)}
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def format_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, a comma before the milliseconds."""
    cues = [
        f"{number}\n{format_time(segment.start_s, ',')} --> {format_time(segment.end_s, ',')}\n"
        f"{segment.text.replace('-->', '->')}\n"
        for number, segment in enumerate(transcript.segments, start=1)
    ]
    return "\n".join(cues)


def format_vtt(transcript: Transcript) -> str:
    """WebVTT: a header, a dot before the milliseconds, and the three characters of its markup escaped."""
    cues = [
        f"{format_time(segment.start_s, '.')} --> {format_time(segment.end_s, '.')}\n"
        f"{segment.text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n"
        for segment in transcript.segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def format_time(time_s: float, mark: str) -> str:
    """3661.5 -> 01:01:01,500; hours are written also where they are 0, and may exceed 99."""
    seconds, milliseconds = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{milliseconds:03d}"


FORMATS = {"text": format_text, "json": format_json, "srt": format_srt, "vtt": format_vtt}
