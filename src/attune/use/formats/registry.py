"""The formats by name."""

from attune.use.formats.base import Format
from attune.use.formats.ctranslate2 import CTRANSLATE2
from attune.use.formats.ggml import GGML
from attune.use.formats.hf import HF
from attune.use.formats.onnx import ONNX

FORMATS: dict[str, Format] = {"hf": HF, "ctranslate2": CTRANSLATE2, "ggml": GGML, "onnx": ONNX}
