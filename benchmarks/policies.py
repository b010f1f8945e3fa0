"""What policies save, what a stalled member costs, what bookkeeping takes, and what overload leaves: python -m benchmarks.policies.

Ratios within one run: the server is pinned to the first core and the client to the second (where members wait elsewhere, to both).
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks import agreeing, doors, machine
from benchmarks.agreeing import named
from benchmarks.asking import Asked, Client, Question
from benchmarks.contest import say
from benchmarks.processes import ROOT
from benchmarks.protocols import HOST
from benchmarks.report import Goal, Row, goals_table, table
from benchmarks.server import Ports, Server, scrutin
from loadtest import measuring, target
from loadtest.jobs import Course
from loadtest.measuring import Load
from loadtest.records import ArmRecord
from loadtest.schedule import Arrivals, steady
from loadtest.targets.opening import TargetOptions

WORK = ROOT / ".bench" / "policies"
LOADS = {"32 rows": (32, 16), "8 rows": (8, 64), "1 row": (1, 64)}
"""Rows of a request, and how many requests are under way."""

GOALS = {
    ("majority", "early_exit"): Goal(1.35, at_least=True),
    ("average", "early_exit"): Goal(1.2, at_least=True),
    ("average", "cascade"): Goal(1.8, at_least=True),
}
GOAL_LOAD = "32 rows"
CERTIFIED = Goal(0.005)
STALLED_ROWS, STALLED_CALLERS = 1, 2
PATIENCE_SECONDS = 0.25
"""Of a caller under overload."""

REFUSED = "RESOURCE_EXHAUSTED"
OFFERED = (0.9, 1.2, 3.0)
"""Times the capacity."""


class Measured:
    """All rounds' numbers by what was measured, and the lines for the report."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.goals: dict[str, tuple[Goal | None, str]] = {}
        self.series: dict[str, list[Asked]] = {}

    def add(self, what: str, value: float, goal: Goal | None = None, note: str = "") -> None:
        self.values.setdefault(what, []).append(value)
        self.goals[what] = goal, note

    def rows(self) -> list[Row]:
        return [Row(what, values, *self.goals[what]) for what, values in self.values.items()]

    def keep(self, name: str, asked: Asked) -> Asked:
        self.series.setdefault(name, []).append(asked)
        return asked

    def table(self) -> str:
        """Medians over the rounds."""
        lines = []
        for name, rounds in self.series.items():
            quantiles = [np.percentile(asked.seconds(), (50, 99)) * 1e3 for asked in rounds if asked.answered]
            p50, p99 = np.median(quantiles, axis=0) if quantiles else (np.nan, np.nan)
            used = [
                median(number(asked) for asked in rounds)
                for number in (
                    lambda asked: asked.rows_per_second,
                    lambda asked: asked.server_cpu * 1e3 / max(len(asked.answered), 1),
                    lambda asked: asked.server_cpu / asked.wall,
                    lambda asked: asked.client_cpu / asked.wall,
                )
            ]
            lines.append([name, *(f"{number:.3f}" for number in (*used[:2], p50, p99, *used[2:]))])
        head = ("median", "rows/s", "server CPU ms a request", "p50 ms", "p99 ms", "server busy", "client busy")
        return table(head, lines)


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[Client]:
    client = Client(server)
    try:
        yield client
    finally:
        await client.close()
        server.stop()


def started(kind: str, repositories: list[Path], cores: str, **environment: str) -> Server:
    """A server of `doors`."""
    ports = Ports()
    settings = {
        "repositories": list(map(str, repositories)),
        **{f"{name}_port": port for name, port in vars(ports).items()},
    }
    command = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks.doors", kind, json.dumps(settings)]
    return Server(command, ports, WORK / f"{kind}.log", {**os.environ, **environment})


# ------------------------------------------------------------------------------------------------------------ at saturation


async def saturation(terms: argparse.Namespace, found: Measured, core: str) -> None:
    server = scrutin(WORK / "average", core, WORK / "saturation.log", str(WORK / "majority"))
    async with asking(server) as client:
        for number in range(terms.rounds):
            for load in LOADS:
                await _policies(terms, found, client, load, backwards=bool(number % 2))


