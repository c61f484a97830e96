"""Load a Whisper; run it at any audio context; the names by which its parts are addressed."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_session, snapshot_download
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.utils.hub import cached_file

from attune.audio.log_mel import LogMel
from attune.audio.waveform import SAMPLES_PER_POSITION, WINDOW_POSITIONS
from attune.errors import InputError
from attune.model.additions import WEIGHTS, load_additions
from attune.model.attention import change_attention
from attune.model.silence import Spread, split_states, spread_silence
from attune.text.tokens import Tokens

FILES = ("config.json", "model.safetensors", "generation_config.json", "tokenizer.json or vocab.json")
NANO = "nano"  # the embedded model; any other name is a folder or a name on the hub
NANO_FOLDER = Path(__file__).parents[1] / "assets" / "nano"
HUB_PATIENCE_S = 5  # the hub's library would try six times for every file, a minute and more


class Whisper(nn.Module):
    """A Whisper that listens to waveforms, at any audio context.

    Args:
        network: transformers' model. Fine-tuning types change it in place; its parts keep transformers' names, such as
            `model.encoder.layers.0.self_attn.q_proj`.
        tokens: its tokenizer.
    """

    def __init__(self, network: WhisperForConditionalGeneration, tokens: Tokens):
        super().__init__()
        self.network = network
        self.tokens = tokens
        self.log_mel = LogMel(network.config.num_mel_bins)
        self._recalled: tuple[Tensor, Tensor] | None = None
        change_attention(network)
        layer: Any
        for layer in (*network.model.encoder.layers, *network.model.decoder.layers):
            layer.self_attn_layer_norm.register_forward_hook(_narrow_output)

    def encode(self, waveform: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch position told"]:
        """Waveforms of positions * 320 samples -> encoder states. At 1500 of them, as transformers' bit for bit.

        States of a shorter window have one number more behind their width: the logarithm of how many positions of 30 s
        each stands for, which attention to them needs (model/silence.py). So it goes wherever they go.
        """
        if self._recalled is not None and waveform is self._recalled[0]:
            return self._recalled[1]
        is_whole = waveform.shape[1] == WINDOW_POSITIONS * SAMPLES_PER_POSITION
        return encode(self.network, self.log_mel(waveform), None if is_whole else spread_silence(waveform))

    @contextmanager
    def recalling(
        self, waveform: Float[Tensor, "batch sample"], states: Float[Tensor, "batch position told"] | None
    ) -> Iterator[None]:
        """For as long as the context lasts, `encode` of this very waveform answers with states that were stored; None
        stores nothing. Any other waveform is encoded."""
        self._recalled = None if states is None else (waveform, states.float())
        try:
            yield
        finally:
            self._recalled = None

    def decode(
        self, states: Float[Tensor, "batch position told"], decoder_input_ids: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token width"]:
        """Teacher-forced decoder states; `project` makes logits of the positions that are needed."""
        heard, silence = split_states(narrow(states), self.network.config.d_model)
        return self.network.model.decoder(
            input_ids=decoder_input_ids, encoder_hidden_states=heard, silence=silence, use_cache=False
        ).last_hidden_state

    def project(self, hidden: Float[Tensor, "*position width"]) -> Float[Tensor, "*position vocabulary"]:
        """Decoder states -> logits over the vocabulary.

        Of OpenAI's vocabularies two have an odd size, for which a GPU's product of 16-bit matrices takes four times as
        long: there the matrix is filled up to a multiple of 8 while it learns.
        """
        layer = self.network.proj_out
        missing = -layer.weight.shape[0] % 8 if type(layer) is nn.Linear else 0
        if not (missing and hidden.is_cuda and torch.is_grad_enabled()):
            return layer(hidden)
        weight = nn.functional.pad(narrow(layer.weight), (0, 0, 0, missing))
        return nn.functional.linear(hidden, weight)[..., :-missing]


def narrow(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """In the precision of autocast, where it is on: once, for all linear layers that share this input. Each of them
    would make, and keep for its backward pass, a copy of its own."""
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tensor


def _narrow_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A forward hook: query, key and value are made of the same norm."""
    return narrow(output)


def encode(
    network: WhisperForConditionalGeneration, log_mel: Float[Tensor, "batch mel frame"], spread: Spread | None = None
) -> Float[Tensor, "batch position told"]:
    """transformers' Whisper encoder without its demand for 3000 frames: position = frame / 2 <= 1500.

    Args:
        spread: where the positions stand in 30 s and, for that is told behind the states, how many each stands for;
            None: the positional embedding is cut to the window.
    """
    encoder = network.model.encoder
    hidden = nn.functional.gelu(encoder.conv1(log_mel))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    places = slice(hidden.shape[1]) if spread is None else spread.places
    hidden = hidden + encoder.embed_positions.weight[places]
    hidden = nn.functional.dropout(hidden, p=encoder.dropout, training=encoder.training)
    # Every sum that follows has the strides of this one: left in columns, each norm would copy what it is given.
    hidden = hidden.contiguous()
    mask = None if spread is None else narrow(spread.log_counts)[:, None, None]
    for layer in encoder.layers:
        if not _is_dropped(encoder):
            hidden = layer(hidden, mask)
    states = encoder.layer_norm(hidden)
    return states if spread is None else torch.cat([states, spread.log_counts[..., None].to(states.dtype)], dim=-1)


def _is_dropped(encoder: nn.Module) -> bool:
    """LayerDrop, as in transformers; every published Whisper has it at 0."""
    share = float(encoder.layerdrop)  # type: ignore[arg-type]
    return encoder.training and share > 0 and bool(torch.rand([]) < share)


