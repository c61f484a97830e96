"""Train nothing: the model as it comes, with or without examples in its context."""

from transformers import WhisperForConditionalGeneration

from attune.model.finetune.base import freeze


class Untouched:
    """No parameter learns, and no step is taken: the run scores the model as it was loaded.

    With `data.in_context=k` its result has k training utterances before each that is scored: few-shot without
    training. `model/` holds the weights that were loaded.
    """

    rate_factor = 0.0  # train.py takes no step

    def apply(self, network: WhisperForConditionalGeneration) -> None:
        freeze(network)
