"""A small vocabulary, laid out as OpenAI's, and rows that are never written."""

import struct
from pathlib import Path

import pytest
import torch
from whispers import TEXTS, awaken

from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.use.formats.ggml import FILE, compute_filler, list_pieces, rename, write
from attune.use.formats.layout import Layout, lay_out


@pytest.fixture(scope="module")
def small(nano_like: Whisper) -> Whisper:
    return awaken(nano_like, seed=2)


@pytest.fixture(scope="module")
def layout(small: Whisper) -> Layout:
    return lay_out(small, "a program")


def test_special_tokens_lie_where_openai_has_them(layout: Layout, small: Whisper) -> None:
    """The ids of large-v3, which has 100 languages as well; the text keeps its own."""
    tokens = layout.tokens
    assert (tokens.end_of_text, tokens.start, tokens.languages["en"]) == (50257, 50258, 50259)
    assert (tokens.tasks["translate"], tokens.tasks["transcribe"]) == (50359, 50360)
    assert (tokens.start_of_prompt, tokens.no_speech, tokens.no_timestamps) == (50362, 50363, 50364)
    assert layout.fillers + small.network.config.vocab_size == 51866
    for text in TEXTS:
        ids = small.tokens.text(text, "en")
        assert tokens.text(text, "en") == ids and tokens.transcript(ids) == text
    assert [layout.move(id) for id in small.tokens.prefix("de")] == tokens.prefix("de")


def test_rows_move_with_their_tokens(layout: Layout, small: Whisper) -> None:
    rows = small.network.model.decoder.embed_tokens.weight.detach()
    spread = layout.spread(rows, torch.full((rows.shape[1],), 7.0))
    for id in (0, layout.text - 1, layout.text, small.tokens.no_timestamps, len(rows) - 1):
        assert torch.equal(spread[layout.move(id)], rows[id])
    assert (spread[layout.text : layout.text + layout.fillers] == 7.0).all()


def test_openais_vocabulary_stays(real_tokenizer_whisper: Whisper) -> None:
    layout = lay_out(real_tokenizer_whisper, "a program")
    assert layout.fillers == 0 and layout.tokens is real_tokenizer_whisper.tokens


def test_a_filler_has_one_logit_in_every_state(small: Whisper) -> None:
    """Also where ggml rounds it, and the state, to half precision."""
    norm = small.network.model.decoder.layer_norm
    states = norm(10 * torch.randn(200, norm.weight.numel(), generator=torch.Generator().manual_seed(0)))
    logits = states.half().double() @ compute_filler(small).half().double()
    assert ((logits + 100).abs() < 5).all()


def test_a_model_that_has_not_learnt_has_no_such_row(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match="no embedding could be found that this model never writes"):
        compute_filler(nano_like)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.encoder.conv1.weight", "encoder.conv1.weight"),
        ("model.encoder.embed_positions.weight", "encoder.positional_embedding"),
        ("model.encoder.layer_norm.bias", "encoder.ln_post.bias"),
        ("model.encoder.layers.0.self_attn.q_proj.weight", "encoder.blocks.0.attn.query.weight"),
        ("model.encoder.layers.1.self_attn_layer_norm.weight", "encoder.blocks.1.attn_ln.weight"),
        ("model.decoder.layers.0.encoder_attn.out_proj.bias", "decoder.blocks.0.cross_attn.out.bias"),
        ("model.decoder.layers.0.encoder_attn_layer_norm.bias", "decoder.blocks.0.cross_attn_ln.bias"),
        ("model.decoder.layers.10.fc1.weight", "decoder.blocks.10.mlp.0.weight"),
        ("model.decoder.layers.0.final_layer_norm.bias", "decoder.blocks.0.mlp_ln.bias"),
        ("model.decoder.layer_norm.weight", "decoder.ln.weight"),
        ("model.decoder.embed_tokens.weight", "decoder.token_embedding.weight"),
    ],
)
def test_names_of_tensors(ours: str, theirs: str) -> None:
    assert rename(ours) == theirs


def test_the_file_of_whisper_cpp(small: Whisper, layout: Layout, tmp_path: Path) -> None:
    """Sizes, filters, pieces and every tensor, read as whisper.cpp reads them; nothing is left at the end."""
    write(small, tmp_path, "float16")
    content = (tmp_path / FILE).read_bytes()
    head = struct.unpack_from("<12i", content)
    assert head == (0x67676D6C, 51866, 1500, 32, 2, 2, 448, 32, 2, 2, 80, 1)
    mels, bins = struct.unpack_from("<2i", content, 48)
    at = 56 + 4 * mels * bins
    (count,) = struct.unpack_from("<i", content, at)
    at += 4
    pieces = []
    for _ in range(count):
        (length,) = struct.unpack_from("<i", content, at)
        pieces.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    assert pieces == list_pieces(layout) and count == 50257
    ids = small.tokens.text(TEXTS[0], "en")
    assert b"".join(pieces[id] for id in ids).decode() == " " + TEXTS[0]
    shapes = {}
    while at < len(content):
        dimensions, length, half = struct.unpack_from("<3i", content, at)
        shape = struct.unpack_from(f"<{dimensions}i", content, at + 12)
        at += 12 + 4 * dimensions
        name = content[at : at + length].decode()
        shapes[name] = shape
        at += length + torch.Size(shape).numel() * (2 if half else 4)
    assert at == len(content)
    assert shapes["encoder.conv1.weight"] == (3, 80, 32) and shapes["encoder.conv1.bias"] == (1, 32)
    assert shapes["decoder.token_embedding.weight"] == (32, 51866)
    assert len(shapes) == sum(1 for _ in small.network.named_parameters())  # the projection is tied, and no parameter
