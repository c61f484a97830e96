"""The `attune` command: what is done beside a run, or after it.

A subcommand is one function `add_NAME(commands)`, listed in COMMANDS: it declares its arguments and sets `run`, which
takes them and returns the exit code (0: all went well, 1: some files failed; 2 is bad input). torch takes seconds to
import, so what needs it is imported inside `run`, after the arguments have been checked.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attune.errors import InputError

if TYPE_CHECKING:
    from attune.use.transcript import Transcript

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
MADE_OF_TIMES = {"srt", "vtt"}
WITH_TIMES = {"json", *MADE_OF_TIMES}
Outputs = dict[str, dict[str, Path | None]]  # of each audio file: format -> where it is written, None for stdout


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaint in one line and in the words of the other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"attune: {message}. See: {self.prog} --help\n")


def main() -> None:
    """The console script `attune`."""
    arguments = make_parser().parse_args()
    from attune.use.config import speak_plainly

    try:
        speak_plainly(lambda: sys.exit(arguments.run(arguments)))
    except KeyboardInterrupt:
        sys.exit(130)  # as the shell counts a command that was stopped


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="attune", description="Use a Whisper, fine-tuned or not. Training: python train.py")
    parser.add_argument("--version", action="version", version=f"attune {version('attune')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


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


def add_evaluate(commands: Any) -> None:
    """attune evaluate RUN_OR_MODEL WORD..."""
    summary = "score a model on a corpus, with the report of a run"
    parser = commands.add_parser(
        "evaluate",
        help=summary,
        description=f"{summary.capitalize()}: run.json, predictions/ and report.html, in a run folder of its own; "
        "attune report sets several beside each other. It is python train.py with finetune=none. Run it in the folder "
        "of train.py.",
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model folder, a hub name, or 'nano'")
    parser.add_argument("words", metavar="WORD", nargs="*", help="as for train.py: data=noise context=full folder=OUT")
    parser.set_defaults(run=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Hand the words on to train.py: it is the one place that scores."""
    import subprocess

    from attune.use.config import find_configs

    words = list_evaluation_words(arguments.model, arguments.words)
    return subprocess.run([sys.executable, str(find_configs().parent / "train.py"), *words], check=False).returncode


def list_evaluation_words(model: str, words: Sequence[str]) -> list[str]:
    """The words of train.py that train nothing.

    Raises:
        InputError: one of them says that something is to be trained, or which model.
    """
    taken = [word for word in words if word.lstrip("+~").split("=")[0].split(".")[0] in ("model", "finetune", "resume")]
    if taken or any(not word.startswith("-") and "=" not in word for word in words):
        wrong = taken or [word for word in words if "=" not in word]
        raise InputError(
            f"attune evaluate: {wrong[0]} is none of its words. It takes one model, which it does not train, and words "
            "of train.py such as data=noise, context=full or folder=OUT. To train: python train.py"
        )
    quoted = model.replace("\\", "\\\\").replace("'", "\\'")  # a run of a sweep has an = in its name
    allowed = "data.allow_leakage=true"  # nothing is learnt, and one file may stand for all splits
    return [f"model.name_or_path='{quoted}'", "finetune=none", allowed, *words]


def add_export(commands: Any) -> None:
    """attune export RUN OUT"""
    summary = "write a run's checkpoint as a plain transformers model"
    parser = commands.add_parser(
        "export",
        help=summary,
        description=f"{summary.capitalize()}: what was added is merged where it can be, and the logits of what was "
        "written are compared with the checkpoint's. A finished run has such a folder already, RUN/model.",
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder, finished or not")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write: a new or an empty one")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the weights on disk")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="best: by validation WER")
    parser.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from transformers.utils import logging

    from attune.use.export import export

    logging.disable_progress_bar()
    done = export(arguments.folder, arguments.out, arguments.dtype, arguments.checkpoint)
    print(f"{', '.join(map(str, done.checkpoints))} -> {arguments.out} ({arguments.dtype})")
    print(f"Loaded again, its logits differ by at most {done.difference:.0e} of the largest.")
    if done.left_out:
        print(f"Left out, because no transcript depends on it: {', '.join(done.left_out)}.")
    if done.additions:
        print(done.additions)
    return 0


