"""A closed-loop load: every worker asks again as soon as it is answered. Also on its own, against a running server:

python -m benchmarks.client stream --repository DIR --http-port 8000 --grpc-port 8001 --pid PID --concurrency 32 --rows 1
"""

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.ensemble import Ensemble, Rows
from benchmarks.models import images
from benchmarks.processes import cpu_seconds
from benchmarks.protocols import FAULTS, WAYS, Way
from benchmarks.server import Ports

DIFFERENT_REQUESTS = 16
PAUSE_AFTER_ERROR_SECONDS = 0.05


@dataclass(frozen=True)
class Load:
    concurrency: int
    rows: int
    seconds: float
    warmup: float


@dataclass(frozen=True)
class Measured:
    requests: int
    requests_per_second: float
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float  # a request
    server_busy: float  # of one core
    client_busy: float  # near 1, the client was what held it back


@dataclass
class Tally:
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    stopped: bool = False


class WrongAnswer(Exception):
    pass


async def check(way: Way, ensemble: Ensemble, inputs: list[Rows], requests: list[bytes]) -> None:
    for rows, request in zip(inputs, requests, strict=True):
        expected, got = ensemble(rows), way.decode(await way.send(0, request))
        same_votes = np.array_equal(got.votes, expected.votes)
        close = np.allclose(got.probabilities, expected.probabilities, rtol=0, atol=1e-4)
        if not (np.array_equal(got.label_index.ravel(), expected.label_index) and same_votes and close):
            raise WrongAnswer(f"expected {expected}, got {got}")


async def work(way: Way, worker: int, requests: list[bytes], tally: Tally) -> None:
    turn = worker
    while not tally.stopped:
        turn, sent = turn + 1, time.perf_counter()
        try:
            await way.send(worker, requests[turn % len(requests)])
            tally.latencies.append(time.perf_counter() - sent)
        except FAULTS as fault:
            tally.errors[f"{type(fault).__name__}: {fault}"[:200]] += 1
            await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)


async def observe(tally: Tally, load: Load, pid: int) -> Measured:
    await asyncio.sleep(load.warmup)
    first, server, client, start = len(tally.latencies), cpu_seconds(pid), time.process_time(), time.perf_counter()
    await asyncio.sleep(load.seconds)
    wall, server, client = time.perf_counter() - start, cpu_seconds(pid) - server, time.process_time() - client
    latencies = tally.latencies[first:]
    if tally.errors or not latencies:
        raise RuntimeError(
            f"{tally.errors.total()} requests failed, {len(latencies)} did not: {tally.errors.most_common(3)}"
        )
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    rate = len(latencies) / wall
    return Measured(
        requests=len(latencies),
        requests_per_second=rate,
        rows_per_second=rate * load.rows,
        p50_ms=float(p50),
        p99_ms=float(p99),
        server_cpu_ms=server * 1e3 / len(latencies),
        server_busy=server / wall,
        client_busy=client / wall,
    )


async def measure(way: Way, ports: Ports, pid: int, ensemble: Ensemble, load: Load) -> Measured:
    inputs = [images(load.rows, seed=100 + index) for index in range(DIFFERENT_REQUESTS)]
    requests = [[way.encode(rows, worker) for rows in inputs] for worker in range(load.concurrency)]
    tally = Tally()
    await way.open(ports, load.concurrency)
    try:
        await check(way, ensemble, inputs, requests[0])
        workers = [
            asyncio.create_task(work(way, worker, requests[worker], tally)) for worker in range(load.concurrency)
        ]
        try:
            return await observe(tally, load, pid)
        finally:
            tally.stopped = True
            await asyncio.gather(*workers)
    finally:
        await way.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One closed-loop load on one running server; prints one line of JSON.")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--repository", type=Path, required=True, help="the light ensemble, to check the answers with")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--pid", type=int, required=True, help="the server, whose processes' CPU time is counted")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warmup", type=float, default=1)
    parser.add_argument("--core", type=int, default=1)
    return parser.parse_args()


async def main(args: argparse.Namespace) -> None:
    load = Load(args.concurrency, args.rows, args.seconds, args.warmup)
    ports = Ports(http=args.http_port, grpc=args.grpc_port)
    measured = await measure(WAYS[args.way](), ports, args.pid, Ensemble(args.repository), load)
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    given = arguments()
    os.sched_setaffinity(0, {given.core})
    uvloop.run(main(given))
