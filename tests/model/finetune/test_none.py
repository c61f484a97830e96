"""finetune=none: nothing learns, so no optimiser can be made; the model is scored and saved as it came."""

import pytest
import torch
from whispers import copy_of

from attune.errors import InputError
from attune.model.finetune.base import apply_finetuning, parameter_groups
from attune.model.finetune.none import Untouched
from attune.model.whisper import Whisper


def test_everything_is_frozen_and_nothing_changes(any_whisper: Whisper) -> None:
    whisper, finetune = copy_of(any_whisper), Untouched()
    counts = apply_finetuning(finetune, whisper.network)
    assert (counts["trainable"], counts["added"], finetune.rate_factor) == (0, 0, 0.0)
    for name, weight in any_whisper.network.state_dict().items():
        assert torch.equal(whisper.network.state_dict()[name], weight)


def test_an_optimiser_is_refused(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    apply_finetuning(Untouched(), whisper.network)
    with pytest.raises(InputError, match="Untouched lets no parameter learn"):
        parameter_groups(Untouched(), whisper.network, 0.01, 1e-3)
