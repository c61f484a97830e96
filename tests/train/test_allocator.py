"""Blocks of some megabytes go back to the system once they are freed."""

import sys

import pytest
import torch

from attune.train.allocator import return_freed_memory
from attune.train.memory import find_process, find_resident


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_freed_is_no_longer_resident() -> None:
    if not return_freed_memory():
        pytest.skip("this C library has no mallopt")
    before = find_resident()
    blocks = [torch.ones(2_000_000) for _ in range(10)]  # 8 MB each
    pinned = [torch.ones(10) for _ in range(10)]  # small ones between and behind them
    assert find_resident() - before > 60e6
    del blocks
    assert find_resident() - before < 30e6 and len(pinned) == 10


def test_the_process_is_what_is_resident_without_the_model() -> None:
    before = find_resident()
    model = torch.nn.Linear(4000, 4000)  # 64 MB
    assert find_process(model) == pytest.approx(before, abs=20e6)