def add_report(commands: Any) -> None:
    """attune report FOLDER..."""
    summary = "set runs beside each other: a table and figures"
    parser = commands.add_parser(
        "report",
        help=summary,
        description=f"{summary.capitalize()}: ablation.html, ablation.md, .csv and .tex, figures/. The runs must have "
        "one test set: differences are paired by utterance.",
        epilog="Exit code: 0, 1 where a run did not finish (the others are in the table), 2 for bad input.",
    )
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="+", type=Path, help="a folder of runs, as a sweep leaves it, or one run"
    )
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="write here (default: FOLDER, if it holds runs)")
    parser.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace) -> int:
    """Make a sweep's table and figures again, or those of runs that were gathered by hand."""
    folders: list[Path] = arguments.folders
    output = arguments.output_dir or folders[0]
    if arguments.output_dir is None and (len(folders) > 1 or (output / "run.json").is_file()):
        raise InputError("Several folders, or a single run, have no place for a table: give --output-dir=DIR.")

    from attune.report.ablation import report_ablation
    from attune.use.screen import make_console

    return 1 if report_ablation(folders, output, make_console()) else 0


def add_plan(commands: Any) -> None:
    """attune plan WORD..."""
    summary = "how much memory a run will need, and what to change for it to fit"
    parser = commands.add_parser(
        "plan",
        help=summary,
        description=f"{summary.capitalize()}. Reads the corpus and the model's config.json, loads no weights, takes no "
        "step. Run it in the folder of train.py.",
    )
    parser.add_argument("words", metavar="WORD", nargs="*", help="as for train.py: model=small finetune=lora")
    parser.set_defaults(run=run_plan)


def run_plan(arguments: argparse.Namespace) -> int:
    """Refuse what train.py would refuse; else print the plan."""
    from transformers.utils import logging

    from attune.use.config import compose_run
    from attune.use.plan import plan_run
    from attune.use.screen import make_console

    logging.disable_progress_bar()
    plan_run(make_console(), compose_run(arguments.words))
    return 0


def add_audit(commands: Any) -> None:
    """attune audit WORD..."""
    summary = "what is in a corpus, what is wrong with it, and what is learnt and also scored"
    parser = commands.add_parser(
        "audit",
        help=summary,
        description=f"Say {summary}: audit.html, audit.csv (every finding) and rejected.csv. Loads no weights. Run it "
        "in the folder of train.py.",
        epilog="Exit code: 0, 1 where a run on this corpus would be refused, 2 for bad input.",
    )
    parser.add_argument("words", metavar="WORD", nargs="*", help="as for train.py: data=folder data.root=talks")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", default=Path("audit"), help="(default: audit)")
    parser.set_defaults(run=run_audit)


def run_audit(arguments: argparse.Namespace) -> int:
    """Audit a corpus."""
    from attune.use.audit import run_audit
    from attune.use.config import compose_run
    from attune.use.screen import make_console, settle_screen

    settle_screen()
    return 0 if run_audit(make_console(), compose_run(arguments.words), arguments.output_dir) else 1


