"""A file and a model -> its transcript."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from attune.audio.waveform import SAMPLE_RATE_HZ, SHORTEST_S, WINDOW_S, AudioError, load_waveform
from attune.data.vocabulary import CustomVocabulary
from attune.errors import InputError
from attune.model.bias import TermBias, make_bias
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper, complete_generation_config, load_tokens, load_whisper
from attune.text.normalise import spells_without_spaces
from attune.text.tokens import Tokens
from attune.text.vocabulary import list_terms
from attune.use.listen import Listener, Thresholds, walk
from attune.use.transcript import Transcript

BLOCK_S = 60  # of a file that are decoded at once: an hour of 48 kHz stereo is 1.4 GB, at 16 kHz in mono 0.23 GB
EDGE_S = 1  # more than resampling looks ahead or back, so that blocks join without a seam


def transcribe(
    whisper: Whisper,
    file: str,
    language: str | None = None,
    task: str = "transcribe",
    timestamps: bool | None = None,
    thresholds: Thresholds | None = None,
    bias: TermBias | None = None,
    prompt: str | None = None,
    on_progress: Callable[[float, float], None] = lambda heard_s, duration_s: None,
) -> Transcript:
    """Hear one file.

    Args:
        timestamps: None asks for them where the recording is longer than Whisper's window.
        bias, prompt: what a list of terms does (`read_list`).
        on_progress: is told the seconds heard and the seconds in all.

    Raises:
        AudioError: the file is missing, empty or broken; the message is the reason.
    """
    waveform = load_recording(file)
    duration_s = len(waveform) / SAMPLE_RATE_HZ
    timed = duration_s > WINDOW_S if timestamps is None else timestamps
    listener = Listener(whisper, language, task, timed, thresholds, bias, prompt)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # higher temperatures draw tokens: the same file gives the same text
        segments = walk(waveform, listener.hear, lambda heard_s: on_progress(heard_s, duration_s))
    spaced = task == "translate" or not spells_without_spaces(listener.language)
    text = (" " if spaced else "").join(segment.text for segment in segments)
    return Transcript(file, duration_s, listener.language, text, segments)


def load_recording(file: str) -> Float[Tensor, "sample"]:
    """A file of any length at 16 kHz, decoded in blocks: 0.23 GB an hour; 0.9 GB while they are joined."""
    blocks, start_s = [], 0
    while not blocks or len(blocks[-1]) == BLOCK_S * SAMPLE_RATE_HZ:
        lead_s = min(start_s, EDGE_S)
        block = load_waveform(file, start_s - lead_s, start_s + BLOCK_S + EDGE_S)
        blocks.append(block[lead_s * SAMPLE_RATE_HZ : (lead_s + BLOCK_S) * SAMPLE_RATE_HZ])
        start_s += BLOCK_S
    waveform = torch.cat(blocks)
    if len(waveform) < SHORTEST_S * SAMPLE_RATE_HZ:
        raise AudioError(f"empty: {len(waveform) / SAMPLE_RATE_HZ:.3f} s of audio")
    if not torch.isfinite(waveform).all():
        raise AudioError("not finite: the samples hold NaN or infinity")
    return waveform


def load_listening(run_or_model: str, device: str) -> Whisper:
    """A Whisper that is ready to listen.

    Args:
        run_or_model: a run folder, a model folder, a hub name, or 'nano'.
        device: auto, cpu or cuda.

    Raises:
        InputError: there is no such model or device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device=cuda: torch sees no CUDA device here. Accepted: auto, cpu, cuda.")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        whisper = load_whisper(run_or_model, load_tokens(run_or_model)).eval().to(chosen)
    except InputError as error:  # it names the key of train.py's config, which is not what was typed here
        raise InputError(str(error).replace("model.name_or_path", "RUN_OR_MODEL")) from None
    network, tokens = whisper.network, whisper.tokens
    network.generation_config = complete_generation_config(network.generation_config, tokens)
    return whisper


def read_list(whisper: Whisper, file: str, weight: float, prompts: bool) -> tuple[TermBias | None, str | None]:
    """A list of terms -> the bias of decoding towards them, and a prompt with as many of them as it has room for.

    Args:
        weight: nats that each token of a term gains; 0 is no bias.
        prompts: whether there is to be a prompt.

    Raises:
        InputError: the list is wrong, or a CTC head writes, which neither helps.
    """
    if find_writer(whisper.network) is not None:
        raise InputError(f"--vocabulary={file}: this model writes by its CTC head, and only a decoder can be helped.")
    try:
        vocabulary = CustomVocabulary(file, bias=weight)
        bias = make_bias(whisper, vocabulary.terms, weight)
    except InputError as error:  # it names the keys of train.py's config
        message = str(error).replace("vocabulary.file", "--vocabulary").replace("vocabulary.bias", "--vocabulary-bias")
        raise InputError(message.replace("take vocabulary=none", "leave --vocabulary out")) from None
    fitting = vocabulary.fit((term.spelling for term in vocabulary.terms), whisper.tokens) if prompts else []
    return bias if weight else None, list_terms(fitting) or None


def check_language(tokens: Tokens, language: str | None, task: str) -> str | None:
    """A language's code, if the model can be asked for it and for the task.

    Raises:
        InputError: the model is English-only, or knows no such language.
    """
    if not tokens.is_multilingual and (task == "translate" or (language and language.lower() not in ("en", "english"))):
        raise InputError("This Whisper is English-only: it takes --language=en and --task=transcribe, no others.")
    try:
        return tokens.language_code(language) if language and tokens.is_multilingual else language
    except InputError as error:
        raise InputError(f"--language={language}: {error}") from None
