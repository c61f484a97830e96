"""Hugging Face: the folder that attune writes itself, in transformers' own pipeline."""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.model.additions import WEIGHTS, load
from attune.model.save import save_whisper
from attune.model.whisper import Whisper, load_tokens
from attune.use.formats.base import Format, name_version

USAGE = """import soundfile
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", "{folder}")
waveform, rate_hz = soundfile.read("speech.wav", dtype="float32")  # mono
heard = {{"raw": waveform, "sampling_rate": rate_hz}}
print(recognise(heard, generate_kwargs={{"language": "{language}"}})["text"])"""


class Pipeline:
    """transformers' pipeline; with what attune has added, where there is something."""

    def __init__(self, folder: Path):
        from transformers import pipeline

        self.name = name_version("transformers")
        model = load(str(folder)) if (folder / WEIGHTS).is_file() else str(folder)
        self.tokens = load_tokens(str(folder))
        parts = {"tokenizer": str(folder), "feature_extractor": str(folder)}
        self.recognise: Any = pipeline("automatic-speech-recognition", model=model, **parts)  # type: ignore[call-overload]

    def transcribe(self, waveform: Float[Tensor, "sample"], language: str, task: str, max_new_tokens: int) -> str:
        """See Runtime."""
        settings: dict[str, Any] = {"num_beams": 1, "do_sample": False, "max_new_tokens": max_new_tokens}
        if self.tokens.is_multilingual:
            settings |= {"language": f"<|{language}|>", "task": task}
        if self.tokens.soft_prompt:
            prompt = self.tokens.prompt(None, room=self.tokens.max_tokens)
            settings["prompt_ids"] = waveform.new_tensor(prompt).long()
        heard = {"raw": waveform.numpy(), "sampling_rate": SAMPLE_RATE_HZ}
        return self.recognise(heard, generate_kwargs=settings)["text"].strip()


def write(whisper: Whisper, folder: Path, dtype: str) -> None:
    """The folder that load_whisper reads; the weights in safetensors."""
    import torch

    save_whisper(whisper, folder, getattr(torch, dtype))


HF = Format("Hugging Face", ("float32", "float16"), (), ("transformers",), write, Pipeline, USAGE)
