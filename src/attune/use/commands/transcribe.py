"""attune transcribe: write down what is said."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from attune.use.transcript import Transcript

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
MADE_OF_TIMES = {"srt", "vtt"}
WITH_TIMES = {"json", *MADE_OF_TIMES}
STANDARD_INPUT = "-"
BATCH, LONGEST_S = 8, 30.0
Outputs = dict[str, dict[str, Path | None]]  # of each audio file: format -> where it is written, None for stdout


def add_transcribe(commands: Any) -> None:
    """attune transcribe RUN_OR_MODEL FILE..."""
    summary = "write down what is said in audio files of any length"
    parser = commands.add_parser(
        "transcribe",
        help=summary,
        description=f"{summary.capitalize()}. Files are wav, flac, ogg, opus, mp3, aiff, au and others of libsndfile, "
        "at any sampling rate; m4a, films and others where ffmpeg is installed.",
        epilog="Exit code: 0, 1 where a file could not be read or written (the others are done), 2 for bad input.",
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model folder, a hub name, or 'nano'")
    parser.add_argument("files", metavar="FILE", nargs="+", help="an audio file; - is standard input")
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
        "the others beside the audio file, talk.mp3 -> talk.srt; of standard input, one format to stdout)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")
    parser.add_argument(
        "--timestamps",
        action=argparse.BooleanOptionalAction,
        help="let the decoder write times (default: for json, srt and vtt, and for audio above 30 s, which it then "
        "follows from time to time; without them long audio is cut at quiet moments)",
    )
    parser.add_argument(
        "--words",
        action="store_true",
        help="when each word is said: a list in json, marks in vtt, a cue a word in srt, a line a word in text",
    )
    parser.add_argument(
        "--pauses",
        action="store_true",
        help="cut at pauses and hear many stretches at once, of all files, each as a run scores an utterance; times "
        "then come from the sound and not from the decoder (default: one window after another)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help=f"with --pauses: stretches at once (default: {BATCH})")
    parser.add_argument(
        "--longest",
        type=float,
        metavar="SECONDS",
        default=LONGEST_S,
        help="of sound that is heard at once, 2 to 30 (default: 30); less for a model that knows short utterances only",
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
    check_wishes(arguments)
    files = list(dict.fromkeys(arguments.files))
    outputs = plan_outputs(files, formats, arguments.output_dir, arguments.overwrite)

    from transformers.utils import logging

    from attune.audio.waveform import AudioError

    logging.disable_progress_bar()
    failed, line = 0, ProgressLine()
    for file, heard in hear_files(arguments, files, timestamps, line):
        line.clear()
        try:
            if isinstance(heard, Exception):
                raise heard
            write_outputs(heard, outputs[file], len(files) > 1, arguments.overwrite)
        except (AudioError, OSError) as error:
            failed += 1
            print(f"attune: {name_file(file)}: {error}", file=sys.stderr)
    return 1 if failed else 0


def hear_files(
    arguments: argparse.Namespace, files: Sequence[str], timestamps: bool | None, line: "ProgressLine"
) -> Iterator[tuple[str, "Transcript | Exception"]]:
    """Each file, in order, and its transcript, or why there is none."""
    from transformers.utils import logging

    from attune.audio.waveform import AudioError
    from attune.use.transcribe import check_language, load_listening, read_list, transcribe, transcribe_by_pauses

    whisper = load_listening(arguments.model, arguments.device)
    language = check_language(whisper.tokens, arguments.language, arguments.task)
    terms = arguments.vocabulary, arguments.vocabulary_bias, arguments.vocabulary_prompt
    bias, prompt = read_list(whisper, *terms) if arguments.vocabulary else (None, None)
    logging.set_verbosity_error()  # after loading: its `generate` warns of a call inside itself, between our lines
    asked = {"language": language, "task": arguments.task, "bias": bias, "prompt": prompt, "words": arguments.words}
    asked["longest_s"] = arguments.longest
    if arguments.pauses:
        yield from transcribe_by_pauses(
            whisper,
            files,
            timestamps=bool(timestamps),
            on_progress=lambda recording: line.update(recording.file, recording.heard_s, recording.duration_s),
            batch=arguments.batch or BATCH,
            **asked,
        )
        return
    for file in files:
        show = partial(line.update, file)
        try:
            yield file, transcribe(whisper, file, timestamps=timestamps, on_progress=show, **asked)
        except (AudioError, OSError) as error:
            yield file, error


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


def check_wishes(arguments: argparse.Namespace) -> None:
    """Refuse, before a model is loaded, what cannot be had together.

    Raises:
        InputError: with the option.
    """
    if arguments.words and arguments.task == "translate":
        raise InputError(
            "--words with --task=translate: the words of a translation are said at no time. Leave one out."
        )
    if arguments.batch is not None and not arguments.pauses:
        raise InputError("--batch is for --pauses: add it, or leave --batch out.")
    if arguments.batch is not None and arguments.batch < 1:
        raise InputError(f"--batch={arguments.batch}: accepted are 1 and more.")
    if not 2 <= arguments.longest <= LONGEST_S:
        raise InputError(f"--longest={arguments.longest:g}: accepted are 2 to {LONGEST_S:g} s, Whisper's window.")


def plan_outputs(files: Sequence[str], formats: Sequence[str], folder: Path | None, overwrite: bool) -> Outputs:
    """Where everything will be written, refused before a model is loaded.

    Raises:
        InputError: a file exists and `overwrite` is False, or two results would have one name; or standard input in
            several formats, of which only one has room on stdout.
    """
    if STANDARD_INPUT in files and folder is None and len(formats) > 1:
        raise InputError(f"- with --format {','.join(formats)}: stdout takes one of them. Give --output-dir=DIR.")
    outputs: Outputs = {}
    writers: dict[Path, str] = {}
    for file in files:
        outputs[file] = {name: _place(file, name, folder) for name in formats}
        for path in (path for path in outputs[file].values() if path is not None):
            other = writers.setdefault(path.resolve(), file)
            if other != file:
                raise InputError(f"{other} and {file} would both be written to {path}. Use two commands.")
            if path.exists() and not overwrite:
                raise InputError(f"{path} exists. Add --overwrite to replace it, or choose another --output-dir.")
    return outputs


def _place(file: str, name: str, folder: Path | None) -> Path | None:
    if folder is None and (name == "text" or file == STANDARD_INPUT):
        return None
    path = Path("stdin" if file == STANDARD_INPUT else file)
    return (folder or path.parent) / f"{path.stem}{SUFFIXES[name]}"


def name_file(file: str) -> str:
    return "standard input" if file == STANDARD_INPUT else file


def write_outputs(transcript: "Transcript", paths: dict[str, Path | None], named: bool, overwrite: bool) -> None:
    """Write every format of one transcript; on stdout `named` puts the file's name and a tab before the text."""
    from attune.use.transcript import FORMATS

    for name, path in paths.items():
        content = FORMATS[name](transcript)
        if path is None:
            prefix = f"{transcript.file}\t" if named and name == "text" else ""
            lines = content.removesuffix("\n").split("\n") if prefix else [content.removesuffix("\n")]
            print("\n".join(prefix + line for line in lines), flush=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if overwrite else "x", encoding="utf-8") as stream:
            stream.write(content)


class ProgressLine:
    """A line on stderr while files are heard, if stderr is a terminal; it leaves nothing behind."""

    def __init__(self) -> None:
        self.shown: Progress | None = None
        self.file = ""

    def update(self, file: str, heard_s: float, duration_s: float | None) -> None:
        """Say how far a file is heard; a duration that is not known is left out."""
        if file != self.file:
            self.clear()
            self.file = file
        if self.shown is None:
            self.shown = self._begin()
        total = "" if duration_s is None else f" of {duration_s / 60:.1f}"
        heard = f"{heard_s / 60:.1f}{total} min"
        self.shown.update(self.shown.task_ids[0], completed=heard_s, total=duration_s, heard=heard)

    def _begin(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[heard]}"))
        progress = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        progress.add_task(Path(name_file(self.file)).name, total=None, heard="")
        progress.start()
        return progress

    def clear(self) -> None:
        """Take the line away, so that something else may be written."""
        if self.shown is not None:
            self.shown.stop()
            self.shown = None
