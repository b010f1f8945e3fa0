"""Every series that `GET /metrics` shows, by the names of the contract. One call a request, one or two a batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.ledger import Ledger
from serving.records import Counted, MemberRun, Outcome
from serving.series import Count, Counter, Distribution, Histogram

SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""From 250 µs, since small members answer in less than a millisecond; each twice the last."""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Telemetry:
    """The series of one process, in a registry of their own."""

    def __init__(self, ledger: Ledger) -> None:
        self.registry = CollectorRegistry()
        self._ledger = ledger
        self._requests = self._counter("requests", "Requests", "ensemble", "policy", "protocol", "code")
        self._predictions = self._counter("predictions", "Rows answered", "ensemble", "policy")
        self._request_seconds = self._histogram(
            "request_seconds", "From the arrival of a request to its answer", SECONDS, "ensemble", "policy"
        )
        self._queue_seconds = self._histogram(
            "queue_seconds", "From arrival to the start of the batch", SECONDS, "ensemble"
        )
        self._vote_seconds = self._histogram("vote_seconds", "Counting the votes of a batch", SECONDS, "ensemble")
        self._batch_rows = self._histogram("batch_rows", "Rows of a batch", ROWS, "ensemble")
        self._member_seconds = self._histogram("member_seconds", "One run of a member", SECONDS, "ensemble", "member")
        self._member_rows = self._counter(
            "member_rows", "Rows by what became of the member's vote", "ensemble", "member", "outcome"
        )
        spent = ("ensemble", "policy", "member", "device")
        self._device_seconds = self._counter(
            "device_seconds", "Device time spent on members, shared by those that overlap", *spent
        )
        self._cost = self._counter("cost_usd", "The price of the device time spent on members, in USD", *spent)
        self._dissents = self._counter(
            "dissents", "Rows where the member's vote was not the answer", "ensemble", "member"
        )
        self._early_exits = self._counter(
            "early_exits", "Rows that left after this stage, counted from 1", "ensemble", "policy", "stage"
        )
        self._shed = self._counter("shed", "Requests refused before they cost anything", "ensemble", "reason")
        self.registry.register(_Idle(ledger))
        self._of_answered: dict[tuple[str, str, str], tuple[Count, Distribution, Count, Distribution]] = {}
        self._of_member: dict[tuple[str, str, str], tuple[Any, ...]] = {}
        self._of_batch: dict[str, tuple[Any, ...]] = {}

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        counter = Counter(f"ensemble_{name}", help_text, labels)
        self.registry.register(counter)
        return counter

    def _histogram(self, name: str, help_text: str, bounds: Sequence[float], *labels: str) -> Histogram:
        histogram = Histogram(f"ensemble_{name}", help_text, labels, bounds)
        self.registry.register(histogram)
        return histogram

    def answered(
        self, ensemble: str, policy: str, protocol: str, rows: int, queue_seconds: float, seconds: float
    ) -> None:
        """Count one request that was answered."""
        key = (ensemble, policy, protocol)
        series = self._of_answered.get(key)
        if series is None:
            series = self._of_answered[key] = (
                self._requests.of(*key, "OK"),
                self._request_seconds.of(ensemble, policy),
                self._predictions.of(ensemble, policy),
                self._queue_seconds.of(ensemble),
            )
        requests, request_seconds, predictions, queued = series
        requests.value += 1
        request_seconds.add(seconds)
        predictions.value += rows
        queued.add(queue_seconds)

    def failed(self, ensemble: str, policy: str, protocol: str, code: str, seconds: float) -> None:
        """Count one that was not. `ensemble` and `policy` are "" where the request named none that exists."""
        self._requests.of(ensemble, policy, protocol, code).add(1)
        self._request_seconds.of(ensemble, policy).add(seconds)

    def runs(self, ensemble: str, policy: str, rows: int, runs: Sequence[MemberRun]) -> None:
        """Count what the members did for a batch and what that cost, whether or not an answer came of it."""
        for run in runs:
            by_outcome, seconds, device_seconds, cost = self._member(ensemble, policy, run)
            by_outcome[run.outcome].value += run.rows
            if run.rows < rows:
                by_outcome[Outcome.SKIPPED].value += rows - run.rows
            if run.outcome is not Outcome.SKIPPED:
                seconds.add(run.seconds)
                device_seconds.value += run.device_seconds - run.charged_seconds
                cost.value += run.cost_usd - self._ledger.cost_usd(run.charged_seconds)

    def _member(self, ensemble: str, policy: str, run: MemberRun) -> tuple[Any, ...]:
        key = (ensemble, policy, run.member)
        series = self._of_member.get(key)
        if series is None:
            series = self._of_member[key] = (
                {outcome: self._member_rows.of(ensemble, run.member, outcome.value) for outcome in Outcome},
                self._member_seconds.of(ensemble, run.member),
                self._device_seconds.of(ensemble, policy, run.member, run.device),
                self._cost.of(ensemble, policy, run.member, run.device),
            )
        return series

    def batch(self, counted: Counted) -> None:
        """Count one batch that was answered, and who dissented."""
        series = self._of_batch.get(counted.ensemble)
        if series is None:
            ensemble = counted.ensemble
            dissents = [self._dissents.of(ensemble, run.member) for run in counted.runs]
            series = self._of_batch[ensemble] = (
                self._batch_rows.of(ensemble),
                self._vote_seconds.of(ensemble),
                dissents,
            )
        rows, vote_seconds, dissents = series
        rows.add(counted.rows)
        vote_seconds.add(counted.vote_seconds)
        agreed = counted.result.agrees.sum(axis=0).tolist()
        for run, dissent, same in zip(counted.runs, dissents, agreed, strict=True):
            if run.outcome is Outcome.OK:
                dissent.value += run.rows - same

    def early_exits(self, ensemble: str, policy: str, stage: int, rows: int) -> None:
        """Count rows that left after the stage of this index, before all members of the policy had voted."""
        self._early_exits.of(ensemble, policy, str(stage + 1)).add(rows)

    def shed(self, ensemble: str, reason: str) -> None:
        """Count a request that was refused before it cost anything."""
        self._shed.of(ensemble, reason).add(1)

    def watch(self, name: str, help_text: str, samples: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> None:
        """A gauge that is read when it is asked for: `samples` gives its labels and values."""
        self.registry.register(_Read(name, help_text, samples))

    def exposition(self) -> bytes:
        """The text format of Prometheus."""
        for device in self._ledger.devices:
            for account, seconds in device.uncharged():
                spent = (account.ensemble, account.policy, account.member, device.name)
                self._device_seconds.of(*spent).add(seconds)
                self._cost.of(*spent).add(self._ledger.cost_usd(seconds))
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
