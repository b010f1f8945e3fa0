"""What a server costs before anybody asks it anything: time to be ready, memory, idle CPU, what it has loaded."""

import asyncio
from pathlib import Path

from benchmarks.processes import cpu_seconds, loaded, memory_mb
from benchmarks.report import Goal, Row
from benchmarks.server import Server, Start, Unavailable

READY, MEMORY, IDLE, NONE = Goal(3.0), Goal(250.0), Goal(1.0), Goal(0)
TRAINING_ONLY = ("torch", "sklearn")
STARTS = 3


def memory_rows(name: str, server: Server, goal: Goal | None) -> list[Row]:
    return [
        Row(f"{name}: {kind[:3]} of all its processes, MB", [used], goal)
        for kind, used in memory_mb(server.pid).items()
    ]


def starting(name: str, start: Start, repository: Path, cores: str, log: Path) -> list[Row]:
    """Starts a server a few times, as a user would."""
    what, seconds = f"{name} with {repository.name}: seconds from process start to ready", []
    if not (repository / "ensemble.yaml").exists():
        return [Row(what, [], READY, f"no ensemble in {repository}")]
    for _ in range(STARTS):
        try:
            server = start(repository, cores, log)
        except Unavailable as reason:
            return [Row(what, [], READY, str(reason))]
        seconds.append(server.seconds_to_ready)
        memory = memory_rows(f"{name} with {repository.name}, just ready", server, MEMORY)
        found = loaded(server.pid, *TRAINING_ONLY)
        server.stop()
    loads = Row(f"{name}: of {' and '.join(TRAINING_ONLY)}, packages loaded", [len(found)], NONE, ", ".join(found))
    return [Row(what, seconds, READY), *memory, loads]


async def idling(servers: dict[str, Server], seconds: float, candidates: list[str]) -> list[Row]:
    """All of them at once, after a load."""
    await asyncio.sleep(2)
    before = {name: cpu_seconds(server.pid) for name, server in servers.items()}
    await asyncio.sleep(seconds)
    rows = []
    for name, server in servers.items():
        percent = (cpu_seconds(server.pid) - before[name]) / seconds * 100
        judged = name in candidates
        rows.append(Row(f"{name} idle after the load: percent of a core", [percent], IDLE if judged else None))
        rows += memory_rows(f"{name} after the load", server, MEMORY if judged else None)
    return rows
