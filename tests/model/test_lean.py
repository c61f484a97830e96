"""The decoder's lean steps: the same results as autocast's own, and everything back in its place afterwards."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from whispers import awaken, copy_of, make_batch

from attune.model.decode import choose_likeliest, decode_greedily
from attune.model.finetune.lora import Lora
from attune.model.lean import FEW_QUERIES, attend, lean
from attune.model.whisper import Whisper


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


@pytest.mark.parametrize("with_lora", [False, True])
def test_narrowed_weights_change_no_bit(with_lora: bool, any_whisper: Whisper) -> None:
    whisper = copy_of(any_whisper)
    if with_lora:
        Lora(rank=2).apply(whisper.network)
    whisper = awaken(whisper, seed=1).eval()
    batch, network = make_batch(whisper.tokens, 250), whisper.network
    with torch.no_grad(), autocast():
        states = whisper.encode(batch.waveform)
        expected = whisper.project(whisper.decode(states, batch.decoder_input_ids))
        with lean(network):
            assert network.config._attn_implementation == FEW_QUERIES
            assert network.proj_out.weight.dtype == torch.bfloat16
            assert network.model.decoder.embed_tokens.weight.dtype == torch.float32
            network.config._attn_implementation = "sdpa"
            found = whisper.project(whisper.decode(states, batch.decoder_input_ids))
    assert torch.equal(found, expected)


def test_all_is_back_afterwards_whatever_happens(nano_like: Whisper) -> None:
    network = copy_of(nano_like).network
    before, attention = dict(network.named_parameters()), network.config._attn_implementation
    with pytest.raises(RuntimeError, match="midst"), autocast(), lean(network):
        raise RuntimeError("in the midst of it")
    after = dict(network.named_parameters())
    assert before.keys() == after.keys() and all(after[name] is each for name, each in before.items())
    assert network.config._attn_implementation == attention
    assert network.proj_out.weight is network.model.decoder.embed_tokens.weight


def test_without_autocast_weights_stay_as_they_are(nano_like: Whisper) -> None:
    network = copy_of(nano_like).network
    with lean(network):
        assert network.proj_out.weight.dtype == torch.float32
        assert network.config._attn_implementation == FEW_QUERIES
    assert network.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("queries", [1, 4, 9])
@pytest.mark.parametrize("is_causal", [False, True])
def test_few_queries_attend_as_many_do(queries: int, is_causal: bool) -> None:
    generator = torch.Generator().manual_seed(queries)
    query, key, value = (torch.randn(2, 3, count, 16, generator=generator) for count in (queries, 9, 9))
    module = nn.Module()
    module.is_causal = is_causal  # type: ignore[assignment]
    expected = scaled_dot_product_attention(query, key, value, is_causal=is_causal and queries > 1, scale=0.3)
    with torch.no_grad():
        found, weights = attend(module, query, key, value, None, scaling=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    assert weights is None


def test_what_is_masked_is_not_attended_to() -> None:
    query, key, value = (
        torch.randn(1, 2, count, 16, generator=torch.Generator().manual_seed(count)) for count in (1, 5, 6)
    )
    mask = torch.tensor([True, True, False, True, False])[None, None, None]
    module = nn.Module()
    with torch.no_grad():
        found, _ = attend(module, query, key, value[:, :, :5], mask, scaling=0.3, is_causal=False)
    expected = scaled_dot_product_attention(
        query, key[:, :, mask[0, 0, 0]], value[:, :, :5][:, :, mask[0, 0, 0]], scale=0.3
    )
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_16_bits_write_what_32_do_where_the_choice_is_clear(nano_like: Whisper) -> None:
    whisper = awaken(nano_like, seed=3).eval()
    batch = make_batch(whisper.tokens, 250)
    new = [12] * len(batch)
    exact = decode_greedily(whisper, whisper.encode(batch.waveform), batch.prefixes, new)
    with torch.no_grad(), autocast():
        states = whisper.encode(batch.waveform)
        found = decode_greedily(whisper, states, batch.prefixes, new)
    assert sum(one[:3] == other[:3] for one, other in zip(found, exact, strict=True)) >= 2


def test_the_first_of_equals_is_chosen() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [-torch.inf, -torch.inf, -1.0], [3.0, 3.0, 3.0]])
    assert choose_likeliest(logits).tolist() == logits.argmax(dim=-1).tolist() == [1, 2, 0]
