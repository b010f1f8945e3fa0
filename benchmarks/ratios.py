"""Which number is held against which: ratios within one round, so that a slow moment of the machine falls on both."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.report import Goal, Row, table

Numbers = dict[str, float]


@dataclass(frozen=True)
class Ratio:
    way: str
    load: str
    metric: str
    against: str  # a series
    goal: Goal | None = None


TRITON_GRPC, TRITON_HTTP, BARE = "triton oip-grpc 1 row", "triton oip-http 1 row", "bare loop 32 rows"
RATIOS = (
    Ratio("oip-grpc", "32 rows", "rows_per_second", BARE, Goal(0.80, at_least=True)),
    Ratio("oip-grpc", "1 row", "server_cpu_ms", TRITON_GRPC, Goal(0.85)),
    Ratio("oip-http", "1 row", "server_cpu_ms", TRITON_GRPC, Goal(0.75)),
    Ratio("oip-http", "1 row", "server_cpu_ms", TRITON_HTTP),
    Ratio("stream", "1 row", "server_cpu_ms", TRITON_GRPC, Goal(0.75)),
    Ratio("predict", "1 row", "server_cpu_ms", TRITON_GRPC),
)
COLUMNS = {
    "rows_per_second": "rows/s",
    "server_cpu_ms": "server CPU ms a request",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "server_busy": "server busy",
    "client_busy": "client busy",
}


def series(name: str, way: str, load: str) -> str:
    return f"{name} {way} {load}"


class Rounds:
    """What each series measured, round by round, and why one did not."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Numbers]] = []
        self.failures: dict[str, str] = {}

    def begin(self) -> dict[str, Numbers]:
        self.rounds.append({})
        return self.rounds[-1]

    def of(self, name: str) -> list[Numbers]:
        return [done[name] for done in self.rounds if name in done]

    def table(self) -> str:
        """Medians over the rounds."""
        names = list(dict.fromkeys(name for done in self.rounds for name in done))
        lines = [[name, *(self.median(name, metric) for metric in COLUMNS)] for name in names]
        return table(["median", *COLUMNS.values()], lines)

    def median(self, name: str, metric: str) -> str:
        values = [numbers[metric] for numbers in self.of(name) if metric in numbers]
        return f"{median(values):.3f}" if values else ""

    def row(self, name: str, ratio: Ratio) -> Row:
        above, below, metric = series(name, ratio.way, ratio.load), ratio.against, ratio.metric
        both = [done for done in self.rounds if above in done and below in done]
        values = [done[above][metric] / done[below][metric] for done in both]
        note = next((self.failures[failed] for failed in (above, below) if failed in self.failures), "")
        return Row(f"{COLUMNS[metric]}: {above} / {below}", values, ratio.goal, note)

    def ratios(self, candidates: list[str]) -> Iterator[Row]:
        for name in candidates:
            yield from (self.row(name, ratio) for ratio in RATIOS)
