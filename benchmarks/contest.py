"""Who takes part, and the rounds in which they take turns on one core."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import bare
from benchmarks.client import Load, WrongAnswer, measure
from benchmarks.ensemble import Ensemble
from benchmarks.protocols import FAULTS, WAYS
from benchmarks.ratios import Numbers, Rounds, series
from benchmarks.report import Goal, Row
from benchmarks.server import Server, Start, Unavailable, scrutin, scrutin_on_grpc_aio
from benchmarks.triton import triton

# another front door is one more name here, with what starts it; its ratios are printed beside the others
CANDIDATES: dict[str, Start] = {"scrutin": scrutin}
OTHER_DOOR: dict[str, Start] = {"scrutin on grpc.aio": scrutin_on_grpc_aio}
PEERS: dict[str, Start] = {"triton": triton}
LOADS = {"1 row": (32, 1), "32 rows": (4, 32)}  # concurrency, rows a request


@dataclass(frozen=True)
class Arm:
    name: str
    start: Start
    way: str  # one of protocols.WAYS
    load: str  # one of LOADS

    @property
    def series(self) -> str:
        return series(self.name, self.way, self.load)


def all_arms(candidates: Mapping[str, Start], peers: Mapping[str, Start]) -> list[Arm]:
    """Those that are compared stand next to each other."""
    everybody = {**candidates, **peers}
    return [
        *(Arm(name, start, way, "1 row") for way in ("stream", "predict") for name, start in candidates.items()),
        *(Arm(name, start, way, "1 row") for way in ("oip-grpc", "oip-http") for name, start in everybody.items()),
        *(Arm(name, start, "oip-grpc", "32 rows") for name, start in everybody.items()),
    ]


@dataclass(frozen=True)
class Terms:
    repository: Path
    logs: Path
    core: int
    rounds: int
    seconds: float
    warmup: float


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Contest:
    def __init__(self, terms: Terms, arms: list[Arm]) -> None:
        self.terms, self.arms = terms, arms
        self.ensemble, self.rounds = Ensemble(terms.repository), Rounds()
        self.servers: dict[str, Server] = {}
        self.stops: list[Row] = []

    @contextmanager
    def started(self) -> Iterator[None]:
        try:
            for name, start in {arm.name: arm.start for arm in self.arms}.items():
                self.start(name, start)
            yield
        finally:
            self.stops = [stop(name, server) for name, server in self.servers.items()]

    def start(self, name: str, start: Start) -> None:
        try:
            self.servers[name] = start(self.terms.repository, str(self.terms.core), self.terms.logs / f"{name}.log")
        except Unavailable as reason:
            say(f"{name} is left out: {reason}")
            self.rounds.failures |= {arm.series: str(reason) for arm in self.arms if arm.name == name}

    async def fight(self) -> None:
        for number in range(self.terms.rounds):
            numbers = self.rounds.begin()
            self.measure_bare(numbers)
            # every other round the other way round, so that a drift of the machine favours nobody
            for arm in self.arms if number % 2 == 0 else reversed(self.arms):
                if arm.series not in self.rounds.failures:
                    await self.measure_arm(arm, numbers)

    def measure_bare(self, numbers: dict[str, Numbers]) -> None:
        for load, measured in bare.measure(self.terms.repository, self.terms.seconds / 2, self.terms.core).items():
            numbers[series("bare", "loop", load)] = measured

    async def measure_arm(self, arm: Arm, numbers: dict[str, Numbers]) -> None:
        server, load = self.servers[arm.name], Load(*LOADS[arm.load], self.terms.seconds, self.terms.warmup)
        try:
            measured = await measure(WAYS[arm.way](), server.ports, server.pid, self.ensemble, load)
        except (WrongAnswer, *FAULTS) as fault:
            self.rounds.failures[arm.series] = f"{type(fault).__name__}: {fault}".splitlines()[0][:300]
            say(f"{arm.series}: {self.rounds.failures[arm.series]}")
        else:
            numbers[arm.series] = asdict(measured)
            say(f"{arm.series}: {measured.requests_per_second:.0f}/s, {measured.server_cpu_ms:.3f} ms of CPU a request")


def stop(name: str, server: Server) -> Row:
    code = server.stop()
    goal = Goal(0) if name in CANDIDATES else None
    return Row(
        f"{name}: stopped by SIGTERM with another exit code than 0", [float(code != 0)], goal, f"exit code {code}"
    )
