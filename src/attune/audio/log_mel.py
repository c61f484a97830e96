"""Waveform -> Whisper's log-mel spectrogram, batched, on the device, in fp32."""

import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from attune.audio.waveform import HOP_SAMPLES, N_FFT, SAMPLE_RATE_HZ


class LogMel(nn.Module):
    """The log-mel spectrogram on which Whisper was pretrained.

    log10 of a Slaney mel power spectrogram (25 ms Hann window, 10 ms hop, 0 to 8 kHz), floored 8 decades (80 dB) below
    the utterance's own maximum, then (x + 4) / 4. Equals transformers' `WhisperFeatureExtractor` within 1e-5.

    Silence is not 0 here: it is the utterance's floor. Pad the waveform, never the log-mel.
    """

    def __init__(self, n_mels: int):
        super().__init__()
        self.n_mels = n_mels
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE_HZ,
            n_fft=N_FFT,
            hop_length=HOP_SAMPLES,
            n_mels=n_mels,
            f_min=0.0,
            f_max=SAMPLE_RATE_HZ / 2,
            power=2.0,
            norm="slaney",
            mel_scale="slaney",
        )
        # torchaudio computes its filters in single precision; near their edges, where a pure tone may lie, that costs
        # up to 2e-4. transformers computes the same ones in double precision.
        filters = mel_filter_bank(
            N_FFT // 2 + 1, n_mels, 0.0, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        self.mel.mel_scale.fb = torch.from_numpy(filters).float()
        # The filter bank is a constant of the front end, not a weight: it stays out of checkpoints.
        for module in self.mel.modules():
            module._non_persistent_buffers_set.update(module._buffers)

    def forward(self, waveform: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch mel frame"]:
        """frame = sample // 160. Half precision would lose the quiet bands, so autocast is off in here."""
        with torch.autocast(waveform.device.type, enabled=False):
            power = self.mel(waveform.float())[..., :-1]  # the last frame is centred on the end, half of it is padding
            log = power.clamp(min=1e-10).log10()
            floor = log.amax(dim=(-2, -1), keepdim=True) - 8.0
            return (torch.maximum(log, floor) + 4.0) / 4.0
