"""This version of the server and another one under load at once on one core: python -m benchmarks.versions CHECKOUT [--rounds 10].

Whatever else the machine does meets both in the same moments, so that a hundredth shows where runs in turns leave a tenth in doubt.
CHECKOUT is another work tree (`git worktree add`); both run in the environment of this one.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

import uvloop

from benchmarks import machine
from benchmarks.client import Load, Measured, measure
from benchmarks.contest import say
from benchmarks.ensemble import Ensemble
from benchmarks.models import write_repository
from benchmarks.processes import ROOT
from benchmarks.protocols import WAYS
from benchmarks.report import Row, goals_table
from benchmarks.server import Ports, Server, flags

WORK = ROOT / ".bench" / "versions"
CONCURRENCY = 32


def started(checkout: Path, repository: Path, core: int, log: Path) -> Server:
    """The server of a checkout."""
    ports, serving = Ports(), str(Path(sys.executable).with_name("serving"))
    there = ["env", "-C", str(checkout), "taskset", "-c", str(core)]
    paths = os.pathsep.join([str(checkout), str(checkout / "proto")])
    environment = {**os.environ, "PYTHONPATH": paths}
    return Server([*there, serving, "run", str(repository), *flags(ports)], ports, log, environment)


async def at_once(way: str, servers: list[Server], ensemble: Ensemble, load: Load) -> list[Measured]:
    loads = (measure(WAYS[way](), server.ports, server.pid, ensemble, load) for server in servers)
    return await asyncio.gather(*loads)


async def compare(arguments: argparse.Namespace, servers: list[Server], ensemble: Ensemble) -> list[Row]:
    rows = []
    load = Load(CONCURRENCY, arguments.rows, arguments.seconds, arguments.seconds / 4)
    for way in arguments.ways:
        ratios = []
        for _ in range(arguments.rounds):
            this, other = await at_once(way, servers, ensemble, load)
            ratios.append(this.server_cpu_ms / other.server_cpu_ms)
            say(f"{way}: {this.server_cpu_ms:.3f} / {other.server_cpu_ms:.3f} ms of CPU a request")
        rows.append(Row(f"CPU time of a request, {arguments.rows} rows: {way}, this version / the other", ratios))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of a light request, this version / another one.")
    parser.add_argument("checkout", type=Path, help="a work tree of the other version")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rows", type=int, default=1, help="of a request (default 1)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    cores, described = sorted(os.sched_getaffinity(0)), machine.describe("benchmarks.versions")
    os.sched_setaffinity(0, {cores[-1]})
    repository = WORK / "light"
    write_repository(repository)
    servers: list[Server] = []
    try:
        for name, checkout in (("this", ROOT), ("other", arguments.checkout.resolve())):
            servers.append(started(checkout, repository, cores[0], WORK / f"{name}.log"))
        rows = uvloop.run(compare(arguments, servers, Ensemble(repository)))
    finally:
        for server in servers:
            server.stop()
    print(machine.text(described), goals_table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
