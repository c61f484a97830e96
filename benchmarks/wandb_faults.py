"""What W&B costs a run, with a server that is well and with servers in trouble: python benchmarks/wandb_faults.py

Each case is the run of `python train.py WORDS` in a process of its own, against a server on the loopback that does what
the case says: from the start, or from the middle of training on. Counted is the time in which the run waits for W&B:
to begin, to log, to close, and from the last line of train.py to the end of the process: of a good server beyond that
of a run without W&B, of one in trouble beyond that of a good one. What else a run's time depends on is not in it.

    python benchmarks/wandb_faults.py                        # the default run, seven times: about 20 minutes
    python benchmarks/wandb_faults.py trainer.max_steps=10
    python benchmarks/wandb_faults.py --cases "none; good; hangs, middle"
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WAITS = ("make_loggers", "log_metrics", "close_wandb", "exit")
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
CASES = ("none", "good", *(f"{trouble}, {when}" for when in ("start", "middle") for trouble in
                          ("hangs", "answers 500", "hangs up")))  # fmt: skip


def time_calls(owner: Any, name: str, spent: dict[str, float]) -> None:
    """Add the seconds that a function takes to `spent`."""
    real: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    setattr(owner, name, timed)


def run_case(case: str, folder: Path, words: list[str]) -> None:
    """In a process of its own: run, and print what it waited."""
    import wandb  # noqa: F401  # seconds that are no server's fault
    from hydra import compose, initialize_config_dir
    from lightning.pytorch.callbacks import Callback
    from wandb_server import WandbServer

    import train
    from attune.train import loggers
    from attune.train.callbacks.progress import ProgressLine

    mode, _, when = case.partition(", ")
    server = WandbServer(mode if when == "start" else "good").serve()
    os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}
    spent: dict[str, float] = {}
    for owner, name in ((train, "make_loggers"), (train, "close_wandb"), (loggers.GuardedWandb, "log_metrics")):
        time_calls(owner, name, spent)

    def turn(self: Callback, trainer: Any, *_: Any) -> None:
        if when == "middle" and 2 * trainer.global_step >= trainer.max_steps:
            server.mode = mode

    ProgressLine.on_train_batch_start = turn  # type: ignore[method-assign]
    logger = ["logger=csv"] if case == "none" else []
    began = time.perf_counter()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", ["name=run", f"folder={folder}", *logger, *words], return_hydra_config=True)
    train.train(config)
    spent["run"] = time.perf_counter() - began
    rows = (folder / "metrics.csv").read_text("utf-8").count("\n") - 1
    print(json.dumps({"seconds": spent, "rows": rows, "asked": server.asked}), flush=True)


def measure(case: str, folder: Path, words: list[str]) -> dict[str, Any]:
    """What the process told, and the seconds from its last line to its end."""
    command = [sys.executable, __file__, "--case", case, str(folder), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("{"))
        told = time.perf_counter()
        process.wait()
    found = json.loads(line)
    found["seconds"]["exit"] = time.perf_counter() - told
    return found


def main(words: list[str], cases: Sequence[str] = CASES) -> None:
    print(f"{'case':20}" + "".join(f"{name:>11}" for name in ("run s", *WAITS, "share", "rows", "requests")))
    bare = dict.fromkeys(WAITS, 0.0)
    with tempfile.TemporaryDirectory() as place:
        for number, case in enumerate(cases):
            found = measure(case, Path(place) / str(number), words)
            seconds = found["seconds"]
            waits = [seconds.get(name, 0.0) - bare[name] for name in WAITS]
            share = ""
            if number < 2:
                bare = {name: seconds.get(name, 0.0) for name in WAITS}
            if number:
                share = f"{sum(waits) / (seconds['run'] + seconds['exit'] - sum(waits)):.1%}"
            numbers = "".join(f"{value:11.2f}" for value in (seconds["run"], *waits))
            print(f"{case:20}{numbers}{share:>11}{found['rows']:11}{found['asked']:11}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        run_case(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    elif sys.argv[1:2] == ["--cases"]:
        main(sys.argv[3:], [case.strip() for case in sys.argv[2].split(";")])
    else:
        main(sys.argv[1:])
