"""Runs of several processes on this machine's cores: forked, with the environment that torchrun gives."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from attune.report import finish
from attune.train.callbacks import throughput
from train import train

ROOT = Path(__file__).parents[1]
fork = multiprocessing.get_context("fork")  # what took seconds to import is there at once
WAIT_S = 240.0


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def enter(rank: int, ranks: int, port: int) -> None:
    """Be one of `ranks` processes that torchrun has begun."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_WORLD_SIZE": 1}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": 0}
    os.environ |= {name: str(value) for name, value in names.items()}
    torch.set_num_threads(1)


def run(words: list[str], before: Callable[[], None] = lambda: None) -> None:
    """train.py with these words; `before` may patch what it will do."""
    finish._draw = lambda *_: None  # seconds that have nothing to do with it
    throughput.measure_peak = lambda *_: 1e12
    before()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose("train", words, return_hydra_config=True))


def launch(ranks: int, target: Callable[[int], None]) -> list[int | None]:
    """Call `target` with each rank, each in a process of its own; their exit codes, None for one that hangs."""
    port = find_port()

    def begin(rank: int) -> None:
        if ranks > 1:
            enter(rank, ranks, port)
        target(rank)

    processes = [fork.Process(target=begin, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes
