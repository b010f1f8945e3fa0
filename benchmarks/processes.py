"""Where processes run and what a tree of them uses, read from /proc."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def on_core(core: int, *command: str) -> list[str]:
    return ["taskset", "-c", str(core), *command]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def tree(pid: int) -> Iterator[int]:
    """A process and its descendants, whichever of their threads started them."""
    yield pid
    with suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from tree(int(child))


def cpu_seconds(pid: int) -> float:
    ticks = 0
    for member in tree(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def memory_mb(pid: int) -> dict[str, float]:
    """Resident and proportional memory; shared pages count once for each process in rss, once in all in pss."""
    totals = {"Rss": 0, "Pss": 0}
    for member in tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()[1:]:
                name, kilobytes = line.split()[:2]
                if name[:-1] in totals:
                    totals[name[:-1]] += int(kilobytes)
    return {f"{name.lower()}_mb": kilobytes * 1024 / 1e6 for name, kilobytes in totals.items()}


def loaded(pid: int, *packages: str) -> list[str]:
    """Which of these packages have a compiled module mapped into the tree."""
    maps = ""
    for member in tree(pid):
        with suppress(OSError):
            maps += Path(f"/proc/{member}/maps").read_text()
    return [package for package in packages if f"/{package}/" in maps]
