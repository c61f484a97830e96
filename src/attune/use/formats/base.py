"""What a format is: how a Whisper is written in it, and the program that reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from jaxtyping import Float
from torch import Tensor
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from attune.errors import InputError
from attune.model.additions import REWARD, is_addition
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper


class Runtime(Protocol):
    """A program other than attune, with a model loaded into it."""

    name: str  # of the program, with its version

    def transcribe(self, waveform: Float[Tensor, "sample"], language: str, task: str, max_new_tokens: int) -> str:
        """What is said in one utterance of at most 30 s, decoded as a run scores: the likeliest token at every step,
        without timestamps, whatever the audio; in a window of 30 s.

        Args:
            waveform: mono, 16 kHz, in [-1, 1].
            language: Whisper's code; an English-only model does not look at it.
            task: transcribe or translate.
            max_new_tokens: beside what the decoder is given.
        """
        ...


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        title: what people call it, for sentences.
        dtypes: of the weights on disk that it knows; the first is the usual one.
        writes_with: packages that writing it takes, as pip names them.
        runs_with: packages that its program takes.
        write: whisper, folder (exists, empty), dtype -> None.
        open: a folder that holds a model of this format -> the program with the model in it.
        usage: how it is used, in Python, for the model's card; {folder} is its place.
    """

    title: str
    dtypes: tuple[str, ...]
    writes_with: tuple[str, ...]
    runs_with: tuple[str, ...]
    write: Callable[[Whisper, Path, str], None]
    open: Callable[[Path], Runtime]
    usage: str


def find_missing(packages: tuple[str, ...]) -> list[str]:
    """Those that are not installed."""
    return [name for name in packages if find_spec(name.replace("-", "_")) is None]


def require(packages: tuple[str, ...], purpose: str) -> None:
    """Raises InputError where one is not installed.

    Args:
        purpose: what they are needed for, as in "export --to ctranslate2".
    """
    if missing := find_missing(packages):
        raise InputError(
            f"attune {purpose} needs {', '.join(missing)}, which this Python has not. "
            "To install it: pip install 'attune[export]'"
        )


def name_version(package: str) -> str:
    """ "faster-whisper 1.2.1" """
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def refuse_additions(whisper: Whisper, title: str) -> None:
    """Raises InputError where a model has what a format of plain Whispers cannot hold, or its program cannot ask for.

    A reward head, on which no transcript depends, is left out of any format.
    """
    found = {name for name in whisper.network.state_dict() if is_addition(name) and not name.startswith(REWARD)}
    new = [code for code in whisper.tokens.languages if code not in LANGUAGES]
    reasons = {
        "parts that a plain Whisper has not (adapters, learned prompts or a CTC head)": bool(found),
        "a learned prompt, which must stand before every utterance": bool(whisper.tokens.soft_prompt),
        f"languages of its own ({', '.join(new)}), for which the program has no code": bool(new),
    }
    if faults := [reason for reason, holds in reasons.items() if holds]:
        raise InputError(
            f"{title} cannot hold this model: it has {' and '.join(faults)}. Export it with --to hf; or train with a "
            "type that merges into the weights, such as finetune=full or finetune=lora."
        )


def refuse_ctc(whisper: Whisper, title: str) -> None:
    """Raises InputError where transcripts come from a CTC head, which a format's program would not ask."""
    if find_writer(whisper.network) is not None:
        raise InputError(
            f"{title} has a decoder that writes, and this model's CTC head writes. Export it with --to hf."
        )
