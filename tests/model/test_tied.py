"""The embedding's gradient is what autograd makes of it, row by row."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from whispers import copy_of, make_batch

from attune.data.batch import Batch
from attune.model.tied import adding_rows
from attune.model.whisper import Whisper
from attune.train.objective import cross_entropy
from attune.train.objective.cross_entropy import CrossEntropy


def learn(whisper: Whisper, batch: Batch) -> Tensor:
    return CrossEntropy().loss(whisper, batch).total


def learn_twice(whisper: Whisper, batch: Batch) -> Tensor:
    """Two lookups and two projections in one backward pass, as preferences have them."""
    return learn(whisper, batch) - 0.3 * learn(whisper, batch)


def learn_states(whisper: Whisper, batch: Batch) -> Tensor:
    """Without the projection, as a reward has it."""
    return whisper.decode(whisper.encode(batch.waveform), batch.decoder_input_ids).square().sum()


@pytest.mark.parametrize("loss", [learn, learn_twice, learn_states])
@pytest.mark.parametrize("at_once", [2**28, 1])
def test_the_gradient_is_the_same(
    loss: Callable[[Whisper, Batch], Tensor], at_once: int, nano_like: Whisper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS_BYTES", at_once)  # 1: a token at a time, made anew in backward
    gradients = []
    for way in (False, True):
        whisper = copy_of(nano_like)
        batch = make_batch(whisper.tokens, 100)
        for _ in range(2):  # a window of two micro-batches
            if way:
                with adding_rows(whisper.network):
                    loss(whisper, batch).backward()
            else:
                loss(whisper, batch).backward()
        gradients.append({name: each.grad for name, each in whisper.network.named_parameters()})
    one, other = gradients
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert (gradient is None) == (other[name] is None)
        if gradient is not None:
            torch.testing.assert_close(other[name], gradient, atol=2e-5, rtol=1e-5)


def test_what_is_frozen_stays_so(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    whisper.network.model.decoder.embed_tokens.weight.requires_grad_(False)
    with adding_rows(whisper.network):
        learn(whisper, make_batch(whisper.tokens, 100)).backward()
    assert whisper.network.model.decoder.embed_tokens.weight.grad is None
    assert not whisper.network.model.decoder.embed_tokens._forward_hooks
