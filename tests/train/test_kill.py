"""Runs that are killed, told to stop or out of disk, at any moment, and continued: they end as if nothing had been."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.report import finish
from attune.train.callbacks import throughput
from attune.train.callbacks.checkpoints import Checkpoints
from attune.train.files import WholeCheckpoints, is_whole
from attune.train.module import WhisperModule
from attune.use.sweep import carry_out
from train import train

ROOT = Path(__file__).parents[2]
WORDS = [
    "logger=csv", "trainer.max_steps=8", "trainer.validate_every=2", "trainer.log_every=1", "trainer.accelerator=cpu",
    "name=test", "trainer.accumulate_grad_batches=2", "data.batch_window_s=4",
    "data.evaluation_batch_window_s=4",  # an utterance a batch: a validation has several, and can be cut short
    "finetune=lora", "finetune.dropout=0.3",
    "data.allow_leakage=true", "ema=0.9", "keep=top2", "optimizer.learning_rate=1e-2",
]  # fmt: skip
TEXTS = ["One two.", "Three four.", "Five six seven.", "Eight.", "Nine ten eleven."]
fork = multiprocessing.get_context("fork")  # what took seconds to import is there at once


@pytest.fixture(scope="module")
def words(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    for index, text in enumerate(TEXTS):
        (folder / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
    rows = [{"audio": f"{index}.wav", "text": text, "language": "en"} for index, text in enumerate(TEXTS)]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return [
        *WORDS,
        f"model.name_or_path={nano_folder}",
        "data=manifest",
        *(f"data.{split}={path}" for split in ("train", "validation", "test")),
    ]


def run(words: list[str], before: Callable[[], None] = lambda: None) -> None:
    finish._draw = lambda *_: None  # seconds that have nothing to do with it
    throughput.measure_peak = lambda *_: 1e12
    before()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        carry_out(train, compose("train", words, return_hydra_config=True))


def start(words: list[str], before: Callable[[], None] = lambda: None) -> multiprocessing.context.ForkProcess:
    process = fork.Process(target=run, args=(words, before))
    process.start()
    return process


def go_on(folder: Path) -> None:
    process = start([f"resume={folder}"])
    process.join()
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nothing happens to, and how long it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    started = time.monotonic()
    process = start([*words, f"folder={folder}"])
    process.join()
    assert process.exitcode == 0
    return folder, time.monotonic() - started


def check_same(folder: Path, whole: Path) -> None:
    """Weights bit by bit, every logged value, every score."""
    one, other = (load_file(path / "model/model.safetensors") for path in (folder, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    scores = [json.loads((path / "run.json").read_text()) for path in (folder, whole)]
    assert scores[0]["status"] == "finished" and scores[0]["train"]["steps"] == scores[1]["train"]["steps"]
    told = [
        {panel: {key: score[key] for key in ("wer", "cer", "substitutions", "words")} for panel, score in each.items()}
        for each in (scores[0]["result"], scores[1]["result"])
    ]
    assert told[0] == told[1]


def kill_and_go_on(words: list[str], folder: Path, after_s: float) -> None:
    process = start([*words, f"folder={folder}"])
    process.join(after_s)
    if process.exitcode is None:
        process.kill()
        process.join()
    for path in folder.glob("checkpoints/*.ckpt"):
        assert is_whole(path)
    if (folder / "config.yaml").is_file():
        go_on(folder)
    else:  # it was killed before it had a folder
        run_again = start([*words, f"folder={folder}"])
        run_again.join()
        assert run_again.exitcode == 0


@pytest.mark.parametrize("moment", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 20))])
def test_killed_at_a_random_moment(moment: int, words: list[str], whole: tuple[Path, float], tmp_path: Path) -> None:
    after_s = random.Random(moment).uniform(0.1, 1.0) * whole[1]
    kill_and_go_on(words, tmp_path / "run", after_s)
    check_same(tmp_path / "run", whole[0])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(owner: object, name: str, call: int, in_middle: bool = False) -> Callable[[], None]:
    """Kill the process in the `call`-th call of a function; in the middle of what it writes, where it writes."""

    def prepare() -> None:
        real, count = getattr(owner, name), iter(range(1, 10**6))

        def dying(*args: object, **kwargs: object) -> object:
            if next(count) != call:
                return real(*args, **kwargs)
            if in_middle:
                args[1].write(b"half of a checkpoint")  # type: ignore[attr-defined]
                args[1].flush()  # type: ignore[attr-defined]
            die()
            return None

        setattr(owner, name, dying)

    return prepare


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(die_at_call(torch, "save", 5, in_middle=True), id="in a checkpoint"),
        *(
            pytest.param(die_at_call(*where), id=name, marks=pytest.mark.slow)
            for name, where in {
                "between checkpoints": (WholeCheckpoints, "save_checkpoint", 4),
                "in validation": (WhisperModule, "validation_step", 4),
                "in a window": (WhisperModule, "training_step", 10),
                "behind the last step": (Checkpoints, "load_kept", 1),
            }.items()
        ),
    ],
)
def test_killed_at_a_chosen_moment(
    before: Callable[[], None], words: list[str], whole: tuple[Path, float], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start([*words, f"folder={folder}"], before)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    go_on(folder)
    check_same(folder, whole[0])


def signal_at_call(number: int, call: int, times: int = 1, name: str = "training_step") -> Callable[[], None]:
    """Signals that arrive in the middle of a micro-batch, or of a batch of a validation."""

    def prepare() -> None:
        real, count = getattr(WhisperModule, name), iter(range(1, 10**6))

        def interrupted(module: WhisperModule, *args: Any) -> Any:
            if next(count) == call:
                for _ in range(times):
                    os.kill(os.getpid(), number)
            return real(module, *args)

        setattr(WhisperModule, name, interrupted)

    return prepare


# Micro-batch 5 is the first of step 3, which is between two validations; 7 is in step 4, whose end is one. A validation
# has five batches: 7 is in that behind step 4.
@pytest.mark.parametrize(
    ("number", "where", "call", "steps"),
    [
        (signal.SIGTERM, "training_step", 5, 3),
        pytest.param(signal.SIGINT, "training_step", 7, 4, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "validation_step", 7, 4, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "validation_step", 10, 4, marks=pytest.mark.slow),
    ],
)
def test_a_signal_finishes_the_step_and_saves(
    number: int,
    where: str,
    call: int,
    steps: int,
    words: list[str],
    whole: tuple[Path, float],
    tmp_path: Path,
    capfd: Any,
) -> None:
    folder = tmp_path / "run"
    process = start([*words, f"folder={folder}"], signal_at_call(number, call, name=where))
    process.join()
    assert process.exitcode == 128 + number
    assert f"To go on: python train.py resume={folder}" in capfd.readouterr().err
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == steps
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "interrupted" and f"after step {steps}" in record["error"]
    go_on(folder)
    check_same(folder, whole[0])


@pytest.mark.slow
def test_a_second_signal_ends_at_once(words: list[str], tmp_path: Path) -> None:
    process = start([*words, f"folder={tmp_path / 'run'}"], signal_at_call(signal.SIGTERM, 5, times=2))
    process.join()
    assert process.exitcode == 143
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_slurm_gives_notice_and_begins_the_job_again(
    words: list[str], whole: tuple[Path, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words, run twice by SLURM: the second time is told by SLURM_RESTART_COUNT."""
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ > {tmp_path / 'asked'}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    folder = tmp_path / "run"
    process = start([*words, f"folder={folder}"], signal_at_call(signal.SIGUSR1, 5))
    process.join()
    assert process.exitcode == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = start([*words, f"folder={folder}"])
    again.join()
    assert again.exitcode == 0
    check_same(folder, whole[0])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill_at_call(disk: Path, call: int) -> Callable[[], None]:
    """Somebody else takes what room there is, in the middle of a micro-batch."""

    def prepare() -> None:
        real, count = WhisperModule.training_step, iter(range(1, 10**6))

        def filling(module: WhisperModule, *args: Any) -> Any:
            if next(count) == call:
                with (disk / "somebody's").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while file.write(bytes(4096)):
                        pass
            return real(module, *args)

        WhisperModule.training_step = filling

    return prepare


@pytest.mark.slow
def test_a_disk_that_fills(
    small_disk: Path, words: list[str], whole: tuple[Path, float], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = small_disk / "run"
    process = start([*words, f"folder={folder}"], fill_at_call(small_disk, 6))
    process.join()
    told = capfd.readouterr().err
    assert process.exitcode == 2 and "attune: The disk is full: " in told and "Traceback" not in told
    assert is_whole(folder / "checkpoints/last.ckpt")
    (small_disk / "somebody's").unlink()
    go_on(folder)
    check_same(folder, whole[0])