def load_tokens(name_or_path: str) -> Tokens:
    """The tokenizer of a Whisper folder or hub name: cheap, so that data can be checked before weights are loaded.

    Raises:
        InputError: there is no Whisper at that place; the message says what is missing.
    """
    source = locate(name_or_path)
    try:
        tokenizer = WhisperTokenizer.from_pretrained(source)
        config = WhisperConfig.from_pretrained(source)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _unreadable(name_or_path, error) from None
    return Tokens(tokenizer, is_multilingual(source, config), config.max_target_positions)


def load_whisper(name_or_path: str, tokens: Tokens) -> Whisper:
    """Weights in fp32 from a folder or the hub, adapters that attune saved beside them included; safetensors only.

    Nothing that lies there is executed, `load_whisper.py` neither.

    Raises:
        InputError: there is no Whisper at that place, or its weights are not safetensors.
    """
    source = locate(name_or_path)
    try:
        network = WhisperForConditionalGeneration.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, attn_implementation="sdpa"
        )
        added = cached_file(
            source, WEIGHTS, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if added is not None:
            load_additions(network, added)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(name_or_path, error) from None
    if network.generation_config is not None:
        network.generation_config.forced_decoder_ids = None  # type: ignore[attr-defined]
    # transformers hands over a model in evaluation mode, in which an adapter's dropout would stay off; Lightning keeps
    # it so.
    return Whisper(network.train(), tokens)


def complete_generation_config(config: GenerationConfig | None, tokens: Tokens) -> GenerationConfig:
    """A model's own generation config, and what `generate` needs of Whisper where it is missing."""
    config = config or GenerationConfig()
    needed = {
        "is_multilingual": tokens.is_multilingual,
        "no_timestamps_token_id": tokens.no_timestamps,
        "prev_sot_token_id": tokens.start_of_prompt,
        "max_length": tokens.max_tokens,
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
        "return_timestamps": False,
        "max_initial_timestamp_index": 50,  # 1 s: the first segment starts soon
        "decoder_start_token_id": tokens.start,
        "bos_token_id": tokens.end_of_text,
        "eos_token_id": tokens.end_of_text,
        "pad_token_id": tokens.end_of_text,
    }
    if tokens.is_multilingual:  # with these an English-only Whisper would be given a language token, which ruins it
        needed["lang_to_id"] = {f"<|{code}|>": index for code, index in tokens.languages.items()}
        needed["task_to_id"] = dict(tokens.tasks)
    for name, value in needed.items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
    config.forced_decoder_ids = None  # type: ignore[attr-defined]
    return config


def locate(name_or_path: str) -> str:
    """A model's name -> what transformers can load: nano's folder, a folder, a run's model, or a name on the hub.

    Raises:
        InputError: there is no such folder, it holds no Whisper, or the hub cannot be reached.
    """
    if name_or_path == NANO:
        return str(NANO_FOLDER)
    name_or_path = find_model(name_or_path)
    path = Path(name_or_path)
    looks_like_path = path.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") != 1
    if path.is_dir():
        _check_folder(path)
    elif looks_like_path or path.exists():
        raise InputError(
            f"model.name_or_path: there is no folder {name_or_path}. A model folder holds {', '.join(FILES)}."
        )
    else:
        return _find_on_hub(name_or_path)
    return name_or_path


def find_model(run_or_model: str) -> str:
    """A run folder -> the model in it; any other name stays.

    Raises:
        InputError: the run has not finished, so that there is no model in it.
    """
    folder = Path(run_or_model)
    if not (folder / "run.json").is_file() or (folder / "config.json").is_file():
        return run_or_model
    if not (folder / "model" / "config.json").is_file():
        raise InputError(
            f"{folder} is a run without a model: it has not finished, or it failed (see its run.json). "
            f"Go on with it: python train.py resume={folder}"
        )
    return str(folder / "model")


@cache
def _find_on_hub(name: str) -> str:
    """The name where the hub answers; the folder of an earlier download where it does not."""
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_PATIENCE_S)
        return name
    except Exception as error:  # of whichever client the hub's library uses; offline mode is one of them
        try:
            return snapshot_download(name, local_files_only=True)
        except (OSError, ValueError):
            raise InputError(
                f"model.name_or_path={name}: the hub at {constants.ENDPOINT} cannot be reached ({error}), and no "
                f"earlier download of {name} lies in {constants.HF_HUB_CACHE}. Give a folder that holds "
                f"{', '.join(FILES)}, or 'nano', which needs no network."
            ) from None


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(
            f"model.name_or_path: {folder} is no model folder: it has no config.json. It must hold {', '.join(FILES)}."
        )
    try:
        kind = json.loads(config.read_text()).get("model_type")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
        raise InputError(f"model.name_or_path: {config} is not JSON.") from None
    if kind != "whisper":
        raise InputError(f"model.name_or_path: {folder} holds a {kind!r} model; attune fine-tunes 'whisper' ones.")


def is_multilingual(source: str, config: WhisperConfig) -> bool:
    """What generation_config.json says; English-only Whispers without one have the odd vocabulary of 51864."""
    try:
        declared = getattr(GenerationConfig.from_pretrained(source), "is_multilingual", None)
    except OSError:
        declared = None
    return config.vocab_size != 51864 if declared is None else bool(declared)


def _unreadable(name_or_path: str, error: Exception) -> InputError:
    logging.getLogger(__name__).debug("loading %s", name_or_path, exc_info=error)
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(
        f"model.name_or_path={name_or_path}: no Whisper could be loaded from there: {first}\n"
        f"Give a folder that holds {', '.join(FILES)}, or a hub name such as openai/whisper-small (needs the network)."
    )
