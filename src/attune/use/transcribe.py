"""A file and a model -> its transcript."""

from collections.abc import Callable, Iterator, Sequence

import torch

from attune.audio.tape import open_tape
from attune.audio.waveform import SAMPLE_RATE_HZ, WINDOW_S
from attune.data.vocabulary import CustomVocabulary
from attune.errors import InputError
from attune.model.bias import TermBias, make_bias
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper, complete_generation_config, load_tokens, load_whisper
from attune.text.normalise import spells_without_spaces
from attune.text.tokens import Segment, Tokens, UnknownLanguage
from attune.text.vocabulary import list_terms
from attune.use.attempts import Thresholds
from attune.use.listen import Listener
from attune.use.segments import walk
from attune.use.stretches import Recording, StretchListener
from attune.use.transcript import Transcript

BATCH = 8  # stretches at once
OnProgress = Callable[[float, float | None], None]


def transcribe(
    whisper: Whisper,
    file: str,
    language: str | None = None,
    task: str = "transcribe",
    timestamps: bool | None = None,
    thresholds: Thresholds | None = None,
    bias: TermBias | None = None,
    prompt: str | None = None,
    on_progress: OnProgress = lambda heard_s, duration_s: None,
    words: bool = False,
    longest_s: float = WINDOW_S,
) -> Transcript:
    """Hear one file, window after window. Of a file of any length a minute is in memory.

    Args:
        file: a path, or - for standard input.
        timestamps: None asks for them where the recording is longer than Whisper's window.
        bias, prompt: what a list of terms does (`read_list`).
        on_progress: is told the seconds heard, and the seconds in all where the file names them.
        words: whether segments are given the times of their words.
        longest_s: of a window, at most Whisper's; what is behind it is silence. For a model that was fine-tuned on
            short utterances and has forgotten longer ones.

    Raises:
        AudioError: the file is missing, empty or broken; the message is the reason.
    """
    with open_tape(file) as tape, torch.random.fork_rng():
        torch.manual_seed(0)  # higher temperatures draw tokens: the same file gives the same text
        timed = tape.goes_beyond(int(longest_s * SAMPLE_RATE_HZ)) if timestamps is None else timestamps
        listener = Listener(whisper, language, task, timed, thresholds, bias, prompt, words)
        segments = walk(tape, listener.hear, lambda heard_s: on_progress(heard_s, tape.duration_s), longest_s)
        duration_s = tape.known_samples / SAMPLE_RATE_HZ
    return Transcript(file, duration_s, listener.language, join_text(segments, task, listener.language), segments)


def transcribe_by_pauses(
    whisper: Whisper,
    files: Sequence[str],
    language: str | None = None,
    task: str = "transcribe",
    timestamps: bool = False,
    bias: TermBias | None = None,
    prompt: str | None = None,
    on_progress: Callable[[Recording], None] = lambda recording: None,
    words: bool = False,
    batch: int = BATCH,
    longest_s: float = WINDOW_S,
) -> Iterator[tuple[str, Transcript | Exception]]:
    """Hear files by their pauses, `batch` stretches of up to `longest_s` at once, also of several files.

    Yields:
        Each file, in order, and its transcript, or why there is none.
    """
    listener = StretchListener(whisper, task, timestamps, words, bias, prompt, batch, longest_s)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for recording in listener.hear_all(files, language, on_progress):
            text = join_text(recording.segments, task, recording.language)
            heard = Transcript(
                recording.file, recording.duration_s or 0.0, recording.language, text, recording.segments
            )
            yield recording.file, recording.fault or heard


def join_text(segments: Sequence[Segment], task: str, language: str | None) -> str:
    """What was said in all segments."""
    spaced = task == "translate" or not spells_without_spaces(language)
    return (" " if spaced else "").join(segment.text for segment in segments)


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
    except UnknownLanguage as error:
        raise InputError(f"--language={language}: {error.fault} Or leave it out: it is detected then.") from None
