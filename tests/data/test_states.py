"""Stored states: what was written comes back, half a shard is none, and the disk has a limit."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from attune.data.states import ShardWriter, StoredStates, hold, key_of, make_room
from attune.errors import InputError

STATES = {f"key {i}": torch.randn(3 + i, 8, generator=torch.Generator().manual_seed(i)) for i in range(5)}


def write(folder: Path) -> StoredStates:
    with ShardWriter(folder) as writer:
        for key, states in STATES.items():
            writer.write(key, states, samples=100 + len(states))
    return StoredStates(folder, width=8)


@pytest.mark.parametrize("shard_bytes", [1, 100, 2**20])
def test_what_was_written_comes_back_rounded(shard_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attune.data.states.SHARD_BYTES", shard_bytes)
    store = write(tmp_path)
    shards, indices = (sorted(path.stem for path in tmp_path.glob(f"*.{suffix}")) for suffix in ("bf16", "json"))
    assert shards == indices and len(shards) == {1: 5, 100: 3, 2**20: 1}[shard_bytes]
    for key, states in STATES.items():
        found, samples = store.read(key)
        assert found.dtype == torch.bfloat16 and torch.equal(found, states.bfloat16())
        assert samples == 100 + len(states)
    assert "key 9" not in store


def test_half_a_shard_is_none(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.write("key", STATES["key 0"], samples=1)
    store = StoredStates(tmp_path, width=8)
    assert "key" not in store
    with writer:
        pass
    assert "key" not in store  # until it looks again
    store.refresh()
    assert "key" in store


def test_an_error_keeps_what_was_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path) as writer:
        writer.write("key", STATES["key 0"], samples=1)
        raise KeyboardInterrupt
    assert "key" in StoredStates(tmp_path, width=8)


def make_row(**changed: Any) -> dict[str, Any]:
    return {"audio": {"path": None, "bytes": b"sound"}, "start_s": None, "end_s": None} | changed


def test_a_key_is_another_where_anything_is(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"sound")
    on_disk = make_row(audio={"path": str(file), "bytes": None})
    keys = [
        key_of(make_row(), 150, 0, ""),
        key_of(make_row(), 200, 0, ""),
        key_of(make_row(), 150, 1, ""),
        key_of(make_row(), 150, 0, "Speed(0.9)"),
        key_of(make_row(start_s=0.5), 150, 0, ""),
        key_of(make_row(audio={"path": None, "bytes": b"other"}), 150, 0, ""),
        key_of(on_disk, 150, 0, ""),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(make_row(), 150, 0, "") == keys[0] and key_of(on_disk, 150, 0, "") == keys[-1]
    os.utime(file, ns=(1, 1))
    assert key_of(on_disk, 150, 0, "") != keys[-1]


def fill(folder: Path, kilobytes: int, used_at: int) -> None:
    folder.mkdir(parents=True)
    (folder / "a.bf16").write_bytes(bytes(1000 * kilobytes))
    (folder / "a.json").write_text("{}")
    os.utime(folder, (used_at, used_at))


def test_the_longest_unused_gives_way(tmp_path: Path) -> None:
    for name, used_at in (("old", 1), ("older", 0), ("new", 2)):
        fill(tmp_path / name, 100, used_at)
    make_room(tmp_path, tmp_path / "own", needed_bytes=50_000, budget_bytes=301_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "own"]


def test_what_another_run_is_using_stays(tmp_path: Path) -> None:
    """Two encoders that together are too large for the budget, one after the other and then side by side."""
    held = hold(tmp_path / "other")
    store = write(tmp_path / "other")
    with pytest.raises(InputError, match=r"0.0 GB that other runs are using. cache.budget_gb is 1e-06"):
        make_room(tmp_path, tmp_path / "own", needed_bytes=500, budget_bytes=1_000)
    assert torch.equal(store.read("key 4")[0], STATES["key 4"].bfloat16())
    held.close()
    make_room(tmp_path, tmp_path / "own", needed_bytes=500, budget_bytes=1_000)
    assert not (tmp_path / "other").exists()


def test_too_small_a_budget_is_said(tmp_path: Path) -> None:
    fill(tmp_path / "own", 100, 0)
    with pytest.raises(InputError, match=r"cache.budget_gb is 0.00012, .* Raise cache.budget_gb, lower cache.draws"):
        make_room(tmp_path, tmp_path / "own", needed_bytes=50_000, budget_bytes=120_000)
    assert (tmp_path / "own" / "a.bf16").exists()
