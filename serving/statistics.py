"""The counts behind the statistics extension of the Open Inference Protocol: per model, cumulative, in nanoseconds."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from ensembles.spec import EnsembleSpec
from serving.answers import Answers, Key, Times
from serving.notes import Notes
from serving.records import Counted, MemberRun

NANOSECONDS = 1e9


@dataclass(slots=True)
class Duration:
    """How often, and for how long in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        self.count += times
        self.seconds += seconds

    def as_message(self, and_also: "Duration | None" = None) -> dict[str, int]:
        """With those of another one."""
        more = and_also or Duration()
        return {"count": self.count + more.count, "ns": int((self.seconds + more.seconds) * NANOSECONDS)}


@dataclass(slots=True)
class ModelStatistics:
    """One model's. `batches`: runs by their rows.

    `success`, `fail`, `queue`, `compute`: of requests to the model itself. `within`: of those to its ensemble, for which it ran
    without a queue of its own.
    """

    last_inference_ms: int = 0
    rows: int = 0
    runs: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    within: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    def ran(self, rows: int, seconds: float, now_ms: int) -> None:
        self.runs += 1
        self.rows += rows
        self.batches[rows].add(seconds)
        self.last_inference_ms = now_ms

    def as_message(self) -> dict[str, Any]:
        """The fields of the protocol's ModelStatistics; all durations are there, since clients read them unchecked."""
        answered = self.success.count + self.within.count
        nothing = Duration(answered).as_message()
        return {
            "last_inference": self.last_inference_ms,
            "inference_count": self.rows,
            "execution_count": self.runs,
            "inference_stats": {
                "success": self.success.as_message(self.within),
                "fail": self.fail.as_message(),
                "queue": Duration(answered, self.queue.seconds).as_message(),
                "compute_input": nothing,
                "compute_infer": Duration(answered, self.compute.seconds + self.within.seconds).as_message(),
                "compute_output": nothing,
                "cache_hit": Duration().as_message(),
                "cache_miss": Duration().as_message(),
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": Duration(duration.count).as_message(),
                    "compute_infer": duration.as_message(),
                    "compute_output": Duration(duration.count).as_message(),
                }
                for rows, duration in sorted(self.batches.items())
            ],
        }


class Statistics:
    """All models'. An ensemble's queue is counted once a request, also where the wait was nil."""

    def __init__(self, answers: Answers | None = None) -> None:
        """`answers`: where requests are noted once they are answered."""
        self._models: defaultdict[str, ModelStatistics] = defaultdict(ModelStatistics)
        self._notes = Notes()
        self._answers = answers or Answers()
        self._answers.readers.append(self._count_answers)

    def of(self, model: str) -> ModelStatistics:
        self._notes.count()
        self._answers.count()
        return self._models[model]

    def _count_answers(self, key: Key, times: Times) -> None:
        statistics = self._models[key.model]
        statistics.success.add(sum(times.total), len(times.total))
        statistics.queue.seconds += sum(times.queue)
        statistics.compute.seconds += sum(times.compute)

    def failed(self, model: str, seconds: float) -> None:
        """Count a request to `model` that was not."""
        self._models[model].fail.add(seconds)

    def batch(self, counted: Counted) -> None:
        """Count rows of an ensemble that were answered together, unless one member was asked alone."""
        if not counted.policy.startswith(EnsembleSpec.MEMBER_PREFIX):
            self._notes.add(self._count_batch, counted.ensemble, counted.rows, counted.compute_seconds, _now_ms())

    def _count_batch(self, ensemble: str, rows: int, seconds: float, now_ms: int) -> None:
        self._models[ensemble].ran(rows, seconds, now_ms)

    def member_ran(self, ensemble: str, run: MemberRun, policy: str, requests: int) -> None:
        """Count a run of a member, for so many requests."""
        self._notes.add(self._count_run, ensemble, run, policy, requests, _now_ms())

    def _count_run(self, ensemble: str, run: MemberRun, policy: str, requests: int, now_ms: int) -> None:
        member = self._models[f"{ensemble}.{run.member}"]
        member.ran(run.rows, run.seconds, now_ms)
        if not policy.startswith(EnsembleSpec.MEMBER_PREFIX):
            member.within.add(run.seconds * requests, requests)


def _now_ms() -> int:
    """An instant that clients compare with their calendar."""
    return time.time_ns() // 1_000_000
