"""The formats by name, and which of them a folder holds."""

from pathlib import Path

from attune.use.formats.base import Format
from attune.use.formats.ctranslate2 import CTRANSLATE2
from attune.use.formats.ggml import FILE, GGML
from attune.use.formats.hf import HF
from attune.use.formats.onnx import ONNX

FORMATS: dict[str, Format] = {"hf": HF, "ctranslate2": CTRANSLATE2, "ggml": GGML, "onnx": ONNX}
KNOWN_BY = {"ctranslate2": "model.bin", "ggml": FILE, "onnx": "decoder.onnx"}  # a file that no other format has


def find_format(folder: Path) -> Format | None:
    """The format of a folder that train.py does not read; None for all others."""
    return next((FORMATS[name] for name, file in KNOWN_BY.items() if (folder / file).is_file()), None)
