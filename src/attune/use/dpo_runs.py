"""Train by DPO on what people have chosen so far: train.py in a process of its own, numbered runs."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attune.data.corpora.places import find_audio_folders
from attune.errors import InputError
from attune.report.record import read_record, write_atomically
from attune.use.config import find_configs

RATE = "optimizer.rate_share=0.1"  # as all that starts from a supervised run


class DpoRuns:
    """The runs below a folder of `attune prefer`.

    Every run starts from the same model, the one that the first questions were about, and learns from all answers: what
    it gives depends on them alone, and what holds it back (the KL term in DPO) is the distance from where it all began.

    Args:
        model: from which every run starts.
        words: for train.py; they win over ours.
    """

    def __init__(self, folder: Path, model: str, words: Sequence[str] = ()):
        self.folder = folder.resolve()
        self.model = str(Path(model).resolve()) if Path(model).exists() else model
        self.words = words
        self.process: subprocess.Popen[bytes] | None = None
        self.run = self.folder / "runs" / "0"

    def prepare(self, answers: Path) -> list[str]:
        """Write train_N.jsonl, and give the command that trains on it in runs/N.

        Args:
            answers: preferences.jsonl; it may grow meanwhile.

        Raises:
            InputError: no answer says which of two texts is better, or there is no train.py.
        """
        rows = read_preferences(answers)
        number = 1 + max(self._list_numbers(), default=0)
        learnt = self.folder / f"train_{number}.jsonl"
        write_atomically(learnt, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.run = self.folder / "runs" / str(number)
        files = {"train": learnt, **{name: self.folder / f"{name}.jsonl" for name in ("validation", "test")}}
        words = ["objective=dpo", "data=pairs", *(f"data.{split}={_quote(file)}" for split, file in files.items())]
        words += [f"model.name_or_path={_quote(self.model)}", f"folder={_quote(self.run)}", f"name=prefer-{number}"]
        folders = find_audio_folders(files.values())
        words += [f"data.audio_folders=[{','.join(map(_quote, folders))}]"] if folders else []
        return [sys.executable, str(find_configs().parent / "train.py"), *words, RATE, *self.words]

    def wait(self, answers: Path) -> int:
        """Train, with its output on the screen; returns its exit code."""
        return subprocess.run(self.prepare(answers), stdin=subprocess.DEVNULL, check=False).returncode

    def start(self, answers: Path) -> None:
        """Train beside this process.

        Raises:
            InputError: a training is at work, or there is nothing to learn from.
        """
        if self.process is not None and self.process.poll() is None:
            raise InputError("A training is at work; its model will be offered here.")
        command = self.prepare(answers)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    @property
    def log(self) -> Path:
        return self.folder / f"train_{self.run.name}.log"

    def describe(self) -> dict[str, Any] | None:
        """The training that was started here: state (running, finished or failed), and its last words."""
        if self.process is None:
            return None
        code = self.process.poll()
        state = "running" if code is None else "failed" if code else "finished"
        lines = self.log.read_text("utf-8", errors="replace").replace("\r", "\n").strip().splitlines()
        said = lines[-1].strip() if lines else ""
        return {"state": state, "number": int(self.run.name), "said": said, "log": self.log.name}

    def find_offered(self, current: str) -> Path | None:
        """The newest run that has finished, where it is newer than the model that is in use."""
        for number in sorted(self._list_numbers(), reverse=True):
            run = self.folder / "runs" / str(number)
            if str(run) == current:
                return None
            if _has_finished(run):
                return run
        return None

    def describe_offer(self, current: str) -> dict[str, Any] | None:
        """The run that is offered, and its WER before and after."""
        run = self.find_offered(current)
        if run is None:
            return None
        record = read_record(run)
        rates = [panels.get("test", {}).get("wer") for panels in (record.baseline, record.result)]
        return {"number": int(run.name), "wer": rates}

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def _list_numbers(self) -> list[int]:
        names = [path.name for path in (self.folder / "runs").glob("*")]
        names += [path.stem.removeprefix("train_") for path in self.folder.glob("train_*.jsonl")]
        return [int(name) for name in names if name.isdecimal()]


def read_preferences(path: Path) -> list[dict[str, Any]]:
    """The answers that say which of two texts is better. A line that is being written is left out.

    Raises:
        InputError: there are none.
    """
    lines = path.read_text("utf-8").split("\n")[:-1] if path.is_file() else []
    try:
        rows = [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise InputError(f"{path} is no JSONL: {error}. Mend or remove that line.") from None
    pairs = [row for row in rows if row.get("chosen") is not None]
    if not pairs:
        raise InputError(
            f"{path} has {len(rows)} answers, and none of them says which of two texts is better, so that there is "
            "nothing to learn from. Choose on the page first: attune prefer RUN_OR_MODEL FOLDER"
        )
    return pairs


def _has_finished(run: Path) -> bool:
    try:
        return read_record(run).status == "finished"
    except InputError:
        return False


def _quote(value: Path | str) -> str:
    """A value that Hydra takes for one word, whatever is in it."""
    return "'" + str(value).replace("'", "\\'") + "'"
