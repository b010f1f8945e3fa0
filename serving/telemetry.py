"""Every series that `GET /metrics` shows, by the names of the contract. Told once a request (`answers`) and a few times a batch."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics

from ensembles.votes import Result
from serving.answers import Answers, Key, Times
from serving.journey import Journey
from serving.ledger import Ledger
from serving.notes import Notes
from serving.records import OUTCOMES, Counted, Crew, MemberRun
from serving.series import Count, Counter, Distribution, Histogram, Read

SECONDS = (
    *(
        0.00025,
        0.00035,
        0.0005,
        0.0007,
        0.001,
        0.0014,
        0.002,
        0.0028,
        0.004,
        0.0056,
        0.008,
        0.011,
        0.016,
        0.022,
        0.032,
        0.045,
    ),
    *(0.064, 0.09, 0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
)
"""From 250 µs to 8 s, since small members answer in less than a millisecond; each about the root of 2 times the last, so that a quantile interpolated
between two of them is wrong by a tenth or so."""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Telemetry:
    """The series of one process, in a registry of their own. `answers`: where requests are noted once they are answered."""

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
        self._wasted = self._counter(
            "wasted_device_seconds",
            "Device time of runs whose votes nobody could use, which is also counted as spent",
            "ensemble",
            "member",
            "device",
            "reason",
        )
        self._dissents = self._counter(
            "dissents", "Rows where the member's vote was not the answer", "ensemble", "member"
        )
        self._early_exits = self._counter(
            "early_exits", "Rows that left after this stage, counted from 1", "ensemble", "policy", "stage"
        )
        self._feedback = self._counter(
            "feedback",
            "Rows whose true label was told, by whether the answer was right",
            "ensemble",
            "policy",
            "correct",
        )
        self._feedback_cost = self._counter(
            "feedback_cost_usd", "What the answers cost whose true labels were told, in USD", "ensemble", "policy"
        )
        self._member_feedback = self._counter(
            "member_feedback", "The same by whether the member's vote was right", "ensemble", "member", "correct"
        )
        self._shed = self._counter("shed", "Requests refused before they cost anything", "ensemble", "reason")
        self._audited = self._counter(
            "audited_rows",
            "Rows given to the full ensemble afterwards, by whether the label is the same",
            "ensemble",
            "policy",
            "same",
        )
        self._audit_dropped = self._counter(
            "audit_dropped_rows", "Rows that were drawn for an audit and had none", "ensemble", "reason"
        )
        self._shadow_rows = self._counter(
            "shadow_rows",
            "Rows that a shadow ran, by whether its vote would have changed the answer",
            "ensemble",
            "member",
            "changed",
        )
        self._shadow_dissents = self._counter(
            "shadow_dissents", "Rows where the shadow's vote was not the answer", "ensemble", "member"
        )
        self._shadow_dropped = self._counter(
            "shadow_dropped_rows",
            "Rows that were drawn for a shadow and had none of its votes",
            "ensemble",
            "member",
            "reason",
        )
        self._reloads = self._counter(
            "reloads", "Wishes for another version, by what came of it", "ensemble", "outcome"
        )
        self.registry.register(_Idle(ledger))
        self.watch("ensemble_price_usd_per_hour", "What an hour of a device costs", lambda: _prices(ledger))
        self._notes = Notes()
        self.answers = Answers()
        self.answers.readers.append(self._count_answers)
        self._of_member: dict[tuple[str, str, str, str], tuple[Any, ...]] = {}
        self._of_batch: dict[str, tuple[Distribution, Distribution, dict[str, Count]]] = {}
        self._of_outcome: dict[tuple[str, tuple[str, ...]], list[list[Count]]] = {}

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        counter = Counter(f"ensemble_{name}", help_text, labels)
        self.registry.register(counter)
        return counter

    def _histogram(self, name: str, help_text: str, bounds: Sequence[float], *labels: str) -> Histogram:
        histogram = Histogram(f"ensemble_{name}", help_text, labels, bounds)
        self.registry.register(histogram)
        return histogram

    def _count_answers(self, key: Key, times: Times) -> None:
        ensemble, policy = key.ensemble, key.policy
        self._requests.of(ensemble, policy, key.protocol, "OK").add(len(times.rows))
        self._predictions.of(ensemble, policy).add(sum(times.rows))
        self._queue_seconds.of(ensemble).add_all(times.queue)
        self._request_seconds.of(ensemble, policy).add_all(times.total)

    def failed(self, ensemble: str, policy: str, protocol: str, code: str, seconds: float) -> None:
        """Count one that was not. `ensemble` and `policy` are "" where the request named none that exists."""
        self._requests.of(ensemble, policy, protocol, code).add(1)
        self._request_seconds.of(ensemble, policy).add(seconds)

    def exemplify(self, journey: Journey) -> None:
        """What was observed of a sampled request can be found in its trace."""
        self._notes.add(self._exemplify, journey, time.time())

    def _exemplify(self, journey: Journey, now: float) -> None:
        assert journey.span is not None  # noqa: S101  it is sampled
        ensemble, trace_id = journey.ensemble, journey.span.trace_id
        self._request_seconds.of(ensemble, journey.policy).exemplify(journey.seconds, trace_id, now)
        if not journey.answered:
            return
        self._queue_seconds.of(ensemble).exemplify(journey.started - journey.arrived, trace_id, now)
        self._vote_seconds.of(ensemble).exemplify(journey.vote_seconds, trace_id, now)
        for run in journey.runs:
            if run.seconds:
                self._member_seconds.of(ensemble, run.member).exemplify(run.seconds, trace_id, now)

    def begun(self, ensemble: str, rows: int) -> None:
        """Count one batch that was taken from the queue."""
        self._notes.add(self._count_begun, ensemble, rows)

    def _count_begun(self, ensemble: str, rows: int) -> None:
        self._of_ensemble(ensemble)[0].add(rows)

    def ran(self, ensemble: str, policy: str, run: MemberRun) -> None:
        """Count one run of a member and what it cost, whether or not an answer came of it."""
        self._notes.add(self._count_run, ensemble, policy, run)

    def _count_run(self, ensemble: str, policy: str, run: MemberRun) -> None:
        key = (ensemble, policy, run.member, run.device)
        series = self._of_member.get(key)
        if series is None:
            series = self._of_member[key] = (
                self._member_seconds.of(ensemble, run.member),
                self._device_seconds.of(ensemble, policy, run.member, run.device),
                self._cost.of(ensemble, policy, run.member, run.device),
            )
        seconds, device_seconds, cost = series
        seconds.add(run.seconds)
        device_seconds.value += run.device_seconds - run.charged_seconds
        cost.value += run.cost_usd - self._ledger.device(run.device).cost_usd(run.charged_seconds)

    def wasted(self, ensemble: str, run: MemberRun, reason: str) -> None:
        """Count a run once more whose votes nobody could use."""
        self._wasted.of(ensemble, run.member, run.device, reason).add(run.device_seconds)

    def outcomes(self, ensemble: str, crew: Crew, counts: Sequence[Sequence[int]]) -> None:
        """Count what became of the members' votes on rows that nobody waits for any more. `counts`: see `Spent.counts`."""
        self._notes.add(self._count_outcomes, ensemble, crew, counts)

    def _count_outcomes(self, ensemble: str, crew: Crew, counts: Sequence[Sequence[int]]) -> None:
        key = (ensemble, crew.names)
        series = self._of_outcome.get(key)
        if series is None:
            series = self._of_outcome[key] = [
                [self._member_rows.of(ensemble, name, outcome.value) for outcome in OUTCOMES] for name in crew.names
            ]
        for by_outcome, rows in zip(series, counts, strict=True):
            for count, number in zip(by_outcome, rows, strict=True):
                count.value += number

    def batch(self, counted: Counted) -> None:
        """Count rows that were answered, and who dissented."""
        self._notes.add(self._count_batch, counted.ensemble, counted.crew, counted.result, counted.vote_seconds)

    def _count_batch(self, ensemble: str, crew: Crew, result: Result, seconds: float) -> None:
        _, vote_seconds, dissents = self._of_ensemble(ensemble)
        vote_seconds.add(seconds)
        voted = result.votes >= 0
        differs = np.add.reduce(voted > result.agrees, 0, np.int64).tolist()  # who agrees has voted
        for name, number in zip(crew.names, differs, strict=True):
            dissent = dissents.get(name)
            if dissent is None:
                dissent = dissents[name] = self._dissents.of(ensemble, name)
            dissent.value += number

    def _of_ensemble(self, ensemble: str) -> tuple[Distribution, Distribution, dict[str, Count]]:
        series = self._of_batch.get(ensemble)
        if series is None:
            series = self._of_batch[ensemble] = (self._batch_rows.of(ensemble), self._vote_seconds.of(ensemble), {})
        return series

    def early_exits(self, ensemble: str, policy: str, stage: int, rows: int) -> None:
        """Count rows that left after the stage of this index, before all members of the policy had voted."""
        self._notes.add(self._count_exits, ensemble, policy, stage, rows)

    def _count_exits(self, ensemble: str, policy: str, stage: int, rows: int) -> None:
        self._early_exits.of(ensemble, policy, str(stage + 1)).add(rows)

    def feedback(self, ensemble: str, policy: str, rows: int, right: int, cost_usd: float) -> None:
        """Count rows of one answer whose true label was told."""
        self._feedback.of(ensemble, policy, "true").add(right)
        self._feedback.of(ensemble, policy, "false").add(rows - right)
        self._feedback_cost.of(ensemble, policy).add(cost_usd)

    def member_feedback(self, ensemble: str, member: str, voted: int, right: int) -> None:
        """The same for one member, on the rows that it voted on."""
        self._member_feedback.of(ensemble, member, "true").add(right)
        self._member_feedback.of(ensemble, member, "false").add(voted - right)

    def audited(self, ensemble: str, policy: str, same: int, differing: int) -> None:
        """Count rows whose label was compared with the full ensemble's."""
        self._audited.of(ensemble, policy, "true").add(same)
        self._audited.of(ensemble, policy, "false").add(differing)

    def audit_dropped(self, ensemble: str, reason: str, rows: int) -> None:
        """Count rows that should have been audited; `reason`: no_room or failed."""
        self._audit_dropped.of(ensemble, reason).add(rows)

    def shadowed(self, ensemble: str, member: str, same: int, changed: int, dissents: int) -> None:
        """Count rows that a shadow ran: the answers that its vote would have left and changed, and where it was another."""
        self._shadow_rows.of(ensemble, member, "false").add(same)
        self._shadow_rows.of(ensemble, member, "true").add(changed)
        self._shadow_dissents.of(ensemble, member).add(dissents)

    def shadow_dropped(self, ensemble: str, member: str, reason: str, rows: int) -> None:
        """Count rows that a shadow should have run; `reason`: no_room or failed."""
        self._shadow_dropped.of(ensemble, member, reason).add(rows)

    def shed(self, ensemble: str, reason: str) -> None:
        """Count a request that was refused before it cost anything."""
        self._shed.of(ensemble, reason).add(1)

    def reloaded(self, ensemble: str, outcome: str) -> None:
        """Count a wish for another version: loaded, unchanged, refused or unloaded."""
        self._reloads.of(ensemble, outcome).add(1)

    def watch(self, name: str, help_text: str, samples: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> None:
        """A gauge that is read when it is asked for: `samples` gives its labels and values."""
        self.registry.register(Read(GaugeMetricFamily(name, help_text), samples))

    def watch_total(
        self, name: str, help_text: str, samples: Callable[[], Iterable[tuple[dict[str, str], float]]]
    ) -> None:
        """The same for a counter. `name` ends in `_total`."""
        self.registry.register(Read(CounterMetricFamily(name, help_text), samples))

    def exposition(self, exemplars: bool = False) -> bytes:
        """The text format of Prometheus; with exemplars that of OpenMetrics."""
        self._notes.count()
        self.answers.count()
        for device in self._ledger.devices:
            for account, seconds in device.uncharged():
                spent = (account.ensemble, account.policy, account.member, device.name)
                self._device_seconds.of(*spent).add(seconds)
                self._cost.of(*spent).add(device.cost_usd(seconds))
        generate: Callable[[CollectorRegistry], bytes] = openmetrics.generate_latest if exemplars else generate_latest
        return generate(self.registry)


def _prices(ledger: Ledger) -> list[tuple[dict[str, str], float]]:
    return [
        ({"device": device.name, "currency": "USD", "as_of": device.price.as_of}, device.price.usd_per_hour)
        for device in ledger.devices
    ]


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
            cost.add_metric([device.name], device.cost_usd(idle))
        yield seconds
        yield cost
