"""Floating-point operations of a Whisper, from its dimensions; a product and a sum are two."""

from dataclasses import dataclass

from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

WINDOW = 3  # frames that each of the two convolutions spans


@dataclass(frozen=True)
class Work:
    """What encoder and decoder (with the output projection) compute, in FLOPs."""

    encoder: float
    decoder: float


def count_forward(config: WhisperConfig, utterances: int, positions: int, tokens: int, supervised: int) -> Work:
    """One forward pass of a batch: matrix products, convolutions and attention; norms and softmax are left out.

    With d the width, f the feed-forward width, P positions and N tokens of an utterance:

        encoder = 2 * 2P * 3 * mels * d + 2 * P * 3 * d^2 + layers * (2 P (4 d^2 + 2 d f) + 4 P^2 d)
        decoder = layers * (2 N (6 d^2 + 2 d f) + 4 P d^2 + 4 N^2 d + 4 N P d), and 2 * supervised * d * vocabulary

    Args:
        positions: of each utterance's window (50 a second).
        tokens: decoder positions of each utterance.
        supervised: tokens of the whole batch for which logits are made.
    """
    width, vocabulary = config.d_model, config.vocab_size
    convolutions = 2 * 2 * positions * WINDOW * config.num_mel_bins * width + 2 * positions * WINDOW * width**2
    matrices = 4 * width**2 + 2 * width * config.encoder_ffn_dim
    encoder = convolutions + config.encoder_layers * (2 * positions * matrices + 4 * positions**2 * width)
    matrices = 6 * width**2 + 2 * width * config.decoder_ffn_dim
    attention = 4 * tokens**2 * width + 4 * tokens * positions * width
    decoder = config.decoder_layers * (2 * tokens * matrices + 4 * positions * width**2 + attention)
    return Work(utterances * encoder, utterances * decoder + 2 * supervised * width * vocabulary)


def count_training(forward: Work, learns: tuple[float, float]) -> float:
    """Forward and backward: the backward pass costs the forward's products once for what gradients flow through, and
    once more for the weights that learn. Full fine-tuning is 3 forwards, LoRA a little above 2, a frozen encoder 1.

    Args:
        learns: what `learning_shares` says.
    """
    encoder_learns, decoder_learns = learns
    through_encoder, through_decoder = encoder_learns > 0, encoder_learns > 0 or decoder_learns > 0
    encoder = forward.encoder * (1 + through_encoder + encoder_learns)
    return encoder + forward.decoder * (1 + through_decoder + decoder_learns)


def learning_shares(network: WhisperForConditionalGeneration) -> tuple[float, float]:
    """Of the weights of encoder and decoder that are in products, the shares that learn."""
    return _learning_share(network.model.encoder), _learning_share(network.model.decoder)


def _learning_share(part: nn.Module) -> float:
    """The share of the weights of matrices and convolutions that learn; positions are in no product."""
    weights = [each for name, each in part.named_parameters() if each.ndim > 1 and "embed_positions" not in name]
    total = sum(each.numel() for each in weights)
    return sum(each.numel() for each in weights if each.requires_grad) / total if total else 0.0
