"""The energy that processors take, where the machine lets it be read."""

from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")  # Linux: the counters of Intel's and AMD's processors; root alone may read many


class Energy:
    """Joules between `start` and `stop`, added up: of this process's NVIDIA GPU where nvidia-ml-py is installed and the
    GPU counts (Volta and later), else of all processor packages. What other processes take meanwhile is among it.

    `kilojoules` is None where nothing can be read.
    """

    def __init__(self, root: Path = POWERCAP):
        self.domains = {path: _read(path.parent / "max_energy_range_uj") for path in root.glob("*-rapl:*/energy_uj")}
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it.
        self.domains = {path: span for path, span in self.domains.items() if path.parent.name.count(":") == 1}
        self.gpu = _open_gpu()
        self.before: dict[Any, float] = {}
        self.joules: float | None = None

    @property
    def kilojoules(self) -> float | None:
        return None if self.joules is None else self.joules / 1000

    def start(self) -> None:
        self.before = self._read()

    def stop(self) -> None:
        for counter, after in self._read().items():
            if counter in self.before:
                spent = after - self.before[counter]
                span = self.domains.get(counter) or 0.0
                spent += span if spent < 0 else 0.0  # the counter has begun anew, as it does every few hundred kJ
                self.joules = (self.joules or 0.0) + max(0.0, spent) / 1e6

    def _read(self) -> dict[Any, float]:
        """Counter -> microjoules."""
        if self.gpu is not None:
            pynvml, handle = self.gpu
            try:
                return {"gpu": 1e3 * pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)}
            except pynvml.NVMLError:
                return {}
        found = {path: _read(path) for path in self.domains}
        return {path: value for path, value in found.items() if value is not None}


def _open_gpu() -> tuple[Any, Any] | None:
    try:
        import pynvml  # type: ignore[import-not-found]

        if not torch.cuda.is_available():
            return None
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        )
    except Exception:  # not installed, or a driver that does not answer: then the energy is not known
        return None


def _read(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
