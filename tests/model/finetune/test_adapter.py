"""What no Whisper holds, adapters and prompts in blocks: where they stand, how saved ones come back, and the loader."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from whispers import awaken, copy_of, make_batch

from attune.errors import InputError
from attune.model.additions import WEIGHTS, is_addition
from attune.model.finetune.adapter import Adapter
from attune.model.finetune.added_layers import AddedLayers
from attune.model.finetune.prompt import Prompt
from attune.model.save import LOADER, NOTE, explain_additions, save_whisper
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.text.tokens import Tokens


def adapt(whisper: Whisper) -> Whisper:
    """A copy with adapters that have learnt something, the same every time."""
    adapted = awaken(whisper, seed=3)
    Adapter().apply(adapted.network)
    return teach(adapted)


def prompt(whisper: Whisper, states: int = 5) -> Whisper:
    """A copy with prompts in its blocks that have learnt something, the same every time."""
    prompted = awaken(whisper, seed=3)
    Prompt(states=states).apply(prompted.network)
    return teach(prompted)


def teach(whisper: Whisper) -> Whisper:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in whisper.network.named_parameters():
            if is_addition(name):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return whisper.eval()


@torch.no_grad()
def compute_logits(network: WhisperForConditionalGeneration, tokens: Tokens) -> Float[Tensor, "batch token vocabulary"]:
    batch, whisper = make_batch(tokens, 150), Whisper(network, tokens)
    return whisper.project(whisper.decode(whisper.encode(batch.waveform), batch.decoder_input_ids))


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("loader_of_a_folder", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(nano_like: Whisper, tmp_path: Path) -> Path:
    save_whisper(adapt(nano_like), tmp_path)
    return tmp_path


def test_adapters_stand_where_they_were_asked(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    Adapter(bottleneck=8, blocks=["model.decoder.layers.1"], behind=["fc2", "fc2"]).apply(whisper.network)
    added = {name: tuple(p.shape) for name, p in whisper.network.named_parameters() if p.requires_grad}
    at = "model.decoder.layers.1.fc2.adapter"
    assert added == {
        f"{at}.down.weight": (8, 32), f"{at}.down.bias": (8,), f"{at}.up.weight": (32, 8), f"{at}.up.bias": (32,),
    }  # fmt: skip


def test_the_sublayer_gains_what_the_formula_says(nano_like: Whisper) -> None:
    layer = adapt(nano_like).network.model.encoder.layers[0].fc2
    states = torch.randn(3, layer.in_features)
    plain = torch.nn.functional.linear(states, layer.weight, layer.bias)
    down, up = layer.adapter.down, layer.adapter.up
    middle = torch.nn.functional.gelu(plain @ down.weight.T + down.bias)
    torch.testing.assert_close(layer(states), plain + middle @ up.weight.T + up.bias)


def test_a_self_attention_gains_what_the_prompt_says(nano_like: Whisper) -> None:
    attention = prompt(nano_like).network.model.encoder.layers[0].self_attn
    states, learnt = torch.randn(2, 7, 32), attention.soft_prompt
    heads, size = attention.num_heads, 32 // attention.num_heads
    queries = (attention.q_proj(states) * size**-0.5).view(2, 7, heads, size)
    shares = torch.einsum("bphs,khs->bhpk", queries, learnt.keys.view(5, heads, size)).softmax(dim=-1)
    heard = torch.einsum("bhpk,khs->bphs", shares, learnt.values.view(5, heads, size)).reshape(2, 7, 32)
    with_prompt = attention(states)[0]
    with torch.no_grad():
        learnt.values.zero_()
    torch.testing.assert_close(with_prompt - attention(states)[0], heard @ attention.out_proj.weight.T)


def test_a_prompted_model_writes_what_it_wrote_and_its_loader_needs_no_attune(
    nano_like: Whisper, tmp_path: Path
) -> None:
    prompted = prompt(nano_like)
    save_whisper(prompted, tmp_path)
    expected = compute_logits(prompted.network, prompted.tokens)
    loaded = load_whisper(str(tmp_path), load_tokens(str(tmp_path))).eval()
    assert torch.equal(compute_logits(loaded.network, loaded.tokens), expected)
    network = import_file(tmp_path / LOADER).load(tmp_path)
    torch.testing.assert_close(compute_logits(network, prompted.tokens), expected, atol=1e-6, rtol=1e-5)
    # In steps, with a cache, as in one go: a prompt is no position of the sequence.
    ids = torch.tensor([prompted.tokens.prefix("en")])
    features = torch.randn(1, 80, 3000)
    whole = network(input_features=features, decoder_input_ids=ids).logits[:, -1]
    first = network(input_features=features, decoder_input_ids=ids[:, :-1], use_cache=True)
    last = network(
        encoder_outputs=(first.encoder_last_hidden_state,), decoder_input_ids=ids[:, -1:],
        past_key_values=first.past_key_values,
    )  # fmt: skip
    torch.testing.assert_close(last.logits[:, -1], whole, atol=1e-5, rtol=1e-4)
    assert "cannot hold this model's learned prompts in 4 blocks (1,280 parameters" in (tmp_path / NOTE).read_text()


def test_a_copy_has_adapters_of_its_own(nano_like: Whisper) -> None:
    adapted = adapt(nano_like)
    other = copy_of(adapted).eval()
    before = compute_logits(other.network, other.tokens)
    with torch.no_grad():
        for name, parameter in adapted.network.named_parameters():
            if ".adapter." in name:
                parameter.zero_()
    assert torch.equal(compute_logits(other.network, other.tokens), before)
    assert not torch.equal(compute_logits(adapted.network, adapted.tokens), before)


def test_attune_loads_it_without_executing_the_folder(nano_like: Whisper, folder: Path) -> None:
    (folder / LOADER).write_text("raise AssertionError('a file of the folder was executed')")
    loaded = load_whisper(str(folder), load_tokens(str(folder))).eval()
    expected = compute_logits(adapt(nano_like).network, nano_like.tokens)
    assert torch.equal(compute_logits(loaded.network, loaded.tokens), expected)


def test_the_loader_in_the_folder_needs_no_attune(nano_like: Whisper, folder: Path) -> None:
    tree = ast.parse((folder / LOADER).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    needed = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    assert needed == {"safetensors", "torch", "transformers"}
    network = import_file(folder / LOADER).load(folder)
    expected = compute_logits(adapt(nano_like).network, nano_like.tokens)
    torch.testing.assert_close(compute_logits(network, nano_like.tokens), expected, atol=1e-6, rtol=1e-5)
    assert network.generate(torch.zeros(1, 80, 3000), language="en", max_new_tokens=4).shape[0] == 1


def test_plain_transformers_gets_the_whisper_without_them_and_a_note_says_so(nano_like: Whisper, folder: Path) -> None:
    plain = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    expected = compute_logits(awaken(nano_like, seed=3).network, nano_like.tokens)
    assert torch.equal(compute_logits(plain, nano_like.tokens), expected)
    note = (folder / NOTE).read_text()
    assert "cannot hold this model's 10 adapters (41,920 parameters" in note and LOADER in note and WEIGHTS in note
    save_whisper(nano_like, folder)  # a plain one in the same place leaves nothing of it
    assert explain_additions(folder) is None
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_half_precision_on_disk(nano_like: Whisper, tmp_path: Path) -> None:
    save_whisper(adapt(nano_like), tmp_path, dtype=torch.float16)
    assert {weight.dtype for weight in load_file(tmp_path / WEIGHTS).values()} == {torch.float16}
    loaded = load_whisper(str(tmp_path), load_tokens(str(tmp_path)))
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"model.decoder.layers.7.fc2.adapter.down.weight": torch.zeros(4, 32)}, "does not belong to this Whisper"),
        ({"model.decoder.layers.1.fc2.adapter.down.weight": torch.zeros(4, 9)}, "does not belong to this Whisper"),
        ({"model.decoder.layers.7.self_attn.soft_prompt.keys": torch.zeros(4, 32)}, "does not belong to this Whisper"),
        ({"model.decoder.layers.1.fc2.adapter.side.weight": torch.zeros(4)}, "has no model.decoder.layers.1.fc2"),
    ],
)
def test_additions_of_another_whisper(weights: dict[str, Tensor], message: str, folder: Path) -> None:
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(InputError, match=rf"model.name_or_path=(.|\n)*{message}"):
        load_whisper(str(folder), load_tokens(str(folder)))


def test_additions_that_are_no_safetensors(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"additions.safetensors does not belong to this Whisper"):
        load_whisper(str(folder), load_tokens(str(folder)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bottleneck": 0}, r"finetune.bottleneck is 0; an adapter needs a width of at least 1"),
        ({"blocks": []}, r"finetune.blocks and finetune.behind must not be empty"),
        ({"blocks": ["model.decoder.layers.9"]}, r"there is no block 'model.decoder.layers.9'. There are: model"),
        ({"behind": ["fc3"]}, r"there is no linear layer 'fc3' in a block. There are: .*'fc2'"),
        ({"blocks": ["model.encoder.*"], "behind": ["encoder_attn.out_proj"]}, r"none of .* in the blocks .* have no"),
    ],
)
def test_an_adapter_on_a_layer_that_is_not_there(arguments: dict[str, Any], message: str, nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=message):
        Adapter(**arguments).apply(copy_of(nano_like).network)


@pytest.mark.parametrize("again", [Adapter(), AddedLayers()])
def test_a_whisper_with_adapters_gets_no_second_ones(again: Adapter | AddedLayers, nano_like: Whisper) -> None:
    with pytest.raises(InputError, match="has adapters already"):
        again.apply(adapt(nano_like).network)