def add_pairs(commands: Any) -> None:
    """attune pairs RUN_OR_MODEL OUT"""
    summary = "make preference pairs of what a model writes, for objective=dpo"
    parser = commands.add_parser(
        "pairs",
        help=summary,
        description=f"{summary.capitalize()} or reward_model: of each utterance the transcript, and the attempt with "
        "the most wrong characters. Then: python train.py objective=dpo data=pairs data.train=OUT/train.jsonl "
        "data.validation=OUT/validation.jsonl data.test=OUT/test.jsonl model.name_or_path=RUN",
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="who makes the attempts")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write: a new or an empty one")
    parser.add_argument(
        "--data", metavar="WORD", nargs="+", default=[], help="as for train.py: data=accent (default: the run's corpus)"
    )
    parser.add_argument("--samples", type=int, default=8, help="attempts at each utterance (default: 8)")
    parser.add_argument("--temperature", type=float, default=1.0, help="that they are drawn at (default: 1)")
    parser.add_argument("--beam", action="store_true", help="the likeliest attempts, by beam search, and no drawn ones")
    parser.add_argument(
        "--chosen", choices=["reference", "best"], default="reference", help="best: the attempt with the fewest errors"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="listen to N training utterances, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.set_defaults(run=run_pairs)


def run_pairs(arguments: argparse.Namespace) -> int:
    """Write the pairs, and say how many there are."""
    from transformers.utils import logging

    from attune.use.pairs import Wanted, choose_config, make_pairs
    from attune.use.transcribe import load_listening

    logging.disable_progress_bar()
    names = ("samples", "temperature", "beam", "chosen", "limit", "seed")
    wanted = Wanted(**{name: getattr(arguments, name) for name in names})
    config = choose_config(arguments.model, arguments.data)
    counts = make_pairs(load_listening(arguments.model, arguments.device), config, arguments.out, wanted)
    print(f"{counts['train']} pairs to learn from, {counts['validation']} to validate on -> {arguments.out}")
    return 0


def add_prefer(commands: Any) -> None:
    """attune prefer RUN_OR_MODEL FOLDER"""
    summary = "a local page on which people choose between two transcripts, for objective=dpo"
    parser = commands.add_parser(
        "prefer",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. Each answer is a line of FOLDER/preferences.jsonl, which "
        "data=pairs reads; the same command goes on where it stopped.",
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="who writes the transcripts")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a new or an empty folder, or one that was begun")
    parser.add_argument(
        "--data", metavar="WORD", nargs="+", help="as for train.py: data=accent (default: the run's corpus)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="training utterances, drawn by the seed (default: 100)")
    parser.add_argument("--samples", type=int, help="tries to draw a transcript that differs (default: 8)")
    parser.add_argument("--temperature", type=float, help="that they are drawn at (default: 1)")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument(
        "--train", action="store_true", help="no page: train on what was chosen so far; the page then offers the model"
    )
    parser.add_argument(
        "--words", metavar="WORD", nargs="+", default=[], help="for train.py, here and on the page: finetune=lora"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where the page is reached (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8765, help="default: 8765; 0 takes a free one")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.set_defaults(run=run_prefer)


def run_prefer(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or train."""
    from attune.use.prefer import ANSWERS, Session, settle
    from attune.use.prefer_server import open_server
    from attune.use.screen import settle_screen

    settle_screen()
    names = ("model", "data", "limit", "samples", "temperature", "seed")
    wanted = settle(arguments.folder, {name: getattr(arguments, name) for name in names})
    if arguments.train:
        from attune.use.dpo_runs import DpoRuns

        return DpoRuns(arguments.folder, wanted.model, arguments.words).wait(arguments.folder / ANSWERS)
    with open_server(arguments.host, arguments.port) as server:
        server.serve_session(Session(arguments.folder, wanted, arguments.device, arguments.words))
    return 0


def add_sweep(commands: Any) -> None:
    """attune sweep NAME"""
    summary = "a named ablation as the YAML of a Weights & Biases sweep"
    parser = commands.add_parser(
        "sweep",
        help=summary,
        description=f"Print {summary}: attune sweep types > sweep.yaml; wandb sweep sweep.yaml; wandb agent ID. Agents "
        "on any number of machines share the grid; without W&B, python train.py ablation=NAME runs it.",
    )
    parser.add_argument("name", metavar="NAME", help="of configs/ablation: types, lora_rank, ...")
    parser.set_defaults(run=run_sweep)


def run_sweep(arguments: argparse.Namespace) -> int:
    """Print the sweep."""
    from attune.use.config import find_configs
    from attune.use.sweep import describe_wandb_sweep

    print(describe_wandb_sweep(arguments.name, find_configs()), end="")
    return 0


def _formats(names: str) -> list[str]:
    chosen = [name.strip().lower() for name in names.split(",")]
    unknown = [name for name in chosen if name not in SUFFIXES]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no format {unknown[0]!r}; accepted: {', '.join(SUFFIXES)}")
    return chosen


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


COMMANDS: Sequence[Callable[[Any], None]] = (
    add_transcribe,
    add_evaluate,
    add_export,
    add_report,
    add_plan,
    add_audit,
    add_pairs,
    add_prefer,
    add_sweep,
)


if __name__ == "__main__":
    main()
