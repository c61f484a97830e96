"""ggml: for whisper.cpp and its bindings.

The file is what whisper.cpp's own models/convert-h5-to-ggml.py writes: sizes, the mel filters, the pieces of text as
bytes, then every tensor with its name in openai/whisper. Matrices are float16, everything else is float32.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode

from attune.audio.waveform import N_FFT, SAMPLE_RATE_HZ
from attune.errors import InputError
from attune.model.additions import is_addition
from attune.model.whisper import Whisper
from attune.text.tokenizer import read_pieces
from attune.use.formats.base import Format, name_version, refuse_additions, require
from attune.use.formats.layout import END, Layout, lay_out, save_front_end

TITLE, FILE, MAGIC = "whisper.cpp", "ggml-model.bin", 0x67676D6C
LANGUAGES = {True: (99, 100), False: (99,)}  # how many tokens of languages it can count with
NEVER = -100.0  # the logit of a row that is no token
SHORTEST_SAMPLES = 2 * SAMPLE_RATE_HZ  # whisper.cpp writes nothing for less than a second
USAGE = """from pywhispercpp.model import Model  # pip install pywhispercpp

exact = {{"flash_attn": False}}  # flash attention, whisper.cpp's default, changes transcripts
model = Model("{folder}/ggml-model.bin", context_params=exact)
print(" ".join(segment.text for segment in model.transcribe("speech.wav", language="{language}")))"""
# transformers' name -> openai/whisper's; in this order, on parts between dots.
NAMES = (
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("self_attn_layer_norm", "attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
    ("encoder_attn", "cross_attn"),
    ("self_attn", "attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    ("layers", "blocks"),
)
SINGLE = ("positional_embedding", "conv1.bias", "conv2.bias")  # float32, whatever the others are


def write(whisper: Whisper, folder: Path, dtype: str) -> None:
    """ggml-model.bin; beside it the tokenizer, from which attune evaluate knows the model's tokens.

    Raises:
        InputError: the format cannot hold the model.
    """
    refuse_additions(whisper, TITLE)
    layout = lay_out(whisper, TITLE)
    tokens = layout.tokens
    if (
        tokens.end_of_text != END[tokens.is_multilingual]
        or len(tokens.languages) not in LANGUAGES[tokens.is_multilingual]
    ):
        raise InputError(
            f"whisper.cpp looks for <|endoftext|> at {END[tokens.is_multilingual]:,} and counts with 99 or 100 "
            f"languages; this model has it at {tokens.end_of_text:,}, and {len(tokens.languages)} languages. New "
            "tokens (finetune=new_tokens) moved them. Export it with --to hf or --to ctranslate2."
        )
    with (folder / FILE).open("wb") as file:
        _write_head(file, whisper, layout)
        for name, weight in _list_tensors(whisper, layout):
            _write_tensor(file, name, weight)
    save_front_end(whisper, layout, folder)


def _write_head(file: BinaryIO, whisper: Whisper, layout: Layout) -> None:
    config = whisper.network.config
    sizes = (
        MAGIC,
        config.vocab_size + layout.fillers,
        config.max_source_positions,
        config.d_model,
        config.encoder_attention_heads,
        config.encoder_layers,
        config.max_target_positions,
        config.d_model,
        config.decoder_attention_heads,
        config.decoder_layers,
        config.num_mel_bins,
        1,  # matrices are float16: with float32 ones whisper.cpp 1.8 stops in its first convolution
    )
    file.write(struct.pack(f"<{len(sizes)}i", *sizes))
    filters = whisper.log_mel.filters.T
    file.write(struct.pack("<2i", config.num_mel_bins, N_FFT // 2 + 1))
    file.write(filters.contiguous().numpy().astype("<f4").tobytes())
    pieces = list_pieces(layout)
    file.write(struct.pack("<i", len(pieces)))
    for piece in pieces:
        file.write(struct.pack("<i", len(piece)) + piece)


def list_pieces(layout: Layout) -> list[bytes]:
    """The text tokens in the order of their ids, as the bytes that they stand for. A piece is spelt in letters, one a
    byte; a term that finetune=new_tokens added is spelt as it is."""
    tokenizer = layout.tokens.tokenizer
    pieces, _ = read_pieces(tokenizer.backend_tokenizer)
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    terms = set(tokenizer.added_tokens_decoder)
    found: dict[int, bytes] = {}
    for piece, id in pieces.items():
        if id < layout.tokens.end_of_text:
            found[id] = piece.encode() if id in terms else bytes(letters[letter] for letter in piece)
    return [found[id] for id in range(layout.tokens.end_of_text)]


def _list_tensors(whisper: Whisper, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    for name, weight in whisper.network.state_dict().items():
        if name == "proj_out.weight" or is_addition(name):  # the projection is the embedding once more
            continue
        if name.endswith("embed_tokens.weight") and layout.fillers:
            weight = layout.spread(weight, compute_filler(whisper))
        yield rename(name), weight


def rename(name: str) -> str:
    """model.encoder.layers.0.fc1.weight -> encoder.blocks.0.mlp.0.weight"""
    name = name.removeprefix("model.")
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    return name


def compute_filler(whisper: Whisper) -> Float[Tensor, "width"]:
    """An embedding whose logit is -100 in every state, exactly.

    The decoder ends in a layer norm, h = g x + b with sum(x) = 0, so sum(h / g) = sum(b / g) whatever was heard: the
    row c / g has the logit c sum(b / g) in every state. It takes the place of a bias, which ggml's Whisper has not.

    Raises:
        InputError: sum(b / g) is too near 0 for float16, as in a model that has not learnt.
    """
    norm = whisper.network.model.decoder.layer_norm
    gain, bias = norm.weight.detach().double(), norm.bias.detach().double()
    constant = (bias / gain).sum()
    spread = (len(gain) + (bias / gain).square().sum()).sqrt()  # of the terms of the sum, x's included
    row = NEVER / constant / gain
    if not constant.abs() > 0.01 * spread or row.abs().max() > 6e4:
        raise InputError(
            "whisper.cpp: no embedding could be found that this model never writes, which the unused ids of a small "
            "vocabulary need. Export it with --to hf, --to ctranslate2 or --to onnx."
        )
    return row.float()


def _write_tensor(file: BinaryIO, name: str, weight: Tensor) -> None:
    values = weight.detach().float().cpu().numpy()
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        values = values[:, None]
    is_half = weight.ndim > 1 and not name.endswith(SINGLE)
    encoded = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(encoded), int(is_half)))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)))
    file.write(encoded + values.astype("<f2" if is_half else "<f4").tobytes())


class WhisperCpp:
    """whisper.cpp, through pywhispercpp."""

    def __init__(self, folder: Path):
        require(("pywhispercpp",), "with a ggml model")
        from pywhispercpp.model import Model  # type: ignore[import-not-found]

        self.name = name_version("pywhispercpp")
        # With flash attention, which is whisper.cpp's default, 8 of 62 transcripts of digits were others; without, 1.
        exact: Any = {"flash_attn": False}
        self.model: Any = Model(str(folder / FILE), redirect_whispercpp_logs_to=None, context_params=exact)
        settings = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None
        # whisper.cpp has lists of its own of what is not to be written, and can be told to look at them.
        self.suppressed = {
            "suppress_blank": bool(getattr(settings, "begin_suppress_tokens", True)),
            "suppress_nst": bool(getattr(settings, "suppress_tokens", False)),
        }

    def transcribe(self, waveform: Float[Tensor, "sample"], language: str, task: str, max_new_tokens: int) -> str:
        """See Runtime."""
        short = max(0, SHORTEST_SAMPLES - len(waveform))
        padded = torch.nn.functional.pad(waveform, (0, short))
        segments = self.model.transcribe(
            np.ascontiguousarray(padded.numpy(), dtype=np.float32),
            n_threads=torch.get_num_threads(),
            language=language,
            translate=task == "translate",
            no_timestamps=True,
            single_segment=True,
            no_context=True,
            max_tokens=max(1, max_new_tokens - 1),  # whisper.cpp writes one more; and 220 at most
            temperature=0.0,
            temperature_inc=0.0,
            **self.suppressed,
            print_progress=False,
            print_timestamps=False,
        )
        return "".join(segment.text for segment in segments).strip()


GGML = Format("ggml", ("float16",), (), ("pywhispercpp",), write, WhisperCpp, USAGE)
