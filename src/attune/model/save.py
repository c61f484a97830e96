"""A Whisper -> a folder that plain transformers loads: safetensors, config, generation config, tokenizer, front end."""

from pathlib import Path

import torch
from transformers import WhisperFeatureExtractor

from attune.model.whisper import Whisper, complete_generation_config


def save_whisper(whisper: Whisper, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write everything that `pipeline("automatic-speech-recognition", folder)` needs.

    Args:
        folder: is made; files in it are replaced.
        dtype: of the weights on disk. float16 halves a model whose weights all lie far below 65504.
    """
    network = whisper.network
    network.generation_config = complete_generation_config(network.generation_config, whisper.tokens)
    weights = network.state_dict()
    cast = {tensor.data_ptr(): tensor.to(dtype) for tensor in weights.values()}  # tied weights stay one on disk
    state = {name: cast[tensor.data_ptr()] for name, tensor in weights.items()}
    network.save_pretrained(folder, state_dict=state, safe_serialization=True)
    whisper.tokens.tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=network.config.num_mel_bins).save_pretrained(folder)
