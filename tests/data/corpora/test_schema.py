"""Rows go to a file, and are mapped from there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attune.data.corpora.rendering import Rendering, render
from attune.data.corpora.schema import FEATURES, ROWS_IN_MEMORY, build_dataset, keep_dataset
from attune.errors import InputError


def make_rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        audio = {"path": None, "bytes": b"x" * number}
        yield {"id": str(number), "audio": audio, "text": "", "language": "en", "place": f"row {number}"}


@pytest.mark.parametrize("count", [0, 1, 5 * ROWS_IN_MEMORY + 1])
def test_rows_are_written_in_batches_and_mapped(count: int) -> None:
    dataset = build_dataset(make_rows(count))
    assert dataset.features == FEATURES and len(dataset) == count
    assert dataset.cache_files
    assert max([len(batch) for batch in dataset.data.to_batches()], default=0) <= ROWS_IN_MEMORY
    for number in {0, count - 1} & set(range(count)):
        assert dataset[number]["audio"]["bytes"] == b"x" * number
        assert dataset[number]["segments"] == [] and dataset[number]["task"] == "transcribe"


def test_kept_rows_are_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "kept"
    first = keep_dataset(lambda: make_rows(3), folder)
    again = keep_dataset(lambda: pytest.fail("they were read again"), folder)
    assert list(first) == list(again)


def test_a_cache_that_cannot_be_written_is_said_before_a_row_is_read(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"cache/kept cannot be written \(.*cache is a file\).* ATTUNE_CACHE="):
        keep_dataset(lambda: pytest.fail("a row was read"), tmp_path / "cache" / "kept")
    with pytest.raises(InputError, match=r"cache/panel cannot be written .* ATTUNE_CACHE="):
        render({tmp_path / "cache" / "panel": Rendering([], "en")})


def test_rows_that_end_in_an_error_are_not_kept(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from make_rows(2)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        keep_dataset(rows, tmp_path / "kept")
    assert not list(tmp_path.iterdir())
