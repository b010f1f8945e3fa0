"""Joules from the counters that a machine has, which go round, disappear and come back."""

from pathlib import Path
from typing import Any

import pytest

from serving import energy
from serving.ledger import Ledger
from serving.telemetry import Telemetry

NO_NVML = "nvidia-ml-py is not installed"


def zone(root: Path, folder: str, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    """A zone as the kernel shows it."""
    where = root / folder
    where.mkdir(parents=True)
    (where / "name").write_text(f"{name}\n")
    (where / "max_energy_range_uj").write_text(f"{most}\n")
    return counted(where, microjoules)


def counted(where: Path, microjoules: int) -> Path:
    (where / "energy_uj").write_text(f"{microjoules}\n")
    return where


def joules(found: energy.Energy) -> dict[tuple[str, str], float]:
    return {(labels["device"], labels["method"]): value for labels, value in found.samples()}


class NVMLError(Exception):
    """As pynvml's."""


class Nvml:
    """What pynvml does, for GPUs that have used so many millijoules; None for one that counts none."""

    NVMLError = NVMLError

    def __init__(self, *millijoules: int | None, broken: str = "") -> None:
        self.millijoules = list(millijoules)
        self.broken = broken

    def nvmlInit(self) -> None:
        if self.broken:
            raise NVMLError(self.broken)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> Any:
        return number

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        found = self.millijoules[handle]
        if found is None:
            raise NVMLError("Not Supported")
        return found


def test_packages_are_the_cpu_and_memory_is_apart(tmp_path: Path) -> None:
    """Zones within a package are in it already, the same package over MMIO is the same, and the platform holds them all."""
    zones = [
        zone(tmp_path, "intel-rapl:0", "package-0", 5),
        zone(tmp_path, "intel-rapl:0:0", "core", 5),
        zone(tmp_path, "intel-rapl:0:1", "dram", 5),
        zone(tmp_path, "intel-rapl:1", "package-1", 5),
        zone(tmp_path, "intel-rapl:2", "psys", 5),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5),
    ]
    (tmp_path / "intel-rapl").mkdir()
    found = energy.find(tmp_path)
    assert joules(found) == {("cpu", "rapl"): 0, ("dram", "rapl"): 0}, "counted from the start of the process"
    for where in zones:
        counted(where, 2_000_005)

    assert joules(found) == pytest.approx({("cpu", "rapl"): 4.0, ("dram", "rapl"): 2.0})
    assert str(found) == "energy is counted for cpu by rapl, dram by rapl"


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    where = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, most=10_000_000)
    found = energy.find(tmp_path)
    readings = []
    for microjoules in (9_500_000, 500_000, 500_000, 9_999_999, 0):
        counted(where, microjoules)
        readings.append(joules(found)["cpu", "rapl"])

    assert readings == pytest.approx([0.5, 1.5, 1.5, 10.999999, 11.0])


def test_a_counter_that_is_away_for_a_while_loses_nothing(tmp_path: Path) -> None:
    where = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    found = energy.find(tmp_path)
    (where / "energy_uj").unlink()
    assert joules(found) == {("cpu", "rapl"): 0}
    counted(where, 3_000_000)

    assert joules(found) == pytest.approx({("cpu", "rapl"): 3.0})


def test_gpus_are_counted_in_millijoules_also_behind_a_new_driver() -> None:
    nvml = Nvml(1000, None, 70_000)
    found = energy.find(Path("/nowhere"), nvml)
    nvml.millijoules = [3000, None, 500]

    assert joules(found) == pytest.approx({("cuda:0", "nvml"): 2.0, ("cuda:2", "nvml"): 0.5})
    nvml.millijoules = [None, None, 1500]
    assert joules(found) == pytest.approx({("cuda:0", "nvml"): 2.0, ("cuda:2", "nvml"): 1.5})


def test_a_machine_without_counters_says_why(tmp_path: Path) -> None:
    found = energy.find(tmp_path)

    assert found.samples() == []
    assert str(found) == f"no energy is counted: no RAPL in {tmp_path}; {NO_NVML}"


@pytest.mark.parametrize(
    ("nvml", "why"),
    [
        (Nvml(broken="Driver Not Loaded"), "NVML: Driver Not Loaded"),
        (Nvml(), "NVML knows no GPU"),
        (Nvml(None), "NVML of cuda:0: Not Supported"),
    ],
)
def test_gpus_that_count_nothing_say_why(tmp_path: Path, nvml: Nvml, why: str) -> None:
    assert str(energy.find(tmp_path, nvml)) == f"no energy is counted: no RAPL in {tmp_path}; {why}"


@pytest.mark.parametrize("content", ["", "many", None])
def test_a_zone_that_cannot_be_read_is_left_out(tmp_path: Path, content: str | None) -> None:
    where = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (where / "energy_uj").unlink()
    if content is not None:
        (where / "energy_uj").write_text(content)
    found = energy.find(tmp_path)

    assert not found.meters
    assert str(found).startswith("no energy is counted: intel-rapl:0 of RAPL cannot be read: ")


def test_joules_are_a_counter_by_device_and_method(tmp_path: Path) -> None:
    where = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    telemetry = Telemetry(Ledger(1.0))
    found = energy.find(tmp_path, Nvml(0))
    telemetry.watch_total("ensemble_energy_joules_total", "Joules", found.samples)
    counted(where, 1_500_000)
    text = telemetry.exposition().decode()

    assert "# TYPE ensemble_energy_joules_total counter\n" in text
    assert 'ensemble_energy_joules_total{device="cpu",method="rapl"} 1.5\n' in text
    assert 'ensemble_energy_joules_total{device="cuda:0",method="nvml"} 0.0\n' in text


def test_the_counters_of_this_machine_are_found_or_their_lack_is_explained() -> None:
    found = energy.find(nvml=energy.installed_nvml())

    assert bool(found.meters) is str(found).startswith("energy is counted for ")
    assert all(value >= 0 for _, value in found.samples())


def test_a_server_shows_joules_or_says_once_why_not(server) -> None:
    shown = "ensemble_energy_joules" in server.families()

    assert server.log.count("energy is counted") == 1
    assert shown is ("no energy is counted" not in server.log)
