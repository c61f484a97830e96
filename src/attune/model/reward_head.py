"""A score for a transcript: one linear layer on what the decoder knows when the transcript has ended."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attune.data.batch import pad_tokens
from attune.errors import InputError
from attune.model.additions import REWARD, RewardHead
from attune.model.whisper import Whisper
from attune.text.tokens import IGNORED


def add_reward_head(network: nn.Module) -> int:
    """Put a head on a network that has none yet, zero at first; how many parameters that adds."""
    if hasattr(network, REWARD):
        network.get_submodule(REWARD).requires_grad_(True)
        return 0
    head = RewardHead(network.config.d_model)  # type: ignore[union-attr, arg-type]
    network.add_module(REWARD, head.to(next(network.parameters()).device))
    return sum(parameter.numel() for parameter in head.parameters())


def find_reward_head(network: nn.Module) -> nn.Module:
    """Raises InputError where there is none."""
    head = getattr(network, REWARD, None)
    if not isinstance(head, RewardHead):
        raise InputError(
            "This Whisper has no reward head. objective.reward_model takes a run of objective=reward_model: its "
            "folder, or RUN/model."
        )
    return head


def score_transcripts(
    whisper: Whisper,
    states: Float[Tensor, "row position told"],
    decoder_input_ids: Int[Tensor, "row token"],
    labels: Int[Tensor, "row token"],
) -> Float[Tensor, "row"]:
    """The head's score where the last label is taught: <|endoftext|>, when audio and whole transcript are known.

    A row without labels is scored at its first position, which means nothing: the caller leaves it out.

    Raises:
        InputError: the model has no such head.
    """
    head = find_reward_head(whisper.network)
    places = torch.arange(labels.shape[1], device=labels.device)
    last = torch.where(labels != IGNORED, places, 0).amax(dim=1)
    hidden = whisper.decode(states, decoder_input_ids)[torch.arange(len(last), device=last.device), last]
    with torch.autocast(hidden.device.type, enabled=False):  # half precision would make ties of near scores
        return head(hidden.float())[:, 0]


@torch.no_grad()
def score_texts(
    whisper: Whisper,
    states: Float[Tensor, "row position told"],
    texts: Sequence[str],
    languages: Sequence[str],
) -> Float[Tensor, "row"]:
    """The same for texts as written, of any model: the scorer spells them with its own tokens.

    A text that does not fit into the decoder is cut at its end.
    """
    tokens = whisper.tokens
    inputs, labels = [], []
    for text, language in zip(texts, languages, strict=True):
        prefix = [*tokens.prompt(None, room=tokens.max_tokens), *tokens.prefix(language)]
        ids = [*prefix, *tokens.text(text, language)][: tokens.max_tokens]
        inputs.append(ids)
        labels.append([IGNORED] * (len(ids) - 1) + [tokens.end_of_text])
    device = states.device
    return score_transcripts(
        whisper, states, pad_tokens(inputs, tokens.end_of_text).to(device), pad_tokens(labels, IGNORED).to(device)
    )
