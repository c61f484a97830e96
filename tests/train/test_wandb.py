"""What W&B logs offline is what metrics.csv holds: read back from its file, and nothing is lost when it is synced."""

import csv
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = [
    "model=scratch",
    "model.scratch.width=32",
    "model.scratch.layers=1",
    "model.scratch.heads=2",
    "trainer.max_steps=4",
    "trainer.validate_every=2",
    "trainer.log_every=1",
    "trainer.accelerator=cpu",
    "data.shots=8",
    "logger=wandb",
    "logger.mode=offline",
    "seed=1",
]
BLOCK, HEADER = 32768, struct.Struct("<IHB")  # LevelDB's log format: blocks of records with checksum, length and kind
FULL, FIRST, LAST = 1, 2, 4


def read_messages(path: Path) -> Iterator[bytes]:
    """The messages of an offline .wandb file; its first seven bytes name the format."""
    content, place, message = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + HEADER.size <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:  # too little for a header: padding
            place += left
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        place += HEADER.size
        message = (
            content[place : place + length] if kind in (FULL, FIRST) else message + content[place : place + length]
        )
        place += length
        if kind in (FULL, LAST):
            yield message


def read_history(path: Path) -> list[dict[str, float]]:
    from wandb.proto import wandb_internal_pb2

    history = []
    for message in read_messages(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return history


@pytest.mark.slow
def test_what_was_logged_offline_is_complete(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_MODE": "offline"}
    command = [sys.executable, str(ROOT / "train.py"), *WORDS, "folder=run"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (path,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    history = read_history(path)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    logged = {
        (int(row["trainer/global_step"]), key): row[key]
        for row in history
        if "trainer/global_step" in row
        for key in row
    }
    expected = {
        (int(row["step"]), key): float(cell) for row in rows for key, cell in row.items() if cell and key != "step"
    }
    assert expected and expected.keys() <= logged.keys()
    assert {place: logged[place] for place in expected} == pytest.approx(expected, rel=1e-6)
