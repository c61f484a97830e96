"""Waveform -> Whisper's log-mel spectrogram, batched, on the device, in fp32."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from attune.audio.waveform import HOP_SAMPLES, N_FFT, SAMPLE_RATE_HZ

SAMPLES_CACHED = 200_000  # 2 MB of overlapping frames
LEAST_POWER = 1e-10  # of a mel band, as of silence: Whisper's own


class LogMel(nn.Module):
    """The log-mel spectrogram on which Whisper was pretrained.

    log10 of a Slaney mel power spectrogram (25 ms Hann window, 10 ms hop, 0 to 8 kHz), floored 8 decades (80 dB) below
    the utterance's own maximum, then (x + 4) / 4. Equals transformers' `WhisperFeatureExtractor` within 1e-5.

    Silence is not 0 here: it is the utterance's floor. Pad the waveform, never the log-mel.
    """

    window: Tensor
    filters: Tensor  # (frequency, mel)

    def __init__(self, n_mels: int):
        super().__init__()
        self.n_mels = n_mels
        # In double precision, as transformers': single costs up to 2e-4 near the edges, where a pure tone may lie.
        filters = mel_filter_bank(
            N_FFT // 2 + 1, n_mels, 0.0, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        # Constants of the front end, not weights: they stay out of checkpoints.
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, waveform: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch mel frame"]:
        """frame = sample // 160. Half precision would lose the quiet bands, so autocast is off in here."""
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = waveform.float()
            if waveform.device.type != "cpu":
                return self._compute(waveform)
            # On a CPU a few utterances at a time: what does not fit into its cache takes three times as long. What is
            # padding in all of them is left out; a GPU would have to be waited for to know it.
            parts = waveform.split(max(1, SAMPLES_CACHED // waveform.shape[1]))
            return torch.cat([self._compute(part, count_heard(part)) for part in parts])

    def _compute(
        self, waveform: Float[Tensor, "batch sample"], heard: int | None = None
    ) -> Float[Tensor, "batch mel frame"]:
        """Behind the first `heard` frames there is no sound; None: there may be."""
        frames = waveform.shape[1] // HOP_SAMPLES
        heard = frames if heard is None else min(heard, frames)
        power = self._compute_power(waveform if heard == frames else waveform[:, : heard * HOP_SAMPLES])
        log = power.clamp(min=LEAST_POWER).log10()
        floor = log.amax(dim=(-2, -1), keepdim=True) - 8.0
        log = nn.functional.pad(log, (0, 0, 0, frames - heard), value=math.log10(LEAST_POWER))
        return ((torch.maximum(log, floor) + 4.0) / 4.0).transpose(1, 2)

    def _compute_power(self, waveform: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch frame mel"]:
        """Frames are rows all the way: torch.stft would hand out columns, and a magnitude is a root too many."""
        padded = nn.functional.pad(waveform, (N_FFT // 2, N_FFT // 2), mode="reflect")
        frames = padded.unfold(-1, N_FFT, HOP_SAMPLES)[:, :-1]  # the last one is centred on the end: half is padding
        spectrum = torch.fft.rfft(frames * self.window)
        return (spectrum.real.square() + spectrum.imag.square()) @ self.filters


def count_heard(waveform: Float[Tensor, "batch sample"]) -> int:
    """How many frames, of 10 ms, hear any sound of any utterance: behind them there is nothing but zeros."""
    heard = np.flatnonzero(waveform.detach().numpy().any(axis=0))
    last = int(heard[-1]) if len(heard) else 0
    return (last + N_FFT // 2) // HOP_SAMPLES + 1
