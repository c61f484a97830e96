"""Energy counters, from files as the kernel shows them."""

from pathlib import Path

import pytest

from attune.train import energy
from attune.train.energy import Energy


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A processor package, and a part of it that must not be counted again."""
    monkeypatch.setattr(energy, "_open_gpu", lambda: None)
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("5000000\n")
        (tmp_path / name / "energy_uj").write_text("4000000\n")
    return tmp_path / "intel-rapl:0" / "energy_uj"


def test_energy_is_added_up_between_start_and_stop(package: Path) -> None:
    meter = Energy(package.parents[1])
    assert meter.kilojoules is None
    meter.start()
    package.write_text("4500000\n")
    meter.stop()
    package.write_text("4800000\n")  # between two steps
    meter.start()
    package.write_text("300000\n")  # the counter has begun anew
    meter.stop()
    assert meter.kilojoules == pytest.approx((0.5 + 0.5) / 1000)


def test_what_cannot_be_read_is_not_known(package: Path) -> None:
    package.unlink()
    meter = Energy(package.parents[1])
    meter.start()
    meter.stop()
    assert meter.kilojoules is None
