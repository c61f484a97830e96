"""Noisy places for rendered speech: talkers in the background, machines, rooms, a telephone line."""

import random

import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.acoustics import add_at_snr, make_noise, pass_telephone, reverberate, simulate_rooms
from attune.audio.speech import Voice, speak
from attune.text.sentences import EVERYDAY, load_grammar

ENVIRONMENTS = ("babble", "stationary", "reverberation", "telephone")
REVERBERATION_S = (0.3, 0.9)
DIRECT_DB = (-3.0, 6.0)
TALKERS = tuple(Voice("en-us", name) for name in ("m5", "m6", "m7", "m8", "f5", "Annie", "linda", "steph", "john"))
TALKERS_AT_ONCE = 5


def place(waveform: Float[Tensor, "sample"], environment: str, snr_db: float, seed: int) -> Float[Tensor, "sample"]:
    """What a microphone in a noisy place hears of a clean recording; the same seed gives the same samples.

    The noise is `snr_db` below the speech over the whole utterance, pauses included, in every environment:

    - babble: five other voices, each talking of other things;
    - stationary: noise of any colour from white to brown;
    - reverberation: a room around the speaker, and stationary noise at the microphone;
    - telephone: stationary noise where the speaker is, and all of it through a narrow-band line.

    Returns:
        As many samples, in [-1, 1]: quieter as a whole, where the sum would not fit.
    """
    rng, generator = random.Random(f"place {seed}"), torch.Generator().manual_seed(seed)
    heard, lengths = waveform[None], torch.tensor([len(waveform)])
    if environment == "reverberation":
        reverberation_s, direct_db = (torch.tensor([rng.uniform(*span)]) for span in (REVERBERATION_S, DIRECT_DB))
        heard = reverberate(heard, simulate_rooms(reverberation_s, direct_db, generator), lengths)
    if environment == "babble":
        noise = make_babble(len(waveform), rng)[None]
    else:
        noise = make_noise(torch.tensor([rng.uniform(0.0, 2.0)]), len(waveform), generator)
    heard = add_at_snr(heard, noise, torch.tensor([snr_db]), lengths)
    if environment == "telephone":
        heard = pass_telephone(heard, lengths)
    return heard[0] / heard.abs().max().clamp(min=1.0)


def make_babble(samples: int, rng: random.Random) -> Float[Tensor, "sample"]:
    """Several people who talk at once, none louder than another, with no beginning and no end."""
    babble = torch.zeros(samples)
    for talker in rng.sample(TALKERS, TALKERS_AT_ONCE):
        said = torch.cat([_chatter(talker, rng), _chatter(talker, rng)])
        while len(said) < samples:
            said = torch.cat([said, _chatter(talker, rng)])
        first = rng.randint(0, len(said) - samples)
        heard = said[first : first + samples]
        babble += heard / heard.square().mean().sqrt().clamp(min=1e-4)
    return babble


def _chatter(talker: Voice, rng: random.Random) -> Float[Tensor, "sample"]:
    voice = Voice(talker.accent, talker.variant, rng.randint(150, 190), rng.randint(35, 65))
    return speak(load_grammar(EVERYDAY).draw(rng), voice)
