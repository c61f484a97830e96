"""Tests whose libraries bring threads of their own: in a process of their own, which nobody has forked or will fork.

CTranslate2 brings a second OpenMP beside torch's. Where it has run, a forked child cannot multiply matrices; where
torch has run, it dies in a forked child.
"""

import functools
import importlib
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

spawn = multiprocessing.get_context("spawn")


def in_own_process(test: Callable[..., None]) -> Callable[..., None]:
    """The body of a test in a new interpreter, which the fixtures are sent to; what it raises is told by its
    traceback."""

    @functools.wraps(test)
    def begin(**fixtures: Any) -> None:
        hears, tells = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_run, args=(tells, test.__module__, test.__name__, fixtures))
        process.start()
        tells.close()
        try:
            told = hears.recv()
        except EOFError:
            process.join()
            told = f"the process ended by itself, with {process.exitcode}"
        process.join()
        assert not told, told

    return begin


def _run(tells: Connection, module: str, name: str, fixtures: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    try:
        getattr(importlib.import_module(module), name).__wrapped__(**fixtures)
    except BaseException:
        tells.send(traceback.format_exc())
    else:
        tells.send("")
