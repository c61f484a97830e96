"""Whole runs of two processes: what they learn and score is what one process does with the same global batch."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from distributed import ROOT, launch, run
from safetensors.torch import load_file

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.data.corpora.schema import FEATURES, complete_row
from attune.train.module import WhisperModule

pytestmark = pytest.mark.slow
WORDS = [
    "logger=csv", "trainer.max_steps=8", "trainer.validate_every=2", "trainer.log_every=1", "trainer.accelerator=cpu",
    "name=test", "data.batch_window_s=4", "data.evaluation_batch_window_s=4", "data.allow_leakage=true",
    "optimizer.learning_rate=1e-2", "trainer.patience=99", "trainer.accumulate_grad_batches=1",
]  # fmt: skip
LEARNT = ["One two.", "Three four.", "Five six seven.", "Eight.", "Nine ten eleven.", "Twelve.", "Go on."]
SCORED = LEARNT[:5]  # odd numbers: no process has as many as the other
HALF = "trainer.accumulate_grad_batches=2"  # one process takes two micro-batches to a step, where two take one each


@pytest.fixture(scope="module")
def words(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    for index, text in enumerate(LEARNT):
        (folder / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
    rows = [{"audio": f"{index}.wav", "text": text, "language": "en"} for index, text in enumerate(LEARNT)]
    for name, count in {"train": len(LEARNT), "scored": len(SCORED)}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows[:count])))
    scored = [f"data.{split}={folder / 'scored.jsonl'}" for split in ("validation", "test")]
    return [
        *WORDS,
        f"model.name_or_path={nano_folder}",
        "data=manifest",
        f"data.train={folder / 'train.jsonl'}",
        *scored,
    ]


def run_two(words: list[str], before: Callable[[int], None] = lambda rank: None) -> list[int | None]:
    return launch(2, lambda rank: run(words, lambda: before(rank)))


@pytest.fixture(scope="module")
def heard(words: list[str]) -> list[str]:
    """The same with a model that hears: its transcripts say something, and change."""
    return [*words, "model.name_or_path=nano", "optimizer.learning_rate=3e-4"]


@pytest.fixture(scope="module")
def alone(heard: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the global batch of two."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert launch(1, lambda rank: run([*heard, HALF, f"folder={folder}"])) == [0]
    scores = read_scores(folder)
    assert scores["result test"]["wer"] < scores["baseline test"]["wer"]
    return folder


def read_metrics(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def read_scores(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    names = ("wer", "cer", "substitutions", "insertions", "deletions", "words", "utterances")
    return {
        f"{when} {panel}": {name: score[name] for name in names}
        for when in ("baseline", "result")
        for panel, score in record[when].items()
    }


def check_equal(folder: Path, other: Path, tolerance: float) -> None:
    """Losses and validation of every step, scores and transcripts; weights within ten times as much."""
    for row, expected in zip(read_metrics(folder), read_metrics(other), strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert read_scores(folder) == read_scores(other)
    for panel in (other / "predictions").iterdir():
        assert (folder / "predictions" / panel.name).read_text() == panel.read_text()
    one, two = (load_file(path / "model/model.safetensors") for path in (folder, other))
    assert one.keys() == two.keys()
    for name, weight in two.items():
        torch.testing.assert_close(one[name], weight, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize(
    ("chosen", "tolerance"),
    [(["trainer=ddp"], 1e-5), (["trainer=fsdp"], 1e-4)],
    ids=["ddp", "fsdp"],
)
def test_two_processes_are_one(
    chosen: list[str], tolerance: float, heard: list[str], alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run_two([*heard, *chosen, f"folder={folder}"]) == [0, 0]
    check_equal(folder, alone, tolerance)
    record = json.loads((folder / "run.json").read_text())
    assert {score["utterances"] for score in record["result"].values()} == {len(SCORED)}
    counted = [json.loads((path / "run.json").read_text())["train"] for path in (folder, alone)]
    utterances = [train["utterances_per_second"] * train["seconds"] for train in counted]
    assert utterances[0] == pytest.approx(utterances[1])


def test_torchrun_gives_one_run_folder(heard: list[str], alone: Path, tmp_path: Path) -> None:
    """The folder's name has the time in it, which two processes need not read in the same second."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(ROOT / "train.py"), *heard, "trainer=ddp"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    check_equal(folder, alone, 1e-5)
    assert done.stdout.count("report: ") == 1  # one process speaks


