"""The `attune` command as a user meets it: what goes to stdout, to stderr and to files, and the exit code."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import soundfile
import torch

from attune.audio.waveform import SAMPLE_RATE_HZ, encode_wav
from attune.model.save import save_whisper
from attune.model.scratch import Scratch, make_tokens, make_whisper
from attune.report.record import RunRecord, write_record
from attune.use.cli import COMMANDS, main, make_parser


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Attune = Callable[..., Outcome]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model writes words at random."""
    folder, tokens = tmp_path_factory.mktemp("run"), make_tokens(50)
    torch.manual_seed(3)  # some draws write nothing but times
    whisper = make_whisper(tokens, Scratch(width=32, layers=1, heads=2))
    unspoken = [i for i in tokens.special if i < tokens.first_timestamp and i != tokens.end_of_text]
    whisper.network.generation_config.suppress_tokens = unspoken
    whisper.network.generation_config.begin_suppress_tokens = [tokens.end_of_text]
    save_whisper(whisper, folder / "model")
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.flac"
    soundfile.write(path, 0.1 * torch.randn(44_100, generator=torch.Generator().manual_seed(0)).numpy(), 44_100)
    return path


@pytest.fixture
def attune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Attune:
    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["attune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), shown.out, shown.err)

    return call


def test_help_has_one_line_a_command_and_does_not_wait_for_torch(attune: Attune) -> None:
    assert "write down what is said in audio files of any length" in attune("--help").out
    code = "import sys, attune.use.cli as c; c.make_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    listed = [line for line in make_parser().format_help().splitlines() if re.match(r" {4}\w", line)]
    assert [line.split()[0] for line in listed] == [add.__name__.removeprefix("add_") for add in COMMANDS]


def test_version(attune: Attune) -> None:
    assert attune("--version").out.startswith("attune 0.")


def test_text_goes_to_stdout(attune: Attune, run_folder: Path, talk: Path) -> None:
    code, out, err = attune("transcribe", run_folder, talk, "--language", "en", "--device", "cpu")
    assert (code, err, out.count("\n"), bool(out.strip())) == (0, "", 1, True)
    assert list(talk.parent.iterdir()) == [talk]
    assert attune("transcribe", run_folder / "model", talk, "--language", "English").out == out


def test_a_bad_file_does_not_stop_the_others(attune: Attune, run_folder: Path, talk: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF....")
    soundfile.write(tmp_path / "empty.wav", torch.zeros(0).numpy(), SAMPLE_RATE_HZ)
    files = [tmp_path / "broken.wav", talk, tmp_path / "empty.wav", tmp_path / "missing.wav", tmp_path]
    code, out, err = attune("transcribe", run_folder, *files, "--language=en")
    assert code == 1
    assert out.startswith(f"{talk}\t")
    assert out.count("\n") == 1
    lines = err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [str(file) for file in files if file != talk]
    assert ["libsndfile" in lines[0], "empty" in lines[1], "no file" in lines[2]] == [True] * 3


def test_other_formats_go_beside_the_audio(attune: Attune, run_folder: Path, talk: Path) -> None:
    code, out, err = attune(
        "transcribe", run_folder, talk, "--format", "srt,vtt", "--format", "json", "--language", "en"
    )
    assert (code, out, err) == (0, "", "")
    assert {path.name for path in talk.parent.iterdir()} == {"talk.flac", "talk.srt", "talk.vtt", "talk.json"}
    written = json.loads(talk.with_suffix(".json").read_text())
    assert {"file": str(talk), "duration_s": 1.0, "language": "en"}.items() <= written.items()
    assert talk.with_suffix(".vtt").read_text().count("-->") == len(written["segments"])
    assert talk.with_suffix(".srt").read_text().startswith("1\n00:00:0") == bool(written["segments"])


def test_an_output_folder_takes_everything(attune: Attune, run_folder: Path, talk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    code, out, _ = attune(
        "transcribe", run_folder, talk, "--format=text,json", "--output-dir", folder, "--no-timestamps"
    )
    assert (code, out) == (0, "")
    text = json.loads((folder / "talk.json").read_text())
    assert (folder / "talk.txt").read_text() == text["text"] + "\n"
    assert [(part["start_s"], part["end_s"]) for part in text["segments"]] == [(0.0, 1.0)]
    assert text["language"] in make_tokens(50).languages


def test_words_and_pauses(attune: Attune, run_folder: Path, talk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(encode_wav(torch.from_numpy(soundfile.read(talk, dtype="float32")[0][:16_000])))
    for more in ([], ["--pauses", "--batch", "3", "--longest", "5"]):
        folder = tmp_path / f"out{len(more)}"
        code, out, err = attune(
            "transcribe", run_folder, talk, other, "--language=en", "--words", "--format=text,json,vtt,srt",
            "--output-dir", folder, *more,
        )  # fmt: skip
        assert (code, out, err) == (0, "", "")
        written = json.loads((folder / "other.json").read_text())
        words = [word for segment in written["segments"] for word in segment["words"]]
        assert (folder / "other.srt").read_text().count("-->") == len(words) > 0
        assert len((folder / "other.txt").read_text().split("\n")) - 1 == len(words)
    code, out, _ = attune("transcribe", run_folder, talk, other, "--language=en", "--pauses", "--words")
    assert code == 0 and {line.split("\t")[0] for line in out.split("\n")[:-1]} == {str(talk), str(other)}


def test_standard_input(
    attune: Attune, run_folder: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attune("transcribe", run_folder, talk, "--language=en", "--format=srt", "--output-dir", tmp_path)
    assert expected.code == 0
    for words in (["--format=srt"], ["--format=text,srt", "--output-dir", tmp_path / "in"]):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=talk.open("rb")))
        code, out, err = attune("transcribe", run_folder, "-", "--language=en", *words)
        assert (code, err) == (0, "")
        written = out if len(words) == 1 else (tmp_path / "in" / "stdin.srt").read_text()
        assert written == (tmp_path / "talk.srt").read_text()


def test_a_name_that_libsndfile_refuses_costs_no_other_file(
    attune: Attune, run_folder: Path, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # without ffmpeg
    odd = shutil.copyfile(talk, talk.parent / "other.raw")
    code, out, err = attune("transcribe", run_folder, odd, talk, "--language=en", "--output-dir", talk.parent / "out")
    assert (code, out, err.count("\n")) == (1, "", 1) and "other.raw" in err
    assert (talk.parent / "out" / "talk.txt").exists()


def test_a_users_file_is_not_overwritten_unasked(attune: Attune, run_folder: Path, talk: Path) -> None:
    talk.with_suffix(".srt").write_text("mine")
    code, out, err = attune("transcribe", run_folder, talk, "--format", "srt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--overwrite" in err
    assert talk.with_suffix(".srt").read_text() == "mine"
    assert attune("transcribe", run_folder, talk, "--format", "srt", "--overwrite").code == 0
    assert talk.with_suffix(".srt").read_text() != "mine"


def test_what_cannot_be_written_fails_alone(attune: Attune, run_folder: Path, talk: Path, tmp_path: Path) -> None:
    (tmp_path / "talk.srt").mkdir()
    code, _, err = attune("transcribe", run_folder, talk, "--format=srt", "--output-dir", tmp_path, "--overwrite")
    assert (code, str(talk) in err, err.count("\n")) == (1, True, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["report"], "FOLDER"),
        (["report", "./nowhere"], "nowhere holds no run.json"),
        (["report", "RUN"], "give --output-dir=DIR"),
        (["report", "a", "b"], "give --output-dir=DIR"),
        (["transcribe"], "RUN_OR_MODEL"),
        (["transcribe", "nano"], "FILE"),
        (["transcribe", "./nowhere", "TALK"], "there is no folder ./nowhere"),
        (["transcribe", "RUN", "TALK", "--format", "docx"], "accepted: text, json, srt, vtt"),
        (["transcribe", "RUN", "TALK", "--language", "Klingon"], "--language=Klingon"),
        (["transcribe", "RUN", "TALK", "--format", "srt", "--no-timestamps"], "subtitles are made of times"),
        (["transcribe", "RUN", "TALK", "other/talk.wav", "--format=srt", "--output-dir=x"], "would both be written to"),
        (["transcribe", "RUN", "TALK", "--output-dir", "TALK"], "is a file"),
        (["audit", "data=accent", "--output-dir", "TALK"], "is a file"),
        (["report", "RUN", "--output-dir", "TALK"], "is a file"),
        (["transcribe", "RUN", "-", "--format", "srt,vtt"], "stdout takes one of them. Give --output-dir=DIR"),
        (["transcribe", "RUN", "TALK", "--words", "--task", "translate"], "are said at no time"),
        (["transcribe", "RUN", "TALK", "--batch", "4"], "--batch is for --pauses"),
        (["transcribe", "RUN", "TALK", "--pauses", "--batch", "0"], "accepted are 1 and more"),
        (["transcribe", "RUN", "TALK", "--longest", "60"], "accepted are 2 to 30 s"),
    ],
)
def test_bad_input_is_one_message(
    attune: Attune, run_folder: Path, talk: Path, arguments: list[str], message: str
) -> None:
    places = {"TALK": str(talk), "RUN": str(run_folder)}
    code, out, err = attune(*(places.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("attune: ")
    assert message in err
    assert "Traceback" not in err


def test_report_sets_runs_beside_each_other(attune: Attune, tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tmp_path / f"0{seed}"
        folder.mkdir()
        write_record(RunRecord(name="a", seed=seed, config={"keep": f"top{seed}"}, status="finished"), folder)
    code, out, err = attune("report", tmp_path)
    assert (code, err) == (0, "") and "keep=top2" in out
    assert {"ablation.csv", "ablation.md"} <= {path.name for path in tmp_path.iterdir()}
    assert attune("report", tmp_path / "01", tmp_path / "02", "--output-dir", tmp_path / "x").code == 0
    assert (tmp_path / "x" / "ablation.md").read_text() == (tmp_path / "ablation.md").read_text()


def make_runs(folder: Path, **second: Any) -> Path:
    """Two finished runs, the second with other values in its run.json."""
    for name, values in (("00", {}), ("01", second)):
        record = RunRecord(name=name, seed=0, config={"keep": name}, status="finished", normaliser="attune 2")
        write_record(replace(record, **values), folder / name)
    return folder


def test_report_refuses_numbers_of_different_things(attune: Attune, tmp_path: Path) -> None:
    code, out, err = attune("report", make_runs(tmp_path, normaliser="whisper"))
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "01 cannot stand in one table" in err and "'attune 2' and 'whisper'" in err


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"schema_version": 0}, "run.json has schema_version 0; this attune reads 1"),
        ({"status": "failed", "error": "the disk is full"}, "the disk is full"),
    ],
)
def test_report_shows_a_run_that_has_no_numbers(
    attune: Attune, tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    code, out, err = attune("report", make_runs(tmp_path, **second))
    assert (code, err) == (1, "")
    assert out.count("not finished: ") == 1 and message in out and "No run has finished" not in out


def test_report_says_once_that_no_run_has_finished(attune: Attune, tmp_path: Path) -> None:
    write_record(RunRecord(name="a", seed=0, config={}, status="interrupted", error="SIGTERM"), tmp_path / "00")
    code, out, err = attune("report", tmp_path)
    assert (code, err) == (1, "") and out.count("No run has finished, so there is nothing to compare yet.") == 1


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    attune: Attune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("attune.use.audit.run_audit", lambda *_: pytest.fail("the corpus was heard"))
    told = attune("audit", "--output-dir", "file/audit")
    assert (told.code, told.err) == (
        2,
        "attune: file/audit cannot be written (file is a file). Name another place: --output-dir=ANOTHER/PLACE\n",
    )
    assert "another OUT" in attune("export", "run", "file/out").err


def test_modules_beside_train_py_are_found(attune: Attune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python train.py` finds them: a type of one's own is a file there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    attune("audit", "--output-dir", "file", "--help")
    assert str(tmp_path) not in sys.path
    (tmp_path / "train.py").write_text("")
    attune("audit", "--help")
    assert str(tmp_path) == sys.path[0]
