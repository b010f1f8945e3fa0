"""The same three sessions in a plain loop, no server, on the server's core: python -m benchmarks.bare REPOSITORY SECONDS."""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.ensemble import Ensemble
from benchmarks.models import images
from benchmarks.processes import ROOT, on_core

BATCHES = {"1 row": 1, "32 rows": 32}


def loop(ensemble: Ensemble, batch: int, seconds: float) -> dict[str, float]:
    x, rows = images(batch, seed=2), 0
    ensemble(x)
    cpu, start = time.process_time(), time.perf_counter()
    while (wall := time.perf_counter() - start) < seconds:
        ensemble(x)
        rows += batch
    return {"rows_per_second": rows / wall, "server_cpu_ms": (time.process_time() - cpu) * 1e3 / rows * batch}


def measure(repository: Path, seconds: float, core: int) -> dict[str, dict[str, float]]:
    """By batch size, from a process of its own."""
    command = on_core(core, sys.executable, "-m", "benchmarks.bare", str(repository), str(seconds))
    measured: dict[str, dict[str, float]] = json.loads(subprocess.check_output(command, cwd=ROOT, text=True))
    return measured


if __name__ == "__main__":
    members = Ensemble(Path(sys.argv[1]))
    print(json.dumps({name: loop(members, batch, float(sys.argv[2])) for name, batch in BATCHES.items()}))
