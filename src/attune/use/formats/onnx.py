"""ONNX: for onnxruntime, with a loader that needs neither torch nor transformers."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from attune.audio.waveform import FRAMES_PER_S, WINDOW_S
from attune.model.additions import PROMPT
from attune.model.whisper import Whisper, encode
from attune.use.formats import onnx_loader
from attune.use.formats.base import Format, name_version, refuse_ctc, require
from attune.use.formats.layout import Layout, save_front_end
from attune.use.formats.onnx_loader import OnnxWhisper

TITLE, LOADER, OPSET = "ONNX", "transcribe_onnx.py", 17
Attention = Float[Tensor, "block batch head position head_width"]
USAGE = """import sys

import soundfile  # pip install numpy onnxruntime tokenizers soundfile

sys.path.insert(0, "{folder}")
from transcribe_onnx import OnnxWhisper  # of this folder

waveform, rate_hz = soundfile.read("speech.wav", dtype="float32")  # mono, 16 kHz, at most 30 s
print(OnnxWhisper("{folder}").transcribe(waveform, "{language}"))"""


class Hearing(nn.Module):
    """Log-mel -> the keys and values of every block's cross-attention."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, log_mel: Float[Tensor, "batch mel frame"]) -> tuple[Attention, Attention]:
        states = encode(self.network, log_mel)
        attentions = [layer.encoder_attn for layer in self.network.model.decoder.layers]
        keys = [split_heads(each, each.k_proj(states)) for each in attentions]
        values = [split_heads(each, each.v_proj(states)) for each in attentions]
        return torch.stack(keys), torch.stack(values)


class Writing(nn.Module):
    """Tokens, and what is known of the sound and of the tokens before them -> logits of the next one.

    transformers' decoder with its cache as plain tensors. Its parts are called, not copied, so that adapters and
    prompts, which hang on them, are heard.
    """

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(
        self,
        ids: Int[Tensor, "batch token"],
        keys: Attention,
        values: Attention,
        cross_keys: Attention,
        cross_values: Attention,
    ) -> tuple[Float[Tensor, "batch vocabulary"], Attention, Attention]:
        decoder = self.network.model.decoder
        past, new = keys.shape[3], ids.shape[1]
        places = torch.arange(past + new)
        mask = places[None, :] <= places[past:, None]
        hidden = decoder.embed_tokens(ids) + decoder.embed_positions.weight[past : past + new]
        found: list[tuple[Tensor, Tensor]] = []
        for index, layer in enumerate(decoder.layers):
            normed = layer.self_attn_layer_norm(hidden)
            found.append(self._remember(layer.self_attn, normed, keys[index], values[index]))
            hidden = hidden + attend(layer.self_attn, normed, *found[-1], mask)
            normed = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + attend(layer.encoder_attn, normed, cross_keys[index], cross_values[index])
            hidden = hidden + layer.fc2(gelu(layer.fc1(layer.final_layer_norm(hidden))))
        logits = self.network.proj_out(decoder.layer_norm(hidden)[:, -1])
        return logits, torch.stack([key for key, _ in found]), torch.stack([value for _, value in found])

    @staticmethod
    def _remember(attention: Any, states: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        new = split_heads(attention, attention.k_proj(states)), split_heads(attention, attention.v_proj(states))
        return torch.cat([keys, new[0]], dim=2), torch.cat([values, new[1]], dim=2)


def split_heads(attention: Any, states: Float[Tensor, "batch position width"]) -> Tensor:
    """(batch, head, position, head_width)"""
    return states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)


def attend(attention: Any, states: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """An attention's output, with its learned prompt where it has one."""
    queries = split_heads(attention, attention.q_proj(states))
    heard = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    output = attention.out_proj(heard.transpose(1, 2).flatten(2))
    return output + getattr(attention, PROMPT)(attention, states) if hasattr(attention, PROMPT) else output


def write(whisper: Whisper, folder: Path, dtype: str) -> None:
    """encoder.onnx, decoder.onnx, what the loader needs beside them, and the loader.

    Raises:
        InputError: a CTC head writes.
    """
    refuse_ctc(whisper, TITLE)
    require(("onnx",), "export --to onnx")
    whisper = whisper.eval().float()
    config = whisper.network.config
    log_mel = torch.zeros(1, config.num_mel_bins, int(WINDOW_S * FRAMES_PER_S))
    with torch.no_grad():
        crossed = Hearing(whisper.network)(log_mel)
        past = crossed[0][..., :2, :]
        _trace(
            Hearing(whisper.network), (log_mel,), folder / "encoder.onnx", ["log_mel"], ["cross_keys", "cross_values"]
        )
        fed = torch.zeros(1, 3, dtype=torch.long), past, past, *crossed
        names = ["ids", "keys", "values", "cross_keys", "cross_values"]
        _trace(Writing(whisper.network), fed, folder / "decoder.onnx", names, ["logits", "new_keys", "new_values"])
    np.save(folder / "mel_filters.npy", whisper.log_mel.filters.numpy())
    (folder / "decoding.json").write_text(json.dumps(_list_ids(whisper)))
    save_front_end(whisper, Layout(whisper.tokens, whisper.tokens.end_of_text, 0), folder)
    shutil.copyfile(onnx_loader.__file__, folder / LOADER)


AXES = {
    "log_mel": {0: "batch"},
    "ids": {0: "batch", 1: "token"},
    "logits": {0: "batch"},
    "keys": {1: "batch", 3: "past"},
    "values": {1: "batch", 3: "past"},
    "new_keys": {1: "batch", 3: "past_and_token"},
    "new_values": {1: "batch", 3: "past_and_token"},
    "cross_keys": {1: "batch"},
    "cross_values": {1: "batch"},
}


def _trace(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, names: list[str], results: list[str]) -> None:
    # The tracer, and not the newer exporter, which takes onnxscript and stumbles over hooks: our graphs have no
    # branches, and all lengths that vary are read from shapes.
    axes = {name: AXES[name] for name in (*names, *results)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer's age, and of shapes that are constants here on purpose
        torch.onnx.export(
            module,
            inputs,
            str(path),
            input_names=names,
            output_names=results,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _list_ids(whisper: Whisper) -> dict[str, Any]:
    """What the loader must know of the tokens."""
    tokens, config = whisper.tokens, whisper.network.generation_config
    return {
        "start": tokens.start,
        "end": tokens.end_of_text,
        "no_timestamps": tokens.no_timestamps,
        "languages": tokens.languages if tokens.is_multilingual else {},
        "tasks": tokens.tasks,
        "prompt": tokens.prompt(None, room=tokens.max_tokens),
        "max_tokens": tokens.max_tokens,
        "suppress": list(getattr(config, "suppress_tokens", None) or []),
        "begin_suppress": list(getattr(config, "begin_suppress_tokens", None) or []),
    }


class OnnxRuntime:
    """onnxruntime, through the loader that lies in the folder."""

    def __init__(self, folder: Path):
        require(("onnxruntime",), "with an ONNX model")
        self.name = name_version("onnxruntime")
        self.model = OnnxWhisper(folder)

    def transcribe(self, waveform: Float[Tensor, "sample"], language: str, task: str, max_new_tokens: int) -> str:
        """See Runtime."""
        return self.model.transcribe(waveform.numpy(), language, task, max_new_tokens)


ONNX = Format(TITLE, ("float32",), ("onnx",), ("onnxruntime", "tokenizers"), write, OnnxRuntime, USAGE)
