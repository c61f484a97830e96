"""Pages of rows that were read are given back, and reading goes on as if nothing had happened."""

import re
import sys
from pathlib import Path

import pytest

from attune.data.corpora.mapping import let_go
from attune.data.corpora.schema import build_dataset

SIZE = 1 << 16


def measure_mapped_kb() -> int:
    """Resident pages of files and shared memory."""
    return int(re.findall(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are given back on Linux alone")
def test_pages_are_given_back_and_read_again() -> None:
    rows = [
        {
            "id": str(n),
            "audio": {"path": None, "bytes": bytes([n]) * SIZE},
            "text": "",
            "language": "en",
            "place": str(n),
        }
        for n in range(200)
    ]
    dataset = build_dataset(rows)
    let_go()
    before = measure_mapped_kb()
    assert [row["audio"]["bytes"][0] for row in dataset] == list(range(200))  # type: ignore[index, call-overload]
    read = measure_mapped_kb()
    assert read - before > 100 * SIZE // 1024
    assert let_go() >= 200 * SIZE
    assert measure_mapped_kb() - before < 20 * SIZE // 1024
    assert [row["audio"] == was["audio"] for row, was in zip(dataset, rows, strict=True)] == [True] * 200  # type: ignore[index, call-overload]
