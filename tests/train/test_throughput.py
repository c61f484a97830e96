"""How fast a run was: over all its parts, and against a peak that other work has not lowered."""

from types import SimpleNamespace
from typing import Any

import pytest

from attune.train.callbacks import throughput
from attune.train.callbacks.throughput import Throughput


def make_module() -> Any:
    return SimpleNamespace(utterances_seen=0, audio_seen_s=0.0, flops_done=0.0, skipped_steps=0)


def train(speed: Throughput, module: Any, steps: int) -> None:
    for step in range(steps):
        speed.on_train_batch_start()
        module.utterances_seen, module.audio_seen_s = module.utterances_seen + 8, module.audio_seen_s + 24.0
        module.flops_done += 1e9
        speed.seconds += 1.0
        speed.on_train_batch_end(SimpleNamespace(global_step=step + 1), module)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the device is measured at, one value a time; on a busy machine it is slower."""
    found = [4e9, 4e9, 4e9]
    monkeypatch.setattr(throughput, "find_peak", lambda _: found.pop(0))
    return found


def test_a_run_in_two_parts_tells_of_both() -> None:
    first, module = Throughput(0.0), make_module()
    first.setup(SimpleNamespace(is_global_zero=True), module, "fit")  # type: ignore[arg-type]
    train(first, module, 10)
    first.energy.joules = 500.0
    state = first.state_dict()
    assert state["seconds"] == pytest.approx(10, abs=0.1) and state["utterances_seen"] == 80

    other = Throughput(0.0)
    for is_first, seen in ((True, 80), (False, 0)):  # of several processes the first has the sum
        module = make_module()
        other.setup(SimpleNamespace(is_global_zero=is_first), module, "fit")  # type: ignore[arg-type]
        other.load_state_dict(state)
        assert module.utterances_seen == seen and other.seconds == state["seconds"]
    other.is_first, other.module = True, (module := make_module())
    other.load_state_dict(state)
    train(other, module, 5)
    told = other.summary(15, module)
    assert told["seconds"] == pytest.approx(15, abs=0.1)
    assert told["utterances_per_second"] == pytest.approx(8, rel=0.01)
    assert told["audio_seconds_per_second"] == pytest.approx(24, rel=0.01)
    assert told["energy_kj"] == pytest.approx(0.5) and told["first_step_after_s"] == state["first_step_after_s"]
    assert told["mfu"] == pytest.approx(0.25, rel=0.01)


@pytest.mark.parametrize(("measured", "share"), [([2e9, 8e8], 0.5), ([8e8, 2e9], 0.5), ([8e8, 9e8], None)])
def test_no_share_is_above_the_whole(measured: list[float], share: float | None, peaks: list[float]) -> None:
    """A machine that is busy while its peak is measured; the larger one of two counts."""
    peaks[:] = measured
    speed, module = Throughput(0.0), make_module()
    train(speed, module, 10)
    assert speed.summary(10, module)["mfu"] == (None if share is None else pytest.approx(share, rel=0.01))
