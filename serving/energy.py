"""What the machine's processors, memory and GPUs use, in joules, by their own counters. All processes of the machine are in it.

RAPL: the Linux kernel's /sys/class/powercap, where each zone has `energy_uj`, which starts again from 0 after `max_energy_range_uj`.
Processor packages are the device `cpu`, memory modules `dram`; zones within a package are in it already, and `psys` holds them all.
NVML: nvmlDeviceGetTotalEnergyConsumption, in millijoules since the driver was loaded, for GPUs since Volta; `cuda:N` is NVML's number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
DEVICES = {"package": "cpu", "dram": "dram"}
JOULES_PER_MICROJOULE, JOULES_PER_MILLIJOULE = 1e-6, 1e-3


class Zone:
    """One zone of RAPL. It has to be read once a round of its counter: five minutes at 200 W where the range is 65 kJ."""

    method = "rapl"

    def __init__(self, folder: Path) -> None:
        """Raises OSError or ValueError where it cannot be read."""
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self.device = DEVICES[(folder / "name").read_text().strip().split("-")[0]]
        self._last = int(self._file.read_text())
        self._microjoules = 0

    def joules(self) -> float:
        """Since it was made."""
        try:
            now = int(self._file.read_text())
        except (OSError, ValueError):  # gone for now; what it used meanwhile is in the next reading
            now = self._last
        self._microjoules += now - self._last if now >= self._last else now - self._last + self._range
        self._last = now
        return self._microjoules * JOULES_PER_MICROJOULE


class Gpu:
    """One GPU of NVML."""

    method = "nvml"

    def __init__(self, nvml: Any, number: int) -> None:
        """Raises NVMLError where it counts no energy."""
        self.device = f"cuda:{number}"
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(number)
        self._last = nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        self._millijoules = 0

    def joules(self) -> float:
        """Since it was made."""
        try:
            now = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError:  # gone for now; what it used meanwhile is in the next reading
            now = self._last
        self._millijoules += now - self._last if now >= self._last else now  # the driver was loaded anew
        self._last = now
        return self._millijoules * JOULES_PER_MILLIJOULE


@dataclass(frozen=True, slots=True)
class Energy:
    """The counters of this machine that can be read. `missing`: why there are no others, a clause each."""

    meters: Sequence[Zone | Gpu]
    missing: Sequence[str]

    def samples(self) -> list[tuple[dict[str, str], float]]:
        """Joules by device and method, since these were found."""
        joules: dict[tuple[str, str], float] = {}
        for meter in self.meters:
            key = (meter.device, meter.method)
            joules[key] = joules.get(key, 0.0) + meter.joules()
        return [({"device": device, "method": method}, value) for (device, method), value in joules.items()]

    def __str__(self) -> str:
        found = ", ".join(dict.fromkeys(f"{meter.device} by {meter.method}" for meter in self.meters))
        return f"energy is counted for {found}" if found else f"no energy is counted: {'; '.join(self.missing)}"


def find(root: Path = POWERCAP, nvml: Any = None) -> Energy:
    """What there is below `root`, and what `nvml`, the module pynvml or None, knows of."""
    zones, no_zones = _zones(root)
    gpus, no_gpus = _gpus(nvml) if nvml else ([], "nvidia-ml-py is not installed")
    return Energy([*zones, *gpus], [clause for clause in (no_zones, no_gpus) if clause])


def installed_nvml() -> Any:
    """The module pynvml, or None."""
    try:
        import pynvml  # an extra, which machines without a GPU do not need
    except ImportError:
        return None
    return pynvml


def _zones(root: Path) -> tuple[list[Zone], str]:
    zones, unreadable = [], ""
    for folder in _counted(root.glob("intel-rapl:*")):
        try:
            zones.append(Zone(folder))
        except (OSError, ValueError) as error:
            unreadable = f"{folder.name} of RAPL cannot be read: {getattr(error, 'strerror', error)}"
    return zones, unreadable or ("" if zones else f"no RAPL in {root}")


def _counted(folders: Iterable[Path]) -> list[Path]:
    """Those that are in no other one."""
    counted = []
    for folder in sorted(folders):
        try:
            name = (folder / "name").read_text().strip()
        except OSError:
            continue
        if name.split("-")[0] in DEVICES:
            counted.append(folder)
    return counted


def _gpus(nvml: Any) -> tuple[list[Gpu], str]:
    try:
        nvml.nvmlInit()
        numbers = range(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError as error:
        return [], f"NVML: {error}"
    gpus, fault = [], ""
    for number in numbers:
        try:
            gpus.append(Gpu(nvml, number))
        except nvml.NVMLError as error:
            fault = f"NVML of cuda:{number}: {error}"
    return gpus, fault or ("" if gpus else "NVML knows no GPU")
