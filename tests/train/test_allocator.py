"""Blocks of some megabytes go back to the system once they are freed."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attune.train.allocator import return_freed_memory, return_gaps
from attune.train.room import find_process, find_resident


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_freed_is_no_longer_resident() -> None:
    if not return_freed_memory():
        pytest.skip("this C library has no mallopt")
    gc.collect()  # what other tests left would go in between
    return_gaps()
    before = find_resident()
    blocks = [torch.ones(10_000_000) for _ in range(10)]  # 40 MB each
    pinned = [torch.ones(10) for _ in range(10)]  # small ones between and behind them
    assert find_resident() - before > 300e6
    del blocks
    assert find_resident() - before < 100e6 and len(pinned) == 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_gaps_are_no_longer_resident() -> None:
    gc.collect()
    blocks = [torch.ones(250_000) for _ in range(100)]  # 1 MB each: they lie in the heap
    pinned = blocks[::10]
    del blocks
    before = find_resident()
    if not return_gaps():
        pytest.skip("this C library has no malloc_trim")
    assert before - find_resident() > 50e6 and len(pinned) == 10


@pytest.mark.parametrize(
    ("name", "default"),
    [("THP_MEM_ALLOC_ENABLE", "1"), ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"), ("LRU_CACHE_CAPACITY", "64")],
)
def test_torch_is_asked_for_large_pages_and_few_kernels(name: str, default: str) -> None:
    """Set by hand it stays; set by attune it is there before torch's first block."""
    say = f"import attune, os; print(os.environ[{name!r}])"
    for given, told in (({}, default), ({name: "0"}, "0")):
        rest = {other: value for other, value in os.environ.items() if other != name}
        done = subprocess.run([sys.executable, "-c", say], env=rest | given, capture_output=True, text=True)
        assert done.stdout.strip() == told
    lines = (Path(__file__).parents[2] / "train.py").read_text().splitlines()
    imported = [line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))]
    assert imported.index("attune") < min(map(imported.index, ("hydra", "lightning")))


def test_products_of_many_shapes_in_16_bits_leave_little_behind() -> None:
    """As decoding makes them, one key longer with every token. Half a MB of each would stay."""
    say = """
import attune, torch
from attune.train.room import find_resident

def multiply(shapes):
    for keys in shapes:
        torch.ones(48, 1, 64, dtype=torch.bfloat16) @ torch.ones(48, 64, keys, dtype=torch.bfloat16)

multiply(range(10, 110))
before = find_resident()
multiply(range(110, 410))
print(find_resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 30e6


def test_the_process_is_what_is_resident_without_the_model() -> None:
    before = find_resident()
    model = torch.nn.Linear(4000, 4000)  # 64 MB
    assert find_process(model) == pytest.approx(before, abs=20e6)
