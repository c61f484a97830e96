"""A Whisper in ONNX, without torch and without transformers: numpy, onnxruntime and tokenizers are all it needs.

attune copies this file into a model's folder as transcribe_onnx.py, beside encoder.onnx and decoder.onnx. There:

    from transcribe_onnx import OnnxWhisper
    print(OnnxWhisper(".").transcribe(waveform, "en"))  # mono, 16 kHz, at most 30 s, numpy float32 in [-1, 1]

encoder.onnx: log_mel (batch, mel, 3000) -> cross_keys, cross_values (block, batch, head, 1500, width): all that the
decoder needs of what was heard, computed once. decoder.onnx: ids (batch, token), the keys and values of the tokens
before them (block, batch, head, past, width), and those two -> logits of the next token, keys and values with the new
tokens. past is 0 at first.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

RATE_HZ, N_FFT, HOP, WINDOW_SAMPLES = 16_000, 400, 160, 480_000


class OnnxWhisper:
    """A Whisper that writes greedily, one utterance at a time.

    Args:
        folder: with encoder.onnx, decoder.onnx, mel_filters.npy, decoding.json and tokenizer.json.
    """

    def __init__(self, folder: str | Path):
        import onnxruntime  # type: ignore[import-not-found]
        from tokenizers import Tokenizer

        folder = Path(folder)
        providers = onnxruntime.get_available_providers()
        self.encoder: Any = onnxruntime.InferenceSession(str(folder / "encoder.onnx"), providers=providers)
        self.decoder: Any = onnxruntime.InferenceSession(str(folder / "decoder.onnx"), providers=providers)
        self.filters = np.load(folder / "mel_filters.npy")  # (frequency, mel)
        self.ids = json.loads((folder / "decoding.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def transcribe(
        self, waveform: np.ndarray, language: str = "en", task: str = "transcribe", max_new_tokens: int | None = None
    ) -> str:
        """What is said in at most 30 s; language and task are not looked at by an English-only model."""
        heard = self.encoder.run(None, {"log_mel": compute_log_mel(waveform, self.filters)[None]})
        return self.decode(heard, self.prefix(language, task), max_new_tokens)

    def prefix(self, language: str, task: str) -> list[int]:
        """What the decoder is given: learned prompt, start, language, task, <|notimestamps|>."""
        ids, asked = self.ids, []
        if ids["languages"]:
            if language not in ids["languages"]:
                raise ValueError(f"no language {language!r}; accepted: {', '.join(ids['languages'])}")
            asked = [ids["languages"][language], ids["tasks"][task]]
        return [*ids["prompt"], ids["start"], *asked, ids["no_timestamps"]]

    def decode(self, heard: list[np.ndarray], prefix: list[int], max_new_tokens: int | None) -> str:
        """The likeliest next token until <|endoftext|>, as text."""
        room = self.ids["max_tokens"] - len(prefix)
        blocks, _, heads, _, width = heard[0].shape
        keys = values = np.zeros((blocks, 1, heads, 0, width), np.float32)
        inputs, written = prefix, []
        while len(written) < min(room, max_new_tokens or room):
            fed = {"ids": np.array([inputs], np.int64), "keys": keys, "values": values}
            fed |= {"cross_keys": heard[0], "cross_values": heard[1]}
            logits, keys, values = self.decoder.run(None, fed)
            banned = self.ids["suppress"] + (self.ids["begin_suppress"] if not written else [])
            logits[0, banned] = -np.inf
            inputs = [int(logits[0].argmax())]
            if inputs[0] == self.ids["end"]:
                break
            written += inputs
        text = [id for id in written if id < self.ids["end"]]
        return self.tokenizer.decode(text, skip_special_tokens=False).strip()


def compute_log_mel(waveform: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Whisper's log-mel of a waveform, padded with silence to 30 s: (mel, 3000), float32."""
    if len(waveform) > WINDOW_SAMPLES:
        raise ValueError(f"{len(waveform) / RATE_HZ:.1f} s of audio; a window has 30 s, so cut it first")
    padded = np.pad(np.asarray(waveform, np.float32), (0, WINDOW_SAMPLES - len(waveform)))
    padded = np.pad(padded, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][:-1]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    log = np.log10(np.maximum(power @ filters, 1e-10)).T
    return ((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
