"""CTranslate2: for faster-whisper, and all that is built on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.waveform import SAMPLE_RATE_HZ, WINDOW_S
from attune.model.save import list_alignment_heads
from attune.model.whisper import Whisper
from attune.use.formats.base import Format, name_version, refuse_additions, require
from attune.use.formats.layout import Layout, lay_out, save_front_end

TITLE = "CTranslate2"
WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
NEVER = -1e4  # the logit of a row that is no token; float16 holds it, and the softmax of it is 0
USAGE = """import numpy
from faster_whisper import WhisperModel, decode_audio  # pip install faster-whisper

waveform = decode_audio("speech.wav")
# Silence up to 30 s: faster-whisper would fill the window with zeros of log-mel, which are none.
waveform = numpy.pad(waveform, (0, max(0, 480_000 - len(waveform))))
segments, _ = WhisperModel("{folder}").transcribe(waveform, language="{language}", without_timestamps=True)
print("".join(segment.text for segment in segments))"""


def write(whisper: Whisper, folder: Path, dtype: str) -> None:
    """model.bin, config.json, vocabulary.json, and the tokenizer and front end that faster-whisper looks for.

    Raises:
        InputError: ctranslate2 is not installed, or the format cannot hold the model.
    """
    refuse_additions(whisper, TITLE)
    require(("ctranslate2",), "export --to ctranslate2")
    from ctranslate2.converters.transformers import WhisperLoader  # type: ignore[import-not-found]

    network, layout = whisper.network.eval(), lay_out(whisper, TITLE)
    spec: Any = WhisperLoader().get_model_spec(network)
    _lay_out_rows(spec, network, layout)
    spec.register_vocabulary(_list_tokens(layout, spec.get_vocabulary_size()))
    for name, value in _describe(whisper, layout).items():
        setattr(spec.config, name, value)
    spec.validate()
    spec.optimize(quantization=dtype)
    spec.save(str(folder))
    save_front_end(whisper, layout, folder)


def _lay_out_rows(spec: Any, network: Any, layout: Layout) -> None:
    """The rows of the embedding and of the projection, and a bias under which no filler is written."""
    if not layout.fillers:
        return
    embedding = network.model.decoder.embed_tokens.weight.detach()
    laid = layout.spread(embedding, torch.zeros(embedding.shape[1]))
    spec.decoder.embeddings.weight = laid
    spec.decoder.projection.weight = layout.spread(network.proj_out.weight.detach(), torch.zeros(laid.shape[1]))
    bias = torch.zeros(len(laid))
    bias[layout.text : layout.text + layout.fillers] = NEVER
    spec.decoder.projection.bias = bias


def _list_tokens(layout: Layout, size: int) -> list[str]:
    """Names in the order of their ids. Times, which some published tokenizers do not name, and rows behind them that
    no tokenizer knows, get the names that CTranslate2 gives them.

    OpenAI's multilingual vocabulary has an empty token in front of <|endoftext|>, and the English-only one has none:
    that is how CTranslate2 tells them apart, so the last filler is called so.
    """
    known = {id: token for token, id in layout.tokens.tokenizer.get_vocab().items()}
    first = layout.tokens.first_timestamp
    if layout.fillers and layout.tokens.is_multilingual:
        known[layout.tokens.end_of_text - 1] = ""
    return [known.get(id, f"<|{(id - first) * 0.02:.2f}|>") for id in range(size)]


def _describe(whisper: Whisper, layout: Layout) -> dict[str, Any]:
    """What CTranslate2's config.json says of a Whisper."""
    config = whisper.network.generation_config
    return {
        "suppress_ids": [layout.move(id) for id in getattr(config, "suppress_tokens", None) or []],
        "suppress_ids_begin": [layout.move(id) for id in getattr(config, "begin_suppress_tokens", None) or []],
        "lang_ids": sorted(layout.tokens.languages.values()),
        "alignment_heads": list_alignment_heads(whisper.network),
    }


class FasterWhisper:
    """faster-whisper, on a GPU where it finds one."""

    def __init__(self, folder: Path):
        require(("faster-whisper",), "with a CTranslate2 model")
        from faster_whisper import WhisperModel  # type: ignore[import-not-found]

        self.name = name_version("faster-whisper")
        self.model = WhisperModel(str(folder), local_files_only=True)
        self.suppressed = json.loads((folder / "config.json").read_text()).get("suppress_ids") or []

    def transcribe(self, waveform: Float[Tensor, "sample"], language: str, task: str, max_new_tokens: int) -> str:
        """See Runtime. A segment is heard once: no threshold sends it back, and silence is not cut out before.

        The utterance is padded to the window with silence, as all other programs do: faster-whisper by itself puts
        zeros into the log-mel, which is a loud noise and no silence. Models hear badly in it.
        """
        padded = torch.nn.functional.pad(waveform, (0, max(0, WINDOW_SAMPLES - len(waveform))))
        segments, _ = self.model.transcribe(
            np.ascontiguousarray(padded.numpy(), dtype=np.float32),
            language=language,
            task=task,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            suppress_tokens=list(self.suppressed),
            max_new_tokens=self._ask_for(max_new_tokens),
            vad_filter=False,
        )
        return "".join(segment.text for segment in segments).strip()

    def _ask_for(self, tokens: int) -> int:
        """CTranslate2 writes half as many as may stand in the decoder, prompt and all: 224 of 448 at most."""
        prompt = 4 if self.model.model.is_multilingual else 2
        return min(2 * tokens, self.model.max_length) - prompt


CTRANSLATE2 = Format(TITLE, ("float32", "float16"), ("ctranslate2",), ("faster-whisper",), write, FasterWhisper, USAGE)
