"""The formulas give what torch counts while it computes."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from whispers import awaken, make_batch

from attune.audio.waveform import SAMPLES_PER_POSITION
from attune.data.batch import Batch
from attune.model.finetune.full import Full
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.flops import Work, count_forward, count_training, learning_shares
from attune.model.whisper import Whisper, encode
from attune.text.tokens import IGNORED


def work_of(whisper: Whisper, batch: Batch) -> Work:
    utterances, samples = batch.waveform.shape
    tokens = batch.decoder_input_ids.shape[1]
    return count_forward(whisper.network.config, utterances, samples // SAMPLES_PER_POSITION, tokens, batch.supervised)


def count_by_torch(whisper: Whisper, batch: Batch, backward: bool) -> int:
    """Of the network alone: the log-mel is made outside."""
    log_mel = whisper.log_mel(batch.waveform)
    # torch has no count for the CPU's fused attention: the same products, one by one
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hidden = whisper.decode(encode(whisper.network, log_mel), batch.decoder_input_ids)
        logits = whisper.project(hidden[batch.labels != IGNORED])
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("positions", [200, 1500])
def test_forward_is_counted_to_the_digit(any_whisper: Whisper, positions: int) -> None:
    whisper = awaken(any_whisper, seed=1)
    batch = make_batch(whisper.tokens, positions)
    with torch.no_grad():
        counted = count_by_torch(whisper, batch, backward=False)
    work = work_of(whisper, batch)
    assert work.encoder + work.decoder == counted


def test_full_fine_tuning_is_three_forward_passes(any_whisper: Whisper) -> None:
    """To the digit, but for the first convolution: nothing flows back into the log-mel."""
    whisper = awaken(any_whisper, seed=1).train()
    Full().apply(whisper.network)
    batch, config = make_batch(whisper.tokens, 200), whisper.network.config
    into_log_mel = len(batch) * 2 * 2 * 200 * 3 * config.num_mel_bins * config.d_model
    counted = count_by_torch(whisper, batch, backward=True)
    assert count_training(work_of(whisper, batch), learning_shares(whisper.network)) == counted + into_log_mel


@pytest.mark.parametrize(("make", "within"), [(lambda: Layers(["model.decoder.*"]), 0.05), (lambda: Lora(rank=1), 0.1)])
def test_parts_that_learn_are_counted_closely(nano_like: Whisper, make: Callable, within: float) -> None:
    whisper = awaken(nano_like, seed=1).train()
    make().apply(whisper.network)
    batch = make_batch(whisper.tokens, 200)
    counted = count_by_torch(whisper, batch, backward=True)
    assert count_training(work_of(whisper, batch), learning_shares(whisper.network)) == pytest.approx(
        counted, rel=within
    )
