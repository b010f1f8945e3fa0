"""What `benchmarks.scaling` found, as tables: what work takes, what was predicted and measured, and replicas for some rates."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks.report import Row
from ensembles.estimates import Estimate
from ensembles.price import PRICE_PER_HOUR
from loadtest import sizing
from loadtest.queueing import Replica, dealt, serve
from loadtest.sizing import Terms

Numbers = dict[str, float]

METRICS = {"p50": "p50 ms", "p99": "p99 ms", "rows": "rows a batch", "busy": "busy"}
FLEET, FLEET_SHARE = 8, 0.7
RATES = (1e3, 1e4, 1e5, 1e6)
TERMS = Terms(zones=3, price_per_hour=PRICE_PER_HOUR)


@dataclass(frozen=True)
class Costs:
    """In seconds. `members_batch`: the members' part of what a batch takes. `wire`: what one caller waits beside the server's work:
    client, sockets, waking up. `pauses`: the machine's own unrest, see `scaling._unrest`. `closed`: requests/s of the most callers.
    """

    replica: Replica
    members_batch: float
    wire: float
    pauses: list[float]
    closed: float


@dataclass(frozen=True)
class Capacity:
    """Requests/s within an objective: `real` is None where no rate kept it."""

    slo: str
    real: Estimate | None
    simulated: float


@dataclass
class Found:
    """Of one policy, a round each. `runs`: by share of the capacity, what was predicted and what was measured."""

    costs: list[Costs] = field(default_factory=list)
    runs: dict[float, list[tuple[Numbers, Numbers]]] = field(default_factory=dict)
    capacity: Capacity | None = None
    invalid: list[str] = field(default_factory=list)

    @property
    def middle(self) -> Costs:
        """Medians."""
        replicas = [each.replica for each in self.costs]
        return Costs(
            Replica(
                median(each.request_seconds for each in replicas),
                median(each.batch_seconds for each in replicas),
                median(each.row_seconds for each in replicas),
                replicas[0].max_batch_size,
            ),
            median(each.members_batch for each in self.costs),
            median(each.wire for each in self.costs),
            np.median([each.pauses for each in self.costs], axis=0).tolist(),
            median(each.closed for each in self.costs),
        )


def rows(policy: str, found: Found) -> Iterator[Row]:
    """What was measured over what was predicted."""
    yield Row(
        f"{policy}: requests/s of a closed loop / of full batches",
        [each.closed / each.replica.capacity for each in found.costs],
    )
    for share, rounds in found.runs.items():
        for name, what in METRICS.items():
            values = [measured[name] / predicted[name] for predicted, measured in rounds]
            yield Row(f"{policy}, {share:.0%} of the capacity: {what}, measured / predicted", values)
    if found.capacity:
        yield _capacity(policy, found.capacity)
    yield in_turn(policy, found.middle.replica)


def _capacity(policy: str, found: Capacity) -> Row:
    what, real = f"{policy}: capacity with {found.slo}, measured / predicted", found.real
    if real is None:
        return Row(what, [], note="no rate kept it")
    note = f"{real.value:.0f}/s ({real.low:.0f} to {real.high:.0f}) and {found.simulated:.0f}/s"
    return Row(what, [real.value / found.simulated], note=note)


def in_turn(policy: str, replica: Replica) -> Row:
    """Simulated: what it helps to deal requests to replicas in turn instead of by chance, when each sees arrivals as a single one does."""
    unit, rate = np.cumsum(np.random.default_rng(0).standard_exponential(100_000)), FLEET_SHARE * replica.capacity
    by_chance = np.quantile(serve(unit / rate, replica).latency, 0.99)
    dealt_out = np.quantile(dealt(unit / (FLEET * rate), replica, FLEET), 0.99)
    what = f"{policy}, simulated: p99 of {FLEET} replicas at {FLEET_SHARE:.0%}, requests dealt in turn / by chance"
    return Row(what, [float(dealt_out / by_chance)])


def texts(found: dict[str, Found]) -> Iterator[str]:
    """In Markdown."""
    yield costs_table(found)
    yield runs_table(found)
    for policy, what in found.items():
        if what.capacity and what.capacity.real:
            yield f"{policy}, {what.capacity.slo}, 3 zones:\n\n{fleets_table(what.capacity.real)}"


def costs_table(found: dict[str, Found]) -> str:
    lines = []
    for policy, what in found.items():
        known, replica = what.middle, what.middle.replica
        micros = (
            replica.request_seconds,
            replica.batch_seconds,
            known.members_batch,
            replica.row_seconds,
            known.wire,
            replica.seconds(1),
            1 / replica.capacity,
        )
        lines.append([policy, *(f"{1e6 * each:.0f}" for each in micros), f"{replica.capacity:,.0f}"])
    head = [
        "µs of one core, medians",
        "a request",
        "a batch",
        "of it members",
        "a row",
        "outside",
        "a request alone",
        "in full batches",
        "requests/s then",
    ]
    return markdown(head, lines)


def runs_table(found: dict[str, Found]) -> str:
    lines = []
    for policy, what in found.items():
        for share, rounds in what.runs.items():
            cells = [
                " / ".join(_figure(name, [each[side][name] for each in rounds]) for side in (0, 1)) for name in METRICS
            ]
            lines.append(
                [f"{policy}, {share:.0%} of the capacity, {share * what.middle.replica.capacity:,.0f}/s", *cells]
            )
    return markdown(["predicted / measured, medians", *METRICS.values()], lines)


def _figure(name: str, values: list[float]) -> str:
    return f"{median(values):.0%}" if name == "busy" else f"{median(values):.3g}"


def fleets_table(capacity: Estimate) -> str:
    lines = []
    for rate in RATES:
        found = sizing.fleet(rate, capacity, TERMS)
        cost = 1000 * found.cost_usd_per_1000.value
        lines.append(
            [
                f"{rate:,.0f}",
                f"{found.replicas.value:,.0f} ({found.replicas.low:,.0f} to {found.replicas.high:,.0f})",
                f"{found.cost_usd_per_hour.value:,.2f}",
                f"{cost:.3f}",
            ]
        )
    return markdown(["requests/s at the peak", "replicas", "USD an hour", "USD a million requests"], lines)


def markdown(head: list[str], lines: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
