"""What a replica carries, predicted from what its work takes, beside what it did carry: python -m benchmarks.scaling [--rounds 2]

The server is pinned to the first core, the generator to the second. Each round measures the costs anew (closed loops of some
callers, whose batches are of different sizes), simulates `loadtest.queueing` at the very instants of the open-loop runs that follow,
and holds both together. Then the capacity under an objective is searched on the real server, and in the simulation.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks import machine, scaling_tables
from benchmarks.contest import say
from benchmarks.processes import ROOT, cpu_seconds
from benchmarks.report import goals_table
from benchmarks.scaling_tables import METRICS, Capacity, Costs, Found, Numbers
from benchmarks.server import Server, scrutin
from loadtest import measuring, prometheus, slo, target, validity
from loadtest.commands import capacity
from loadtest.histogram import Histogram
from loadtest.jobs import Beat, Course
from loadtest.measuring import Load
from loadtest.queueing import Replica, highest_rate, serve
from loadtest.records import RunRecord
from loadtest.schedule import Arrivals, steady
from loadtest.stages import Floats
from loadtest.target import Target
from loadtest.targets.opening import TargetOptions

WORK = ROOT / ".bench" / "scaling"
DIGITS, NAME = ROOT / "exported_models" / "digits", "digits"
CALLERS = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.3, 0.5, 0.7, 0.85)
"""Of the capacity that the costs predict."""
WARM_UP, CLOSED_WARM_UP = 1.0, 0.3
LEVELS = 500
"""Quantiles that stand for a distribution."""
ARRIVALS = 100_000


@dataclass(frozen=True)
class Used:
    """What a span took, by the server's own counters: seconds of CPU and of members' runs, batches and requests."""

    cpu: float
    members: float
    batches: float
    requests: float


class Watched:
    """A server, one of its policies, and what they use."""

    def __init__(self, server: Server, policy: str) -> None:
        self.server, self.policy = server, policy
        url = f"grpc://127.0.0.1:{server.ports.grpc}/{NAME}"
        self.target: Target = asyncio.run(
            target.prepare(url, TargetOptions(), (policy,), DIGITS / "samples.npz", seed=0)
        )

    def loaded(self, load: Load) -> tuple[RunRecord, Used]:
        before, cpu = self._scraped(), cpu_seconds(self.server.pid)
        run = measuring.measure(self.target, load, _unwatched)
        cpu = cpu_seconds(self.server.pid) - cpu
        grown = prometheus.increase(before, self._scraped(), NAME)
        for code, text in run.messages.items():
            say(f"{code}: {text}")

        def total(name: str) -> float:
            return sum(value for series, value in grown.items() if series.partition("{")[0] == name)

        return run, Used(
            cpu,
            total("ensemble_device_seconds_total"),
            total("ensemble_batch_rows_count"),
            total("ensemble_predictions_total"),
        )

    def _scraped(self) -> prometheus.Series:
        return prometheus.scrape(f"http://127.0.0.1:{self.server.ports.metrics}/metrics")


def _unwatched(elapsed: float, beats: list[Beat]) -> None:
    """Nobody watches."""


# ---------------------------------------------------------------------------------------------------------------------- costs


def costs(server: Watched, seconds: float) -> Costs:
    """Seconds of a batch and of each request in it, from loads whose batches are of different sizes."""
    used, latencies, closed = [], [], 0.0
    for callers in CALLERS:
        run, what = server.loaded(Load(None, seconds, concurrency=callers, warm_up=CLOSED_WARM_UP))
        used.append(what)
        latencies.append(run.arms[0].latency)
        closed = run.arms[0].latency.count / seconds
        say(
            f"{server.policy}, {callers} callers: {closed:.0f}/s, {1e6 * what.cpu / what.requests:.0f} µs of CPU a request, "
            f"{what.requests / what.batches:.1f} in a batch"
        )
    batch, request = _fitted(used, [each.cpu for each in used])
    members_batch, members_row = _fitted(used, [each.members for each in used])
    replica = Replica(request - members_row, batch, members_row, server.target.description.max_batch_size)
    wire = max(latencies[0].quantile(0.5) - replica.seconds(1), 0.0)
    return Costs(replica, members_batch, wire, _unrest(latencies[0]), closed)


def _fitted(used: list[Used], seconds: list[float]) -> tuple[float, float]:
    """Seconds a batch and a request, by least squares of relative errors; one row a request."""
    counts = np.array([[each.batches, each.requests] for each in used])
    weights = 1 / np.array(seconds)
    (batch, request), *_ = np.linalg.lstsq(counts * weights[:, None], np.ones(len(used)), rcond=None)
    return max(float(batch), 0.0), float(request)


def _unrest(alone: Histogram) -> list[float]:
    """By how much a request of one caller takes longer than the median, [LEVELS] evenly spaced quantiles."""
    median = alone.quantile(0.5)
    return [max(alone.quantile((level + 0.5) / LEVELS) - median, 0.0) for level in range(LEVELS)]


def pauses(known: Costs, n: int, seed: int) -> Floats:
    """One for each of n batches, by chance."""
    return np.random.default_rng([seed, 3]).choice(known.pauses, n)


# ----------------------------------------------------------------------------------------------------------------------- runs


def compared(server: Watched, known: Costs, share: float, seconds: float, seed: int, found: Found) -> None:
    """One open-loop run at a share of the capacity, and the simulation of it."""
    rate = share * known.replica.capacity
    course = Course(Arrivals.POISSON, steady(rate, seconds))
    predicted = simulated(known, course.schedule(seed, 1).instants, seed)
    run, used = server.loaded(Load(course, seconds, seed=seed, warm_up=WARM_UP))
    delays = run.arms[0].delays
    measured = {
        "p50": 1e3 * delays.quantile(0.5),
        "p99": 1e3 * delays.quantile(0.99),
        "rows": used.requests / used.batches,
        "busy": used.cpu / (seconds + WARM_UP),
    }
    found.runs.setdefault(share, []).append((predicted, measured))
    found.invalid += [f"{share:.0%}, round {seed + 1}: {reason}" for reason in validity.reasons(run)]
    say(f"{server.policy}, {share:.0%}, {rate:.0f}/s: predicted {_said(predicted)}; measured {_said(measured)}")


def simulated(known: Costs, instants: Floats, seed: int) -> Numbers:
    done = serve(instants, known.replica, pauses=pauses(known, len(instants), seed))
    p50, p99 = 1e3 * (np.quantile(done.latency, (0.5, 0.99)) + known.wire)
    return {"p50": float(p50), "p99": float(p99), "rows": float(done.requests.mean()), "busy": done.busy}


def _said(numbers: Numbers) -> str:
    return ", ".join(f"{METRICS[name]} {value:.2f}" for name, value in numbers.items())


def searched(server: Watched, known: Costs, terms: argparse.Namespace) -> Capacity:
    """The highest rate within the objective: on the real server, which `loadtest size` can read then, and in the simulation."""
    slos = slo.parse_all([terms.slo])
    load = Load(Course(Arrivals.POISSON, ()), terms.probe, seed=99, warm_up=WARM_UP)
    real = capacity.searched(
        server.target,
        load,
        slos,
        0.6 * known.replica.capacity,
        terms.probes,
        lambda number, rate, heard, why: say(f"{server.policy}: {number}: {rate:.0f}/s: {heard.value}{why}"),
    )
    content = capacity.content(server.target, slos, [capacity.Searched(server.policy, real)])
    (WORK / capacity.FILE).write_text(json.dumps(content, indent=1))
    unit = np.cumsum(np.random.default_rng(0).standard_exponential(ARRIVALS))
    limit, quantile = slos[0].limit - known.wire, slos[0].quantile or 0.99
    return Capacity(
        terms.slo, real.rate, highest_rate(known.replica, quantile, limit, unit, pauses(known, ARRIVALS, 0))
    )


# ------------------------------------------------------------------------------------------------------------------------ all


def measure(terms: argparse.Namespace, core: int) -> dict[str, Found]:
    server = scrutin(DIGITS, str(core), WORK / "server.log")
    try:
        found = {policy: Found() for policy in terms.policies}
        watched = {policy: Watched(server, policy) for policy in terms.policies}
        for number in range(terms.rounds):
            for policy, what in found.items():
                what.costs.append(costs(watched[policy], terms.calibrate))
                for share in SHARES:
                    compared(watched[policy], what.costs[-1], share, terms.seconds, number, what)
        if terms.probes:
            first = terms.policies[0]
            found[first].capacity = searched(watched[first], found[first].middle, terms)
    finally:
        server.stop()
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What a replica of the digits carries, predicted from its costs and measured.",
        epilog="Example: python -m benchmarks.scaling --rounds 1 --seconds 4 --probes 0",
    )
    parser.add_argument(
        "policies", nargs="*", default=["full"], help="the capacity of the first is searched (default full)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="of everything but the search (default 2)")
    parser.add_argument("--seconds", type=float, default=8, help="of each open-loop run (default 8)")
    parser.add_argument("--calibrate", type=float, default=1.5, help="seconds of each closed loop (default 1.5)")
    parser.add_argument("--slo", default="p99<20ms", help="objective of the search (default p99<20ms)")
    parser.add_argument("--probe", type=float, default=5, help="seconds of each probe of the search (default 5)")
    parser.add_argument("--probes", type=int, default=8, help="the most probes; 0 leaves the search out (default 8)")
    return parser.parse_args()


def main() -> int:
    terms, cores = arguments(), sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("needs two cores: one for the server and one for the generator")
        return 2
    described = machine.describe("benchmarks.scaling")
    os.sched_setaffinity(0, {cores[1]})
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    found = measure(terms, cores[0])
    rows = [row for policy, what in found.items() for row in scaling_tables.rows(policy, what)]
    document = {
        "machine": described,
        "policies": {policy: asdict(what) for policy, what in found.items()},
        "rows": [row.as_json() for row in rows],
    }
    (WORK / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    print(machine.text(described), *scaling_tables.texts(found), goals_table(rows), sep="\n\n")
    for policy, reason in ((policy, reason) for policy, what in found.items() for reason in what.invalid):
        print(f"INVALID: {policy}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
