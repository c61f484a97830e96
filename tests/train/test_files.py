"""Files are whole or not there: a full disk, a damaged state, the one before."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from attune.errors import InputError
from attune.train.callbacks.checkpoints import Checkpoints
from attune.train.files import WholeCheckpoints, find_last, is_whole, write_atomically
from attune.train.loggers import MetricsFile


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        WholeCheckpoints().save_checkpoint({"step": step, "weights": torch.ones(1000)}, folder / "last.ckpt")


def read_step(path: Path | None) -> int:
    assert path is not None
    return torch.load(path, weights_only=True)["step"]


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    assert find_last(tmp_path) is None
    save(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before_last.ckpt", "last.ckpt"]
    assert [read_step(tmp_path / name) for name in ("before_last.ckpt", "last.ckpt")] == [2, 3]
    assert read_step(find_last(tmp_path)) == 3


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """One bit of a weight: a file that can still be opened."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(4).numpy().tobytes()) + 40] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, flip, empty, Path.unlink])
def test_a_damaged_state_falls_back_to_the_one_before(
    harm: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1, 2)
    harm(folder / "last.ckpt")
    assert not is_whole(folder / "last.ckpt")
    with caplog.at_level(logging.WARNING):
        assert read_step(Checkpoints(tmp_path).find_last()) == 1
    assert "goes on from the state before" in caplog.text
    assert ("last.ckpt is damaged" in caplog.text) == (harm is not Path.unlink)


def test_nothing_whole_is_said(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        cut(path)
    with pytest.raises(InputError, match="before_last.ckpt, last.ckpt. Start the run anew"):
        find_last(tmp_path)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """/dev/full refuses every byte, as a full disk does."""
    save(tmp_path, 1)
    (tmp_path / ".last.ckpt.partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"disk is full: .*last.ckpt could not be written.*resume="):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"] and read_step(find_last(tmp_path)) == 1


def test_metrics_survive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"train/loss": 2.5}, step=0)
    metrics.save()
    metrics.log_metrics({"train/loss": 1.5}, step=1)
    monkeypatch.setattr("attune.train.files.os.getpid", lambda: 7)
    (tmp_path / ".metrics.csv.7.partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match="disk is full"):
        metrics.save()
    assert MetricsFile(tmp_path).rows == [{"step": "0", "train/loss": "2.5"}]


def test_another_fault_is_not_called_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="ot a directory|exists"):
        write_atomically(tmp_path / "file" / "within", "text")
