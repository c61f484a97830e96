"""A JSONL file that grows by one line at a time, of which a crash loses nothing that was acknowledged."""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attune.errors import InputError
from attune.report.record import write_atomically

Row = dict[str, Any]


class Journal:
    """The rows of a file, in memory and on the disk.

    A last line that a crash cut off was never acknowledged: it is taken off the file, and told in `torn`.

    Args:
        path: is made where it does not exist, but its folder is not.
        columns: what every row has.

    Raises:
        InputError: the file cannot be read or written, or a whole line is no JSON object with these columns.
    """

    def __init__(self, path: Path, columns: Sequence[str] = ()):
        self.path, self.columns = path, columns
        self.lock = threading.RLock()
        self.torn = ""  # a sentence
        try:
            content = path.read_bytes() if path.exists() else b""
            self.rows = list(self._read(content))
            self._open()
            self._mend(content)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}). Give a folder in which you may write."
            ) from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Returns when the row is on the disk.

        Raises:
            OSError: it is not, as on a full disk; then the file is as it was.
        """
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="backslashreplace")
        with self.lock:
            size = os.fstat(self.file).st_size
            try:
                if os.write(self.file, line) < len(line):
                    raise OSError(f"{self.path}: the disk is full")
                os.fsync(self.file)
            except OSError:
                os.ftruncate(self.file, size)
                raise
            self.rows.append(dict(row))

    def remove(self, row: Row) -> None:
        """Write the file without a row, whole or not at all."""
        with self.lock:
            kept = [each for each in self.rows if each is not row]
            write_atomically(self.path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in kept))
            os.close(self.file)
            self._open()
            self.rows = kept

    def _open(self) -> None:
        self.file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _read(self, content: bytes) -> Iterator[Row]:
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            row = _parse(line)
            if row is None and (not line.strip() or number == len(lines)):
                continue
            if row is None or not row.keys() >= set(self.columns):
                wanted = f" with {', '.join(self.columns)}" if self.columns else ""
                raise InputError(
                    f"{self.path}, line {number} is no JSON object{wanted}: {line[:60].decode(errors='replace')!r}. "
                    "Mend or remove that line; nothing was changed."
                )
            yield row

    def _mend(self, content: bytes) -> None:
        """End the file with a whole line."""
        last = content.rpartition(b"\n")[2]
        if not last:
            return
        if _parse(last) is not None:
            os.write(self.file, b"\n")
            return
        os.ftruncate(self.file, len(content) - len(last))
        self.torn = (
            f"The last line of {self.path} was cut off by a crash and is taken off: "
            f"{last[:60].decode(errors='replace')!r}. What it answered is asked again."
        )


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    return row if isinstance(row, dict) else None
