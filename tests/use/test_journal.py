"""A journal keeps what it acknowledged."""

import itertools
import json
import os
import signal
from pathlib import Path

import pytest

from attune.errors import InputError
from attune.use.journal import Journal


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_rows_come_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    rows = [{"a": "ß\n"}, {"a": "\ud800"}, {"a": None}]
    for row in rows:
        journal.append(row)
    journal.remove(journal.rows[1])
    journal.append(rows[0])
    assert journal.rows == read(journal.path) == [rows[0], rows[2], rows[0]]
    again = Journal(journal.path, ["a"])
    assert (again.rows, again.torn) == (journal.rows, "")


@pytest.mark.parametrize("tail", [b'{"a": "se', b'"a"', '{"a": "ж'.encode()[:-1], b"\0\0\0"])
def test_a_torn_last_line_is_taken_off_and_told(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + tail)
    journal = Journal(path, ["a"])
    assert journal.rows == [{"a": 1}] and "was cut off by a crash" in journal.torn
    journal.append({"a": 2})
    assert Journal(path).rows == [{"a": 1}, {"a": 2}]


def test_a_whole_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    journal = Journal(path)
    journal.append({"a": 3})
    assert read(path) == [{"a": 1}, {"a": 2}, {"a": 3}] and not journal.torn


@pytest.mark.parametrize(("line", "message"), [(b'{"a": ', "line 2 is no JSON object"), (b'{"b": 1}', "with a: '{")])
def test_a_broken_line_is_named_and_nothing_changes(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content := b'{"a": 1}\n' + line + b'\n{"a": 3}\n{"a"')
    with pytest.raises(InputError, match=message):
        Journal(path, ["a"])
    assert path.read_bytes() == content


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "folder.jsonl", tmp_path / "nowhere" / "a.jsonl"):
        with pytest.raises(InputError, match="cannot be written"):
            Journal(path)
    journal = Journal(tmp_path / "a.jsonl")
    journal.append({"a": 1})
    write = os.write
    monkeypatch.setattr("attune.use.journal.os.write", lambda file, line: write(file, line[:3]))
    with pytest.raises(OSError, match="the disk is full"):
        journal.append({"a": 2})
    assert journal.rows == read(journal.path) == [{"a": 1}]


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    told, tell = os.pipe()
    child = os.fork()  # a new interpreter would take seconds
    if child == 0:
        journal = Journal(path)
        for number in itertools.count():
            journal.append({"number": number, "text": "ж" * 500})
            os.write(tell, b".")
    os.close(tell)
    acknowledged = sum(len(os.read(told, 1)) for _ in range(30))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while heard := os.read(told, 4096):
        acknowledged += len(heard)
    os.close(told)
    rows = Journal(path).rows
    assert acknowledged <= len(rows) <= acknowledged + 1
    assert [row["number"] for row in rows] == list(range(len(rows)))
