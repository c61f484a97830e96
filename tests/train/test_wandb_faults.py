"""W&B that does not answer, answers nonsense, hangs up, or dies in the middle: the run has all of its metrics."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from attune.train import loggers
from attune.train.loggers import GuardedWandb, MetricsFile, close_wandb, make_loggers

MODES = ["hangs", "answers 500", "hangs up"]


class Server(threading.Thread):
    """Takes connections on the loopback, and does what its mode says."""

    def __init__(self, mode: str):
        super().__init__(daemon=True)
        self.mode = mode
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.held: list[socket.socket] = []
        self.asked = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            self.asked += 1
            if self.mode == "hangs":
                self.held.append(connection)
                continue
            if self.mode == "answers 500":
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
            connection.close()


@pytest.fixture(params=MODES)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(request.param)
    server.start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.listener.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    yield server
    wandb.teardown()  # it would remember this server's address
    server.listener.close()


@pytest.mark.slow
def test_a_server_in_trouble_costs_seconds_and_no_metric(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loggers, "INIT_S", 3.0)
    monkeypatch.setattr(loggers, "FINISH_S", 3.0)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        made = make_loggers(tmp_path, "test", {"seed": 1})
        for step in range(20):
            for each in made:
                each.log_metrics({"train/loss": 1.0 / (step + 1)}, step=step)
        made[0].save()
        close_wandb(made, {"result": {}}, [])
    assert server.asked and time.monotonic() - started < 60
    assert [float(row["train/loss"]) for row in MetricsFile(tmp_path).rows] == [1.0 / (step + 1) for step in range(20)]
    assert "was not reached" in caplog.text and list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


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
