"""Added layers: a plain Whisper with more of them, whose decoder finds its keys and values in the cache."""

from pathlib import Path

import pytest
import torch
from transformers import WhisperForConditionalGeneration
from whispers import awaken, copy_of, make_batch

from attune.errors import InputError
from attune.model.decode import cap_tokens, decode_greedily
from attune.model.finetune.added_layers import AddedLayers
from attune.model.save import save_whisper
from attune.model.whisper import Whisper


def extend(whisper: Whisper, **counts: int) -> Whisper:
    """A copy with new blocks that are no longer the identity."""
    extended = awaken(whisper, seed=3)
    AddedLayers(**counts).apply(extended.network)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in extended.network.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return extended.eval()


@pytest.mark.parametrize(("encoder", "decoder"), [(1, 1), (0, 2), (2, 0)])  # caches are not sized by the encoder
def test_plain_transformers_loads_and_decodes_it(
    nano_like: Whisper, tmp_path: Path, encoder: int, decoder: int
) -> None:
    whisper = extend(nano_like, encoder=encoder, decoder=decoder)
    assert whisper.network.generation_config is not None
    whisper.network.generation_config.alignment_heads = [[0, 1], [1, 0]]
    save_whisper(whisper, tmp_path)
    plain = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert (plain.config.encoder_layers, plain.config.decoder_layers) == (2 + encoder, 2 + decoder)
    assert len(plain.model.decoder.layers) == 2 + decoder
    assert plain.generation_config.alignment_heads == [[0, 1], [1, 0]]
    features = whisper.log_mel(make_batch(whisper.tokens, 1500).waveform)
    arguments = {"language": "en", "max_new_tokens": 6}
    ours, theirs = (network.generate(features, **arguments) for network in (whisper.network, plain))
    assert torch.equal(ours, theirs)


def test_the_cache_changes_nothing_that_is_decoded(nano_like: Whisper) -> None:
    """Greedy decoding with a cache, against argmax over the whole sequence again and again."""
    whisper = extend(nano_like, encoder=1, decoder=2)
    batch = make_batch(whisper.tokens, 200)
    with torch.no_grad():
        states = whisper.encode(batch.waveform)
        written = decode_greedily(
            whisper, states, batch.prefixes, cap_tokens(whisper.tokens, batch.prefixes, batch.lengths)
        )
        for row, (prefix, ids) in enumerate(zip(batch.prefixes, written, strict=True)):
            inputs = torch.tensor([[*prefix, *ids]])
            logits = whisper.project(whisper.decode(states[row : row + 1], inputs))[0]
            assert logits[len(prefix) - 1 : -1].argmax(dim=-1).tolist() == ids
    assert any(len(ids) > 3 for ids in written)
    layers = whisper.network.model.decoder.layers
    assert [(layer.self_attn.layer_idx, layer.encoder_attn.layer_idx) for layer in layers] == [
        (index, index) for index in range(4)
    ]


def test_blocks_share_the_config_of_the_network(nano_like: Whisper) -> None:
    network = extend(nano_like).network
    for side in (network.model.encoder, network.model.decoder):
        assert side.config is network.config
        assert all(layer.self_attn.config is network.config for layer in side.layers)


def test_the_top_of_the_old_blocks_learns_too(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    AddedLayers(encoder=0, decoder=1, top=1).apply(whisper.network)
    learning = {name for name, parameter in whisper.network.named_parameters() if parameter.requires_grad}
    blocks = {name.rpartition(".layers.")[2].split(".")[0] for name in learning}
    assert blocks == {"1", "2"} and all(name.startswith("model.decoder.layers.") for name in learning)


def test_blocks_that_cannot_be_added(nano_like: Whisper) -> None:
    for arguments in ({"encoder": 0, "decoder": 0}, {"encoder": -1}, {"top": -1}):
        with pytest.raises(InputError, match="there must be one new block at least"):
            AddedLayers(**arguments)
    with pytest.raises(InputError, match=r"finetune.top is 3, but this model's encoder has 2 blocks"):
        AddedLayers(top=3).apply(copy_of(nano_like).network)
