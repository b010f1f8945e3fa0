"""Every series that `GET /metrics` shows, by the names of the contract. One call a request, one or two a batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.ledger import Ledger
from serving.records import Counted, MemberRun, Outcome

SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""From 250 µs, since small members answer in less than a millisecond; each twice the last."""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Handled:
    """One request, answered or not. `ensemble` and `policy` are "" where the request named none that exists."""

    ensemble: str
    policy: str
    protocol: str
    code: str
    rows: int
    seconds: float
    queue_seconds: float = 0.0


class Telemetry:
    """The series of one process, in a registry of their own."""

    def __init__(self, ledger: Ledger) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "ensemble_requests", "Requests", ["ensemble", "policy", "protocol", "code"], registry=registry
        )
        self._predictions = Counter("ensemble_predictions", "Rows answered", ["ensemble", "policy"], registry=registry)
        self._request_seconds = Histogram(
            "ensemble_request_seconds",
            "From the arrival of a request to its answer",
            ["ensemble", "policy"],
            buckets=SECONDS,
            registry=registry,
        )
        self._queue_seconds = self._histogram(
            "ensemble_queue_seconds", "From arrival to the start of the batch", SECONDS
        )
        self._vote_seconds = self._histogram("ensemble_vote_seconds", "Counting the votes of a batch", SECONDS)
        self._batch_rows = self._histogram("ensemble_batch_rows", "Rows of a batch", ROWS)
        self._member_seconds = Histogram(
            "ensemble_member_seconds", "One run of a member", ["ensemble", "member"], buckets=SECONDS, registry=registry
        )
        self._member_rows = Counter(
            "ensemble_member_rows", "Rows by what became of the member's vote", ["ensemble", "member", "outcome"],
            registry=registry,
        )  # fmt: skip
        spent = ["ensemble", "policy", "member", "device"]
        self._device_seconds = Counter(
            "ensemble_device_seconds",
            "Device time spent on members, shared by those that overlap",
            spent,
            registry=registry,
        )
        self._cost = Counter(
            "ensemble_cost_usd", "The price of the device time spent on members, in USD", spent, registry=registry
        )
        self._dissents = Counter(
            "ensemble_dissents",
            "Rows where the member's vote was not the answer",
            ["ensemble", "member"],
            registry=registry,
        )
        self._shed = Counter("ensemble_shed", "Requests refused before they cost anything", ["ensemble", "reason"],
                             registry=registry)  # fmt: skip
        registry.register(_Idle(ledger))
        self._of_request: dict[tuple[str, ...], tuple[Any, ...]] = {}
        self._of_member: dict[tuple[str, str, str], tuple[Any, ...]] = {}
        self._of_batch: dict[str, tuple[Any, ...]] = {}

    def _histogram(self, name: str, help_text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(name, help_text, ["ensemble"], buckets=tuple(buckets), registry=self.registry)

    def request(self, handled: Handled) -> None:
        """Count one request."""
        key = (handled.ensemble, handled.policy, handled.protocol, handled.code)
        series = self._of_request.get(key)
        if series is None:
            series = self._of_request[key] = self._request_series(handled)
        requests, seconds, predictions, queued = series
        requests.inc()
        seconds.observe(handled.seconds)
        if handled.code == "OK":
            predictions.inc(handled.rows)
            queued.observe(handled.queue_seconds)

    def _request_series(self, handled: Handled) -> tuple[Any, ...]:
        ensemble, policy = handled.ensemble, handled.policy
        return (
            self._requests.labels(ensemble, policy, handled.protocol, handled.code),
            self._request_seconds.labels(ensemble, policy),
            self._predictions.labels(ensemble, policy) if handled.code == "OK" else None,
            self._queue_seconds.labels(ensemble) if handled.code == "OK" else None,
        )

    def runs(self, ensemble: str, policy: str, rows: int, runs: Sequence[MemberRun]) -> None:
        """Count what the members did for a batch and what that cost, whether or not an answer came of it."""
        for run in runs:
            by_outcome, seconds, device_seconds, cost = self._member(ensemble, policy, run)
            by_outcome[run.outcome].inc(rows)
            if run.outcome is not Outcome.SKIPPED:
                seconds.observe(run.seconds)
                device_seconds.inc(run.device_seconds)
                cost.inc(run.cost_usd)

    def _member(self, ensemble: str, policy: str, run: MemberRun) -> tuple[Any, ...]:
        key = (ensemble, policy, run.member)
        series = self._of_member.get(key)
        if series is None:
            series = self._of_member[key] = (
                {outcome: self._member_rows.labels(ensemble, run.member, outcome) for outcome in Outcome},
                self._member_seconds.labels(ensemble, run.member),
                self._device_seconds.labels(ensemble, policy, run.member, run.device),
                self._cost.labels(ensemble, policy, run.member, run.device),
            )
        return series

    def batch(self, counted: Counted) -> None:
        """Count one batch that was answered, and who dissented."""
        series = self._of_batch.get(counted.ensemble)
        if series is None:
            series = self._of_batch[counted.ensemble] = self._batch_series(counted)
        rows, vote_seconds, dissents = series
        rows.observe(counted.rows)
        vote_seconds.observe(counted.vote_seconds)
        result = counted.result
        agreed = (result.votes == result.label_index[:, None]).sum(axis=0).tolist()
        for run, dissent, same in zip(counted.runs, dissents, agreed, strict=True):
            if run.outcome is Outcome.OK:
                dissent.inc(counted.rows - same)

    def _batch_series(self, counted: Counted) -> tuple[Any, ...]:
        ensemble = counted.ensemble
        dissents = [self._dissents.labels(ensemble, run.member) for run in counted.runs]
        return self._batch_rows.labels(ensemble), self._vote_seconds.labels(ensemble), dissents

    def shed(self, ensemble: str, reason: str) -> None:
        """Count a request that was refused before it cost anything."""
        self._shed.labels(ensemble, reason).inc()

    def watch(self, name: str, help_text: str, samples: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> None:
        """A gauge that is read when it is asked for: `samples` gives its labels and values."""
        self.registry.register(_Read(name, help_text, samples))

    def exposition(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)


class _Idle:
    """Idle device time, settled to the instant at which it is asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        seconds = CounterMetricFamily(
            "ensemble_idle_device_seconds", "Device time in which no member ran", labels=["device"]
        )
        cost = CounterMetricFamily(
            "ensemble_idle_cost_usd", "The price of the idle device time, in USD", labels=["device"]
        )
        for device in self._ledger.devices:
            idle = device.idle_seconds
            seconds.add_metric([device.name], idle)
            cost.add_metric([device.name], self._ledger.cost_usd(idle))
        yield seconds
        yield cost


class _Read:
    def __init__(
        self, name: str, help_text: str, samples: Callable[[], Iterable[tuple[dict[str, str], float]]]
    ) -> None:
        self._name, self._help, self._samples = name, help_text, samples

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._help)
        for labels, value in self._samples():
            family.add_sample(self._name, labels, value)
        yield family
