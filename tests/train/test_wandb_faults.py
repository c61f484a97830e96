"""W&B that does not answer, answers nonsense, hangs up, or dies in the middle: the run has all of its metrics."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import Logger
from wandb_server import TROUBLES, WandbServer

from attune.train import loggers, reach
from attune.train.loggers import GuardedWandb, MetricsFile, close_wandb, make_loggers
from attune.train.reach import is_answering

LOGGED = [1.0 / (step + 1) for step in range(20)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    server = WandbServer().serve()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()  # an earlier test's address
    yield server
    server.end()
    wandb.teardown()


def log(made: list[Logger], first: int = 0, last: int = 20) -> None:
    for step in range(first, last):
        for each in made:
            each.log_metrics({"train/loss": LOGGED[step]}, step=step)
    made[0].save()


def read_file(folder: Path) -> list[float]:
    return [float(row["train/loss"]) for row in MetricsFile(folder).rows]


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_server_in_trouble_from_the_start_is_left_alone(
    trouble: str, server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.mode = trouble
    with caplog.at_level(logging.WARNING):
        made = make_loggers(tmp_path, "test", {"seed": 1})
        log(made)
        close_wandb(made, {"result": {}}, [])
    assert read_file(tmp_path) == LOGGED
    assert f"was not reached ({server.url} does not answer)" in caplog.text
    assert server.asked == 1 and list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_a_server_whose_trouble_begins_later_costs_no_metric(
    where: str, trouble: str, server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`start`: it answers when it is asked whether it is there, and never after that."""
    monkeypatch.setattr(loggers, "INIT_S", 2.0)
    with caplog.at_level(logging.WARNING):
        if where == "start":
            monkeypatch.setattr(loggers, "is_answering", lambda *_: True)
            server.mode = trouble
        made = make_loggers(tmp_path, "test", {"seed": 1}, finish_s=2.0)
        log(made, 0, 10)
        if where == "middle":
            server.mode = trouble
        log(made, 10)
        if where == "end":
            server.mode = trouble
        began = time.monotonic()
        close_wandb(made, {"result": {}}, [])
    assert time.monotonic() - began < 30  # as long as it was told, and not as long as W&B would try again: hours
    assert read_file(tmp_path) == LOGGED
    assert ("was not reached" if where == "start" else "in the time of logger.finish_s") in caplog.text
    assert list(tmp_path.glob("wandb/*run-*/*.wandb"))  # for wandb sync


@pytest.mark.slow
def test_what_a_server_is_sent_is_what_the_file_holds(server: WandbServer, tmp_path: Path) -> None:
    made = make_loggers(tmp_path, "test", {"seed": 1})
    log(made)
    close_wandb(made, {"result": {}}, [])
    sent = {row["trainer/global_step"]: row["train/loss"] for row in server.history if "train/loss" in row}
    assert read_file(tmp_path) == LOGGED == [sent[step] for step in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_run_that_goes_on_is_the_same_one_there(
    mode: str, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    seen = []
    for _ in range(2):  # a process each: the run, and the one that goes on
        made = make_loggers(tmp_path, "test", {"seed": 1})
        assert isinstance(made[1], GuardedWandb)
        seen.append(made[1].experiment.id)
        log(made)
        close_wandb(made, {"result": {}}, [])
        wandb.teardown()
    kept = (tmp_path / "wandb" / "id").read_text()
    assert seen == [kept, kept]
    assert set(server.runs) == ({kept} if mode == "online" else set())
    assert {kept in path.name for path in tmp_path.glob("wandb/*run-*")} == {True}


def test_whether_a_server_answers(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_answering(server.url, 5.0)
    for trouble in TROUBLES:
        server.mode = trouble
        assert not is_answering(server.url, 0.2)
    assert not is_answering("not a URL", 5.0)
    monkeypatch.setattr(reach, "_ask", lambda *_: time.sleep(60))  # a name that is looked up and never found
    assert not is_answering(server.url, 0.1)


def test_a_process_that_dies_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Dead:
        """What is left of a run whose process was killed."""

        step = 0

        def log(self, *args: object, **kwargs: object) -> None:
            raise ConnectionResetError("the service is gone")

        def define_metric(self, *args: object, **kwargs: object) -> None:
            pass

    logger = GuardedWandb(experiment=Dead(), save_dir=tmp_path)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            logger.log_metrics({"train/loss": 1.0}, step=step)
    assert caplog.text.count("takes no more metrics (the service is gone)") == 1
