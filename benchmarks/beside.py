"""The load generator beside others: python -m benchmarks.beside REPOSITORY --perf-analyzer PATH [--rate 75] [--pairs 6] [--seconds 12]

A server of the repository on one core; on another, in turns, NVIDIA's perf_analyzer and `loadtest run`, with the same requests at even
intervals, by default at half the rate that the server answers one at a time. Prints, for each pair and as medians:

* loadtest's p50 / perf_analyzer's;
* loadtest's p99, less the wire, / the p99 that the server's own histogram shows of the same span. The wire is what loadtest's median
  is above the server's.

perf_analyzer comes in tritonclient's wheel up to 2.51 and needs libcudart: LD_LIBRARY_PATH=…/nvidia/cuda_runtime/lib.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.processes import on_core
from benchmarks.server import Server, scrutin
from ensembles import repository

SERVER_CORE, GENERATOR_CORE = 0, 1
WINDOWS = 3
MS = 1e3


@dataclass(frozen=True)
class Ours:
    """What a run of loadtest says, in ms. `server_p50`, `server_p99`: of the server's own histogram."""

    p50: float
    p99: float
    server_p50: float
    server_p99: float
    rate: float

    @property
    def wire(self) -> float:
        return self.p50 - self.server_p50


def said(command: Sequence[str]) -> str:
    return subprocess.run(on_core(GENERATOR_CORE, *command), capture_output=True, text=True, check=False).stdout


def perf_analyzer(program: Path, server: Server, model: str, rate: float, seconds: float) -> tuple[float, float]:
    """p50 and p99 in ms."""
    load = ["--request-rate-range", f"{rate:g}", "--request-distribution", "constant"]
    windows = ["--measurement-mode", "count_windows", "-s", "95", "-r", str(WINDOWS)]
    requests = ["--measurement-request-count", str(int(rate * seconds / WINDOWS))]
    target = ["-m", model, "-i", "grpc", "-u", f"127.0.0.1:{server.ports.grpc}"]
    text = said([str(program), *target, *load, *windows, *requests])
    found = [re.search(rf"{quantile} latency: (\d+) usec", text) for quantile in ("p50", "p99")]
    if not all(found):
        raise SystemExit(f"perf_analyzer printed no percentiles: {text[-300:] or 'nothing'}")
    p50, p99 = (int(match[1]) / MS for match in found if match)
    return p50, p99


def loadtest(server: Server, model: str, *load: str) -> Ours:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        target = f"oip+grpc://127.0.0.1:{server.ports.grpc}/{model}"
        metrics = f"http://127.0.0.1:{server.ports.metrics}/metrics"
        command = [str(Path(sys.executable).with_name("loadtest")), "run", target, *load]
        said([*command, "--prometheus", metrics, "--out", str(out)])
        results: dict[str, Any] = json.loads((out / "results.json").read_text())
    arm = results["arms"][0]
    served = {
        quantile: seconds
        for name, seconds in results["server"].items()
        for quantile in re.findall(r'^ensemble_request_seconds\{.*quantile="([\d.]+)"', name)
    }
    latency = arm["latency_seconds"]
    times = (latency["p50"], latency["p99"], served["0.5"], served["0.99"])
    return Ours(*(MS * time for time in times), arm["rows_per_second"])


def pair(
    arguments: argparse.Namespace, server: Server, model: str, rate: float, ours_first: bool
) -> tuple[float, float]:
    """The two ratios."""
    load = ["--rate", f"{rate:g}", "--arrivals", "constant", "--duration", f"{arguments.seconds:g}s"]
    ours = loadtest(server, model, *load) if ours_first else None
    p50, p99 = perf_analyzer(arguments.perf_analyzer, server, model, rate, arguments.seconds)
    ours = ours or loadtest(server, model, *load)
    ratios = ours.p50 / p50, (ours.p99 - ours.wire) / ours.server_p99
    print(
        f"perf_analyzer {p50:.2f} / {p99:.2f} ms, loadtest {ours.p50:.2f} / {ours.p99:.2f}, the server itself {ours.server_p50:.2f} / "
        f"{ours.server_p99:.2f} (p50 / p99), wire {ours.wire:.2f}: ratios {ratios[0]:.3f}, {ratios[1]:.3f}",
        flush=True,
    )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description="The load generator beside perf_analyzer and the server's own metrics."
    )
    parser.add_argument("repository", type=Path)
    parser.add_argument("--perf-analyzer", type=Path, required=True)
    parser.add_argument(
        "--rate", type=float, help="requests/s; half of what the server answers one at a time, if not given"
    )
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=12)
    arguments = parser.parse_args()
    model = repository.read(arguments.repository).spec.name
    with TemporaryDirectory(dir=Path.cwd()) as logs:
        server = scrutin(arguments.repository.resolve(), str(SERVER_CORE), Path(logs).resolve() / "server.log")
        try:
            alone = loadtest(server, model, "--concurrency", "1", "--duration", "5s").rate
            rate = arguments.rate or round(alone / 2)
            print(f"{model}: {alone:.0f} requests/s one at a time; offered {rate:g}/s")
            found = [pair(arguments, server, model, rate, bool(turn % 2)) for turn in range(arguments.pairs)]
        finally:
            server.stop()
    for what, ratios in zip(
        ("loadtest's p50 / perf_analyzer's", "p99 less the wire / the server's"), zip(*found, strict=True), strict=True
    ):
        print(f"{what}: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
