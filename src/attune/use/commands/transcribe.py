"""attune transcribe: write down what is said."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.errors import InputError

if TYPE_CHECKING:
    from attune.use.transcript import Transcript

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
MADE_OF_TIMES = {"srt", "vtt"}
WITH_TIMES = {"json", *MADE_OF_TIMES}
Outputs = dict[str, dict[str, Path | None]]  # of each audio file: format -> where it is written, None for stdout


def add_transcribe(commands: Any) -> None:
    """attune transcribe RUN_OR_MODEL FILE..."""
    summary = "write down what is said in audio files of any length"
    parser = commands.add_parser(
        "transcribe",
        help=summary,
        description=f"{summary.capitalize()}. Files are wav, flac, ogg, opus, mp3, aiff or au, at any sampling rate.",
        epilog="Exit code: 0, 1 where a file could not be read or written (the others are done), 2 for bad input.",
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model folder, a hub name, or 'nano'")
    parser.add_argument("files", metavar="FILE", nargs="+", help="an audio file")
    parser.add_argument("--language", help="a code or an English name: en, Swahili (default: detected in each file)")
    parser.add_argument(
        "--task", choices=["transcribe", "translate"], default="transcribe", help="translate: to English"
    )
    parser.add_argument(
        "--format",
        action="extend",
        type=_formats,
        metavar="NAMES",
        help=f"of {', '.join(SUFFIXES)}; repeat or use commas",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="write every format here (default: text to stdout, with several files behind the file's name and a tab; "
        "the others beside the audio file, talk.mp3 -> talk.srt)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")
    parser.add_argument(
        "--timestamps",
        action=argparse.BooleanOptionalAction,
        help="let the decoder write times (default: for json, srt and vtt, and for audio above 30 s, which it then "
        "follows from time to time; without them long audio is cut at quiet moments)",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="terms to listen for: a text with a term a line, or a table or YAML as for vocabulary=file of train.py",
    )
    parser.add_argument(
        "--vocabulary-bias",
        type=float,
        default=1.0,
        metavar="NATS",
        help="what each token of a term gains; 0 for none (default: 1; train.py finds the best on validation)",
    )
    parser.add_argument(
        "--vocabulary-prompt", action="store_true", help="also name the terms, as many as fit, before every window"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.set_defaults(run=run_transcribe)


def run_transcribe(arguments: argparse.Namespace) -> int:
    """Transcribe each file; a file that fails is named on stderr and the others go on."""
    formats = list(dict.fromkeys(arguments.format or ["text"]))
    timestamps = choose_timestamps(formats, arguments.timestamps)
    outputs = plan_outputs(arguments.files, formats, arguments.output_dir, arguments.overwrite)

    from transformers.utils import logging

    from attune.audio.waveform import AudioError
    from attune.use.transcribe import check_language, load_listening, read_list, transcribe

    logging.disable_progress_bar()
    whisper = load_listening(arguments.model, arguments.device)
    language = check_language(whisper.tokens, arguments.language, arguments.task)
    terms = arguments.vocabulary, arguments.vocabulary_bias, arguments.vocabulary_prompt
    bias, prompt = read_list(whisper, *terms) if arguments.vocabulary else (None, None)
    logging.set_verbosity_error()  # after loading: its `generate` warns of a call inside itself, between our lines
    failed = 0
    for file in arguments.files:
        try:
            with show_progress(file) as on_progress:
                transcript = transcribe(
                    whisper, file, language, arguments.task, timestamps, None, bias, prompt, on_progress
                )
            write_outputs(transcript, outputs[file], len(arguments.files) > 1, arguments.overwrite)
        except (AudioError, OSError) as error:
            failed += 1
            print(f"attune: {file}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _formats(names: str) -> list[str]:
    chosen = [name.strip().lower() for name in names.split(",")]
    unknown = [name for name in chosen if name not in SUFFIXES]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no format {unknown[0]!r}; accepted: {', '.join(SUFFIXES)}")
    return chosen


def choose_timestamps(formats: Sequence[str], asked: bool | None) -> bool | None:
    """Whether the decoder writes times; None leaves it to the length of the recording."""
    impossible = MADE_OF_TIMES.intersection(formats)
    if asked is False and impossible:
        raise InputError(
            f"--no-timestamps with --format {','.join(sorted(impossible))}: subtitles are made of times. Leave one of "
            "the two out, or ask for text or json."
        )
    return True if asked is None and WITH_TIMES.intersection(formats) else asked


def plan_outputs(files: Sequence[str], formats: Sequence[str], folder: Path | None, overwrite: bool) -> Outputs:
    """Where everything will be written, refused before a model is loaded.

    Raises:
        InputError: a file exists and `overwrite` is False, or two results would have one name.
    """
    outputs: Outputs = {}
    writers: dict[Path, str] = {}
    for file in dict.fromkeys(files):
        outputs[file] = {name: _place(Path(file), name, folder) for name in formats}
        for path in (path for path in outputs[file].values() if path is not None):
            other = writers.setdefault(path.resolve(), file)
            if other != file:
                raise InputError(f"{other} and {file} would both be written to {path}. Use two commands.")
            if path.exists() and not overwrite:
                raise InputError(f"{path} exists. Add --overwrite to replace it, or choose another --output-dir.")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"--output-dir={folder} is a file. Give a folder; it is made where it does not exist.")
    return outputs


def _place(file: Path, name: str, folder: Path | None) -> Path | None:
    if folder is None and name == "text":
        return None
    return (folder or file.parent) / f"{file.stem}{SUFFIXES[name]}"


def write_outputs(transcript: "Transcript", paths: dict[str, Path | None], named: bool, overwrite: bool) -> None:
    """Write every format of one transcript; on stdout `named` puts the file's name and a tab before the text."""
    from attune.use.transcript import FORMATS

    for name, path in paths.items():
        content = FORMATS[name](transcript)
        if path is None:
            print(f"{transcript.file}\t{content}" if named else content, end="", flush=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if overwrite else "x", encoding="utf-8") as stream:
            stream.write(content)


@contextmanager
def show_progress(file: str) -> Iterator[Callable[[float, float], None]]:
    """A line on stderr while a file is heard, if stderr is a terminal; it leaves nothing behind."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[heard]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(Path(file).name, total=None, heard="")

        def update(heard_s: float, duration_s: float) -> None:
            heard = f"{heard_s / 60:.1f} of {duration_s / 60:.1f} min"
            progress.update(task, completed=heard_s, total=duration_s, heard=heard)

        yield update