async def _policies(terms: argparse.Namespace, found: Measured, client: Client, load: str, backwards: bool) -> None:
    rows, concurrency = LOADS[load]
    arms = [(name, policy) for name in ("majority", "average") for policy in ("full", "early_exit", "cascade")]
    asked: dict[tuple[str, str], Asked] = {}
    for name, policy in reversed(arms) if backwards else arms:
        asked[name, policy] = done = await client.saturate(Question(name, policy, rows), concurrency, terms.seconds)
        say(f"{name} {policy}, {load}: {done.rows_per_second:.0f} rows/s {dict(done.codes())}")
        found.keep(f"{name} {policy}, {load}", done)
    for name, policy in arms:
        if policy != "full":
            _compare(found, f"{name} {policy} / full, {load}", asked[name, policy], asked[name, "full"], load)


def _compare(found: Measured, what: str, done: Asked, full: Asked, load: str) -> None:
    key = done.question.ensemble, done.question.policy
    goal = GOALS.get(key) if load == GOAL_LOAD else None
    found.add(f"rows/s: {what}", done.rows_per_second / full.rows_per_second, goal)
    found.add(f"rows/CPU s: {what}", done.rows_per_cpu_second / full.rows_per_cpu_second)
    exact = done.question.policy == "early_exit"
    found.add(f"labels unlike full: {what}", _differing(done.labels(), full.labels()), Goal(0) if exact else CERTIFIED)


def _differing(labels: NDArray[np.int64], full: NDArray[np.int64]) -> float:
    """The share of the rows that both were asked for."""
    both = (labels >= 0) & (full >= 0)
    return float(np.mean(labels[both] != full[both]))


# ------------------------------------------------------------------------------------------------------------ one is stalled


async def stalled(terms: argparse.Namespace, found: Measured, cores: str) -> None:
    for member in ("a", "c"):
        server = started("stalling", [WORK / "majority"], cores, **{doors.STALLED: member})
        async with asking(server) as client:
            for _ in range(terms.rounds):
                await _stalled(terms, found, client, member)


async def _stalled(terms: argparse.Namespace, found: Measured, client: Client, member: str) -> None:
    p99 = {}
    for policy in ("full", "early_exit"):
        question = Question("majority", policy, STALLED_ROWS)
        done = await client.saturate(question, STALLED_CALLERS, terms.seconds)
        found.keep(f"{policy}, {member} stalled", done)
        seconds = done.seconds() if policy == "full" else done.without(member)
        p99[policy] = float(np.percentile(seconds, 99))
        say(
            f"{policy}, {member} stalled: p99 {p99[policy] * 1e3:.1f} ms of {len(seconds)} of {len(done.answered)} answers"
        )
    what = f"p99 of waiting for all / of answers that were decided without it: {member} stalled"
    found.add(what, p99["full"] / p99["early_exit"], Goal(3, at_least=True))


# --------------------------------------------------------------------------------------------------------------- bookkeeping


async def bookkeeping(terms: argparse.Namespace, found: Measured, core: str) -> None:
    from benchmarks import light

    light.write(WORK / "light")
    server = started("timed", [WORK / "light"], core)
    async with asking(server) as client:
        for _ in range(terms.rounds):
            for policy in ("full", "early_exit"):
                await _bookkeeping(terms, found, client, policy)


async def _bookkeeping(terms: argparse.Namespace, found: Measured, client: Client, policy: str) -> None:
    before = _watch(client.server)
    done = await client.saturate(Question("light", policy), 32, terms.seconds, warmup=0)
    after = _watch(client.server)
    requests, (seen, whole) = len(done.answered), after["cost"]
    found.keep(f"light {policy}, 1 row", done)
    total = watching = 0.0
    for purpose in after["seconds"]:
        calls = after["calls"][purpose] - before["calls"].get(purpose, 0)
        seconds = after["seconds"][purpose] - before["seconds"].get(purpose, 0.0) - calls * seen
        total += seconds
        watching += calls * whole
        found.add(f"{purpose}, µs a request: light {policy}", seconds / requests * 1e6)
    found.add(f"bookkeeping / CPU time of a light request: {policy}", total / (done.server_cpu - watching), Goal(0.05))


def _watch(server: Server) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports.http}/bookkeeping", timeout=5) as reply:
        shown: dict[str, Any] = json.loads(reply.read())
    return shown


# ------------------------------------------------------------------------------------------------------------------ overload


async def overload(terms: argparse.Namespace, found: Measured, core: str) -> None:
    await asyncio.to_thread(_overload, terms, found, core)


