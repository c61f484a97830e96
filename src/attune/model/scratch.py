"""A Whisper with random weights and a tokenizer of its own: pretraining from nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from attune.errors import InputError
from attune.model.whisper import Whisper, complete_generation_config, load_tokens, load_whisper
from attune.text.sentences import draw_sentences
from attune.text.tokenizer import train_tokenizer
from attune.text.tokens import Tokens

TOKENIZER_SENTENCES = 20_000


@dataclass(frozen=True)
class Scratch:
    """The size of a Whisper that is trained from nothing.

    Args:
        width: of the residual stream; the feed-forward parts are four times as wide.
        layers: blocks of the encoder and, as many, of the decoder.
        heads: of every attention; they divide the width.
        merges: byte pairs that the tokenizer learns from everyday English.
        mels: channels of the log-mel.
    """

    width: int = 192
    layers: int = 4
    heads: int = 4
    merges: int = 400
    mels: int = 80

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"model.scratch: width={self.width} is not a multiple of heads={self.heads}.")


def obtain_tokens(name_or_path: str | None, scratch: Scratch | None) -> Tokens:
    """The tokenizer of a model that is loaded, or of one that is made."""
    if scratch is not None:
        return make_tokens(scratch.merges)
    return load_tokens(_named(name_or_path))


def obtain_whisper(name_or_path: str | None, tokens: Tokens, scratch: Scratch | None) -> Whisper:
    """A Whisper with loaded weights, or one with random ones: those of the run's seed, whenever it is asked for."""
    if scratch is not None:
        with torch.random.fork_rng():
            torch.manual_seed(torch.initial_seed())
            return make_whisper(tokens, scratch)
    return load_whisper(_named(name_or_path), tokens)


def _named(name_or_path: str | None) -> str:
    if not name_or_path:
        raise InputError("model.name_or_path must be given: a folder, a hub name, or 'nano'.")
    return name_or_path


def make_tokens(merges: int) -> Tokens:
    """A tokenizer learnt from everyday English; the same for the same `merges`."""
    return Tokens(train_tokenizer(draw_sentences(TOKENIZER_SENTENCES, seed=0, split="train"), merges))


def make_config(tokens: Tokens, scratch: Scratch) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=len(tokens.tokenizer),
        num_mel_bins=scratch.mels,
        d_model=scratch.width,
        encoder_layers=scratch.layers,
        decoder_layers=scratch.layers,
        encoder_attention_heads=scratch.heads,
        decoder_attention_heads=scratch.heads,
        encoder_ffn_dim=4 * scratch.width,
        decoder_ffn_dim=4 * scratch.width,
        max_target_positions=tokens.max_tokens,
        bos_token_id=tokens.end_of_text,
        eos_token_id=tokens.end_of_text,
        pad_token_id=tokens.end_of_text,
        decoder_start_token_id=tokens.start,
    )


def make_whisper(tokens: Tokens, scratch: Scratch) -> Whisper:
    """A Whisper with random weights (torch's global generator) and Whisper's fixed encoder positions."""
    config = make_config(tokens, scratch)
    network = WhisperForConditionalGeneration(config)  # SDPA attention, transformers' default
    network.generation_config = complete_generation_config(GenerationConfig(), tokens)
    initialise(network)
    with torch.no_grad():
        network.model.encoder.embed_positions.weight.copy_(sinusoids(config.max_source_positions, scratch.width))
    return Whisper(network, tokens)


@torch.no_grad()
def initialise(network: WhisperForConditionalGeneration) -> None:
    """Draw weights with the variance that their inputs ask for: std = gain / sqrt(inputs of one output).

    transformers draws everything with std 0.02, which suits a width of 1280. At 192 the convolutions then hand on a
    fiftieth
    of the size of the positions; the optimiser blows them up, positions drown, and no alignment is ever found
    (docs/log.md, 2026-11-24). Gain 2^0.5 in front of a GELU (He et al. 2015), 1 elsewhere.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d) and "proj_out" not in name:
            inputs = module.weight[0].numel()
            gain = 2.0 if isinstance(module, nn.Conv1d) or name.endswith("fc1") else 1.0
            module.weight.normal_(std=(gain / inputs) ** 0.5)
    width = network.config.d_model
    network.model.decoder.embed_tokens.weight.normal_(std=width**-0.5)  # tied to the output: logits start near +-1
    network.model.decoder.embed_positions.weight.normal_(std=width**-0.5)


def sinusoids(length: int, width: int, longest: float = 10_000.0) -> Float[Tensor, "length width"]:
    """Whisper's fixed encoder positions: sin and cos of position / longest^(2i / width), halves side by side."""
    rate = torch.exp(-torch.arange(width // 2) * (torch.tensor(longest).log() / (width // 2 - 1)))
    angle = torch.arange(length)[:, None] * rate[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)
