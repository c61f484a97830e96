"""One decoding of a stretch of sound, and what it is worth."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attune.data.batch import pad_tokens
from attune.model.whisper import Whisper


@dataclass(frozen=True)
class Attempt:
    """What was written, how much zlib makes of it, and how sure the decoder was of its words and that there are any."""

    ids: list[int]
    compression_ratio: float
    mean_log_probability: float
    no_speech_probability: float


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

    def repeats(self, attempt: Attempt) -> bool:
        return attempt.compression_ratio > self.compression_ratio

    def is_credible(self, attempt: Attempt) -> bool:
        return not self.repeats(attempt) and attempt.mean_log_probability >= self.mean_log_probability

    def is_silence(self, attempt: Attempt) -> bool:
        unsure = attempt.mean_log_probability < self.mean_log_probability
        return unsure and attempt.no_speech_probability > self.no_speech


@torch.no_grad()
def judge(
    whisper: Whisper,
    states: Float[Tensor, "batch position told"],
    prefixes: Sequence[Sequence[int]],
    written: Sequence[Sequence[int]],
) -> list[Attempt]:
    """Read attempts of a decoder back in one pass.

    Args:
        prefixes: what it was given.
        written: what it wrote, without <|endoftext|>.
    """
    inputs = pad_tokens([[*prefix, *ids] for prefix, ids in zip(prefixes, written, strict=True)], 0)
    hidden = whisper.decode(states, inputs.to(states.device))
    return [_judge_row(whisper, *each) for each in zip(hidden, prefixes, written, strict=True)]


def _judge_row(
    whisper: Whisper, hidden: Float[Tensor, "token width"], prefix: Sequence[int], ids: Sequence[int]
) -> Attempt:
    tokens = whisper.tokens
    logits = whisper.project(hidden[: len(prefix) + len(ids)]).float().log_softmax(dim=-1)
    targets = torch.tensor([*ids, tokens.end_of_text], device=hidden.device)
    chosen = logits[len(prefix) - 1 :].gather(1, targets[:, None])[:, 0]
    return Attempt(
        ids=list(ids),
        compression_ratio=compute_compression(tokens.transcript(ids)),
        mean_log_probability=chosen[targets < tokens.first_timestamp].mean().item(),
        no_speech_probability=logits[prefix.index(tokens.start), tokens.no_speech].exp().item(),
    )


def compute_compression(text: str) -> float:
    """How many times smaller zlib makes a text: 1 to 2 of speech, more of what repeats itself."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))
