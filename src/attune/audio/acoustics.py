"""What a place does to a recording: noise at a signal-to-noise ratio, a room, a telephone line.

Batched, on the device of what is handed in. Random numbers come from a generator that the caller seeds: the same seed
gives the same samples on the same kind of device. Where `lengths` (samples) are given, only an utterance's real samples
are changed: the silence behind it, which fills Whisper's window, stays silence.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchaudio.functional import mu_law_decoding, mu_law_encoding, resample

from attune.audio.waveform import SAMPLE_RATE_HZ

TELEPHONE_HZ = (300.0, 3400.0)  # ITU-T G.712
MU_LAW_LEVELS = 256  # ITU-T G.711: 8 bits a sample, at 8 kHz
RUMBLE_HZ = 50.0
EARLIEST_ECHO_S = 0.004  # a reflecting surface 0.7 m away
NOTHING = 1e-12  # a mean square of -120 dB


def find_real(lengths: Int[Tensor, "batch"], samples: int) -> Bool[Tensor, "batch sample"]:
    """Which samples of a padded batch are utterance, and not padding."""
    return torch.arange(samples, device=lengths.device) < lengths[:, None]


def compute_power(waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Mean square of each utterance over its real samples, pauses included."""
    real = find_real(lengths, waveform.shape[-1])
    return (waveform * real).square().sum(dim=-1) / lengths.clamp(min=1)


def make_noise(
    colour: Float[Tensor, "batch"], samples: int, generator: torch.Generator
) -> Float[Tensor, "batch sample"]:
    """Stationary Gaussian noise of mean square 1, whose power falls with frequency as f^-colour, from 50 Hz on.

    Args:
        colour: 0 is white (a hiss), 1 pink, 2 brown (a rumble).
    """
    white = torch.randn(len(colour), samples, generator=generator, device=colour.device)
    spectrum = torch.fft.rfft(white)
    # Below, brown noise would hold nearly all of its power where nobody hears it.
    frequency = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ, device=colour.device).clamp(min=RUMBLE_HZ)
    noise = torch.fft.irfft(spectrum * (RUMBLE_HZ / frequency) ** (colour[:, None] / 2), n=samples)
    return noise / noise.square().mean(dim=-1, keepdim=True).sqrt()


def add_at_snr(
    waveform: Float[Tensor, "batch sample"],
    noise: Float[Tensor, "batch sample"],
    snr_db: Float[Tensor, "batch"],
    lengths: Int[Tensor, "batch"],
) -> Float[Tensor, "batch sample"]:
    """Add noise so that 10 log10(power of the utterance / power of the noise) = snr_db, both over its real samples."""
    wanted = compute_power(waveform, lengths) * 10 ** (-snr_db / 10)
    factor = (wanted / compute_power(noise, lengths).clamp(min=NOTHING)).sqrt()
    return waveform + factor[:, None] * noise * find_real(lengths, waveform.shape[-1])


def simulate_rooms(
    reverberation_s: Float[Tensor, "batch"], direct_db: Float[Tensor, "batch"], generator: torch.Generator
) -> Float[Tensor, "batch sample"]:
    """Impulse responses of statistical rooms (Polack 1988): the direct sound, then noise that dies away.

    h[0] = 1 and h[t] = g n[t] 10^(-3 t / T60), n Gaussian: the tail is 60 dB down after T60. What smears speech is in
    it; the geometry of a room, as an image-source model has it, is not.

    Args:
        reverberation_s: T60, above 0; 0.2 is a furnished room, 1.0 a hall.
        direct_db: energy of the direct sound over that of the tail; 10 is near the microphone, -5 far from it.
    """
    device = reverberation_s.device
    samples = max(2, round(float(reverberation_s.max()) * SAMPLE_RATE_HZ))
    time_s = torch.arange(samples, device=device) / SAMPLE_RATE_HZ
    decay = 10 ** (-3 * time_s / reverberation_s[:, None])
    tail = torch.randn(len(decay), samples, generator=generator, device=device) * decay * (time_s >= EARLIEST_ECHO_S)
    energy = tail.square().sum(dim=-1).clamp(min=NOTHING)
    response = tail * (10 ** (-direct_db / 10) / energy).sqrt()[:, None]
    response[:, 0] = 1.0
    return response


def reverberate(
    waveform: Float[Tensor, "batch sample"], response: Float[Tensor, "batch response"], lengths: Int[Tensor, "batch"]
) -> Float[Tensor, "batch sample"]:
    """Convolve with impulse responses; each utterance keeps its power and its length, the tail behind it is cut."""
    samples = waveform.shape[-1]
    size = 1024 * math.ceil((samples + response.shape[-1]) / 1024)  # no wrap-around, and no large prime factor
    spectrum = torch.fft.rfft(waveform, n=size) * torch.fft.rfft(response, n=size)
    wet = torch.fft.irfft(spectrum, n=size)[:, :samples] * find_real(lengths, samples)
    kept = compute_power(waveform, lengths) / compute_power(wet, lengths).clamp(min=NOTHING)
    return wet * kept.sqrt()[:, None]


def pass_telephone(
    waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, "batch"]
) -> Float[Tensor, "batch sample"]:
    """A narrow-band line: 300 to 3400 Hz, 8 kHz, 8-bit mu-law, and back to 16 kHz.

    mu-law is the one codec that torchaudio still has; its others needed FFmpeg.
    """
    samples = waveform.shape[-1]
    low, high = TELEPHONE_HZ
    frequency = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ, device=waveform.device)
    # Butterworth's magnitudes, orders 4 and 8, without his delay; at 0 Hz the first is 1 / infinity.
    gain = (1 + (low / frequency) ** 8).rsqrt() * (1 + (frequency / high) ** 16).rsqrt()
    band = torch.fft.irfft(torch.fft.rfft(waveform) * gain, n=samples)
    narrow = resample(band, 2, 1, lowpass_filter_width=24).clamp(-1, 1)  # torchaudio's 6 would cut from 2.6 kHz on
    coded = mu_law_decoding(mu_law_encoding(narrow, MU_LAW_LEVELS), MU_LAW_LEVELS)
    heard = resample(coded, 1, 2, lowpass_filter_width=24)
    return heard[:, :samples] * find_real(lengths, samples)  # mu-law has no zero: its silence is at -81 dB
