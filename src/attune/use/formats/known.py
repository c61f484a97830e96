"""Which folders hold a model that train.py does not read."""

from pathlib import Path

KNOWN_BY = {"ctranslate2": "model.bin", "ggml": "ggml-model.bin", "onnx": "decoder.onnx"}  # files no other format has


def find_format(folder: Path) -> str | None:
    """ctranslate2, ggml or onnx; None for every other folder, and for what is none."""
    return next((name for name, file in KNOWN_BY.items() if (folder / file).is_file()), None)