def _overload(terms: argparse.Namespace, found: Measured, core: str) -> None:
    """The load is `loadtest`'s, which is on time where this file's own client would be late."""
    server = scrutin(WORK / "average", core, WORK / "overload.log")
    data = WORK / "rows.npz"
    np.savez(data, x=agreeing.images())
    loads = ("32 rows", "8 rows")
    goodput: dict[str, list[dict[float, float]]] = {load: [] for load in loads}
    try:
        for _ in range(terms.rounds):
            for load in loads:
                goodput[load].append(_overloaded(found, server, load, data, terms.seconds))
    finally:
        server.stop()
    for load in loads:
        _stays(found, load, goodput[load])


def _stays(found: Measured, load: str, rounds: list[dict[float, float]]) -> None:
    """The peak is where the median over the rounds is highest: the highest of each round would be so by chance."""
    peak = max(OFFERED, key=lambda times: median(goodput[times] for goodput in rounds))
    what = f"goodput at {OFFERED[-1]:g} x the capacity / its peak, {load}"
    for goodput in rounds:
        found.add(what, goodput[OFFERED[-1]] / goodput[peak], Goal(0.9, at_least=True), f"the peak is at {peak:g} x")


def _overloaded(found: Measured, server: Server, load: str, data: Path, seconds: float) -> dict[float, float]:
    """Rows answered a second, by the offered load in times of the capacity."""
    rows, callers = LOADS[load]

    def asked(offered: Load, patience: float) -> ArmRecord:
        options, url = TargetOptions(rows=rows, deadline=patience), f"oip+grpc://{HOST}:{server.ports.grpc}/average"
        ready = asyncio.run(target.prepare(url, options, ("full",), data, 0))
        return measuring.measure(ready, offered, lambda elapsed, beats: None).arm("full")

    capacity = asked(Load(None, seconds, concurrency=callers, warm_up=0.5), 0).latency.count / seconds
    goodput = {}
    for times in OFFERED:
        course = Course(Arrivals.POISSON, steady(times * capacity, seconds))
        arm = asked(Load(course, seconds, warm_up=0.5), PATIENCE_SECONDS)
        goodput[times] = arm.rows / seconds
        late = arm.lateness.quantile(0.99) * 1e3
        say(
            f"{times:g} x {capacity * rows:.0f} rows/s, {load}: goodput {goodput[times]:.0f} rows/s, "
            f"{arm.latency.count} answered, {arm.errors}, sent {late:.2f} ms late at p99"
        )
    assert REFUSED in arm.failures, "three times the capacity, and nobody was refused: it was not offered"
    refusal = arm.failures[REFUSED].quantile(0.99) * 1e3
    found.add(f"ms until a refusal, p99, {load}", refusal, Goal(10), f"sent {late:.2f} ms late at p99")
    return goodput


# ----------------------------------------------------------------------------------------------------------------------- all

PARTS = {"saturation": saturation, "stalled": stalled, "bookkeeping": bookkeeping, "overload": overload}


async def measure(terms: argparse.Namespace, cores: list[int]) -> Measured:
    found = Measured()
    for name in terms.parts or PARTS:
        on = ",".join(map(str, cores)) if name == "stalled" else str(cores[0])
        await PARTS[name](terms, found, on)
    return found


def part(name: str) -> str:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"found {name!r}, expected one of {', '.join(PARTS)}")
    return name


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Ratios of policies to the full ensemble. Exit code 1: a goal was missed.",
        epilog="Example: python -m benchmarks.policies saturation --rounds 1",
    )
    parser.add_argument(
        "parts", nargs="*", type=part, metavar="PART", help=f"what to measure: {', '.join(PARTS)} (default all)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of everything in turn (default 3)")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (default 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "policies.json")
    return parser.parse_args()


def write(path: Path, described: dict[str, object], rows: list[Row]) -> None:
    path.write_text(json.dumps({"machine": described, "rows": [row.as_json() for row in rows]}, indent=1) + "\n")


def main() -> int:
    terms, cores = arguments(), sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("needs two cores: one for the server and one for the client")
        return 2
    described = machine.describe("benchmarks.policies")
    os.sched_setaffinity(0, {cores[1]})
    shutil.rmtree(WORK, ignore_errors=True)
    for rule in agreeing.RULES:
        agreeing.write(WORK / named(rule), rule)
    found = uvloop.run(measure(terms, cores[:2]))
    rows = found.rows()
    write(terms.out, described, rows)
    print(machine.text(described), found.table(), goals_table(rows), sep="\n\n")
    return int(any(row.verdict == "missed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