def test_lightning_begins_the_processes_of_one_machine(heard: list[str], alone: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *heard, "trainer=ddp", "trainer.devices=2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    check_equal(folder, alone, 1e-5)


def test_what_is_wrong_with_the_data_is_said_once(heard: list[str], tmp_path: Path) -> None:
    words = [*heard, "trainer=ddp", "trainer.devices=2", "data.allow_leakage=false"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("recordings are learnt and also scored") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_sweep_of_several_processes_is_refused(heard: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), "-m", *heard, "trainer=ddp", "trainer.devices=2", "seed=1,2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "-m runs one after the other in one process, and trainer.strategy=ddp gives each several" in done.stderr


def signal_at_step(number: int, micro_batch: int, name: str = "training_step") -> Callable[[], None]:
    """A signal to this process in the middle of its n-th call of a method of the module."""

    def prepare() -> None:
        real, count = getattr(WhisperModule, name), iter(range(1, 10**6))

        def interrupted(module: WhisperModule, *args: Any) -> Any:
            if next(count) == micro_batch:
                os.kill(os.getpid(), number)
            return real(module, *args)

        setattr(WhisperModule, name, interrupted)

    return prepare


DROPOUT = ["finetune=lora", "finetune.dropout=0.3", HALF, "ema=0.9", "keep=top2"]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes to which nothing happens, with dropout of their own each."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run_two([*words, *DROPOUT, "trainer=ddp", f"folder={folder}"]) == [0, 0]
    return folder


# Micro-batch 5 is the first of step 3, which is between two validations; 7 is in step 4, whose end is one, of three
# batches for one process and two for the other.
@pytest.mark.parametrize(
    ("heard_by", "name", "call", "steps"),
    [
        pytest.param((0, 1), "training_step", 5, 3, id="both"),
        pytest.param((1,), "training_step", 5, 3, id="only the second"),
        pytest.param((0, 1), "training_step", 7, 4, id="before a validation"),
        pytest.param((0,), "validation_step", 3, 2, id="in a validation"),  # of that behind step 2
        pytest.param((1,), "training_step", 16, 8, id="in the last step"),
    ],
)
def test_a_signal_stops_both_at_one_step_and_they_go_on(
    heard_by: tuple[int, ...], name: str, call: int, steps: int, words: list[str], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def before(rank: int) -> None:
        if rank in heard_by:
            signal_at_step(signal.SIGTERM, call, name)()

    assert run_two([*words, *DROPOUT, "trainer=ddp", f"folder={folder}"], before) == [143, 143]
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == steps
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert run_two([f"resume={folder}"]) == [0, 0]
    check_equal(folder, whole, 0.0)  # bit by bit


def test_slurm_gives_notice_and_begins_the_job_again(
    words: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGUSR1 to every task of srun; the first one asks, once."""
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path / 'asked'}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    folder = tmp_path / "run"
    again = [*words, *DROPOUT, "trainer=ddp", f"folder={folder}"]
    codes = run_two(again, lambda rank: signal_at_step(signal.SIGUSR1, 5)())
    assert codes == [128 + signal.SIGUSR1] * 2
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run_two(again) == [0, 0]
    check_equal(folder, whole, 0.0)


@pytest.fixture(scope="module")
def shards(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The training utterances in three parquet files; one is broken."""
    folder = tmp_path_factory.mktemp("shards")
    source = Path(next(word for word in words if word.startswith("data.train=")).partition("=")[2])
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    sounds = [{"path": None, "bytes": (source.parent / row["audio"]).read_bytes()} for row in rows]
    table = [
        complete_row({**row, "id": "", "place": "", "audio": sound}) for row, sound in zip(rows, sounds, strict=True)
    ]
    broken = {**table[0], "audio": {"path": None, "bytes": b"no sound"}}
    parts = {"train-0": table[:3], "train-1": [*table[3:5], broken], "train-2": table[5:]}
    for name, part in {**parts, "validation-0": table[:3], "test-0": table[:5]}.items():
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(part, schema=FEATURES.arrow_schema), folder / f"{name}.parquet"
        )
    kept = [word for word in words if not word.startswith("data.t") and not word.startswith(("data.v", "data="))]
    named = [f"data.files={{train:'{folder}/train-*',validation:'{folder}/validation-*',test:'{folder}/test-*'}}"]
    stream = ["data=hub", "data.path=parquet", "data.language=en", "data.streaming=shards", "data.max_rejected=0.5"]
    return [*kept, *stream, *named, "data.workers=1", "trainer=ddp"]


def test_streams_of_two_processes_go_on(shards: list[str], tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_two([*shards, *DROPOUT, f"folder={whole}"]) == [0, 0]
    rejected = (whole / "rejected.csv").read_text("utf-8-sig")
    assert 'shard 1, row 2",cannot be decoded' in rejected  # met by one process, written by the first
    codes = run_two([*shards, *DROPOUT, f"folder={cut}"], lambda rank: signal_at_step(signal.SIGTERM, 5)())
    assert codes == [143, 143]
    assert run_two([f"resume={cut}"]) == [0, 0]
    check_equal(cut, whole, 0.0)


def test_fewer_processes_go_on(words: list[str], tmp_path: Path) -> None:
    """A machine has gone: the same place of the stream, other batches."""
    folder = tmp_path / "run"
    codes = run_two([*words, "trainer=ddp", f"folder={folder}"], lambda rank: signal_at_step(signal.SIGTERM, 3)())
    assert codes == [143, 143]
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert state["SpeechDataModule"] == {"batches_taken": 3, "ranks": 2}
    assert launch(1, lambda rank: run([f"resume={folder}"])) == [0]
    assert len(read_metrics(folder)) == 8
    assert read_scores(folder)["result test"]["utterances"] == len(SCORED)


def test_sharded_weights_go_on(words: list[str], tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_two([*words, "trainer=fsdp", f"folder={whole}"]) == [0, 0]
    codes = run_two([*words, "trainer=fsdp", f"folder={cut}"], lambda rank: signal_at_step(signal.SIGTERM, 3)())
    assert codes == [143, 143]
    assert run_two([f"resume={cut}"]) == [0, 0]
    check_equal(cut, whole, 0.0)
