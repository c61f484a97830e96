"""Tests whose libraries leave threads of their own behind: in a process of their own, for others fork after them.

A process that has run CTranslate2's threads, and is forked, cannot multiply matrices in the child: it waits for ever.
"""

import functools
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

fork = multiprocessing.get_context("fork")  # ahead of those threads


def in_own_process(test: Callable[..., None]) -> Callable[..., None]:
    """The body of a test in a child: what it skips is skipped, what it raises is told by its traceback."""

    @functools.wraps(test)
    def begin(**fixtures: Any) -> None:
        hears, tells = fork.Pipe(duplex=False)
        process = fork.Process(target=_run, args=(tells, test, fixtures))
        process.start()
        tells.close()
        try:
            kind, told = hears.recv()
        except EOFError:
            process.join()
            kind, told = "failed", f"the process ended by itself, with {process.exitcode}"
        process.join()
        if kind == "skipped":
            pytest.skip(told)
        assert kind == "passed", told

    return begin


def _run(tells: Connection, test: Callable[..., None], fixtures: dict[str, Any]) -> None:
    try:
        test(**fixtures)
    except pytest.skip.Exception as reason:
        tells.send(("skipped", str(reason)))
    except BaseException:
        tells.send(("failed", traceback.format_exc()))
    else:
        tells.send(("passed", ""))
