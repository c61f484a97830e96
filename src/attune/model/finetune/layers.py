"""Fine-tune particular layers; freeze the rest."""

from collections.abc import Sequence

from transformers import WhisperForConditionalGeneration

from attune.model.finetune.base import RateFactor, freeze, match_parameters, unfreeze_matching


class Layers:
    """Parameters whose names match a pattern learn.

    The output projection is tied to the token embedding: freezing the decoder freezes it too.

    Args:
        train: shell-like patterns of parameter names, such as `model.decoder.*`.
        freeze: patterns among these that stay frozen all the same.
        rate_factor: times the default learning rate of the model's size.
    """

    def __init__(self, train: Sequence[str], freeze: Sequence[str] = (), rate_factor: RateFactor = 1.0):
        self.train = list(train)
        self.frozen = list(freeze)
        self.rate_factor = rate_factor

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        freeze(network)
        unfreeze_matching(network, self.train)
        for pattern in self.frozen:
            for parameter in match_parameters(network, pattern).values():
                parameter.requires_grad_(False)
