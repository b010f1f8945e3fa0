"""What the load generator itself can do, against a server that does nothing: python -m benchmarks.loadtest [--requests 10000000]

The scripted server runs on one core, the generator on another. Prints one line a measurement:

* requests/s in a closed loop of 32 callers, and the CPU of the generator a request;
* at the goal's rates in an open loop: how late requests were sent, and what share of them;
* with --requests, the memory of the worker as it sends so many.
"""

import argparse
import asyncio
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import on_core
from loadtest import measuring, target, validity
from loadtest.histogram import Histogram
from loadtest.jobs import Beat, Course
from loadtest.measuring import Load
from loadtest.records import RunRecord
from loadtest.schedule import Arrivals, steady
from loadtest.targets.opening import TargetOptions

SERVER_CORE, GENERATOR_CORE = 0, 1
CALLERS = 32
SECONDS = 5.0


@dataclass(frozen=True)
class Way:
    name: str
    scheme: str
    goal: float  # requests/s
    stream: bool = False


WAYS = (
    Way("Predict", "grpc", 2500),
    Way("OIP over gRPC", "oip+grpc", 2500),
    Way("PredictStream", "grpc", 6000, stream=True),
    Way("OIP over HTTP, binary", "oip+http", 6000),
    Way("/v1 over HTTP, JSON", "http", 2500),
)


@contextmanager
def echo() -> Iterator[str]:
    """The address, without the scheme, of a server that answers at once."""
    command = on_core(SERVER_CORE, sys.executable, "-m", "loadtest.scripted")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip().partition("://")[2]
        finally:
            server.terminate()


def measured(way: Way, place: str, load: Load, watch: measuring.Watch) -> RunRecord:
    options = TargetOptions(stream=way.stream)
    ready = asyncio.run(target.prepare(f"{way.scheme}://{place}", options, (), None, 0))
    return measuring.measure(ready, load, watch)


def ignore(elapsed: float, beats: list[Beat]) -> None:
    """Nobody watches."""


def closed(way: Way, place: str) -> str:
    run = measured(way, place, Load(None, SECONDS, concurrency=CALLERS, warm_up=1), ignore)
    answered = sum(arm.latency.count for arm in run.arms)
    micros = 1e6 * run.generator.cpu_seconds / answered
    return f"{answered / SECONDS:8,.0f} requests/s, {micros:.0f} µs of the generator's CPU a request"


def opened(way: Way, place: str, rate: float) -> str:
    load = Load(Course(Arrivals.CONSTANT, steady(rate, SECONDS)), SECONDS, warm_up=1)
    run = measured(way, place, load, ignore)
    lateness, service = Histogram(), Histogram()
    for arm in run.arms:
        lateness.merge(arm.lateness)
        service.merge(arm.service)
    errors = sum(sum(arm.errors.values()) for arm in run.arms)
    late = [f"{1e6 * lateness.quantile(q):,.0f}" for q in (0.5, 0.99, 0.999)]
    return (
        f"{lateness.count:6,} of {run.plan.requests:,} sent, {errors} errors; late by {' / '.join(late)} µs (p50 / p99 / p99.9); "
        f"answered within {1e6 * service.quantile(0.5):,.0f} µs (p50); {run.generator.busiest:.0%} of the core; "
        f"{'; '.join(validity.reasons(run)) or 'valid'}"
    )


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def memory(place: str, requests: int) -> None:
    """A line each time that the number of requests has doubled, and just before the end."""
    sent, following = 0, 10_000.0

    def watch(elapsed: float, beats: list[Beat]) -> None:
        nonlocal sent, following
        sent += sum(beat.done for beat in beats)
        if sent >= following:
            workers = [process.pid for process in multiprocessing.active_children() if process.pid]
            print(f"  {sent:12,} requests: {resident_mb(workers[0]):.1f} MB", flush=True)
            following = min(2 * sent, int(0.99 * requests)) if sent < 0.99 * requests else math.inf

    stream = next(way for way in WAYS if way.stream)
    load = Load(
        Course(Arrivals.CONSTANT, steady(stream.goal, requests / stream.goal)), requests / stream.goal, warm_up=1
    )
    run = measured(stream, place, load, watch)
    print(f"  {sum(arm.latency.count for arm in run.arms):12,} requests answered", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the load generator itself can do.")
    parser.add_argument("--requests", type=int, default=0, help="to look at the memory for")
    parser.add_argument("--only", default="", help="part of a way's name")
    args = parser.parse_args()
    os.sched_setaffinity(0, {GENERATOR_CORE})
    with echo() as place:
        for way in (way for way in WAYS if args.only in way.name):
            print(f"{way.name:24}closed  {closed(way, place)}", flush=True)
            for rate in (1000, way.goal):
                print(f"{way.name:24}{rate:5.0f}/s {opened(way, place, rate)}", flush=True)
        if args.requests:
            print("memory of the worker over PredictStream:")
            memory(place, args.requests)


if __name__ == "__main__":
    main()
