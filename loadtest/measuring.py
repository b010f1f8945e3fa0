"""From a target and a plan to a `RunRecord`: shares the load among workers, and puts together what they measured."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from loadtest import stages, workers
from loadtest.jobs import Beat, Course, Job, Outcome
from loadtest.records import Generator, Plan, RunRecord
from loadtest.schedule import Schedule
from loadtest.target import Target
from loadtest.workers import Finished

SLOTS, SHORTEST_SLOT, LONG_RUN = 30, 0.1, 600.0
"""A time line has at least so many slots, where that leaves them so long; slots of 1 s up to so long a run."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be done. `course`: None for a closed loop, which has a `concurrency`. `shard`: from 1, of `of_shards`."""

    course: Course | None
    duration: float
    seed: int = 0
    concurrency: int = 0
    warm_up: float = 0.0
    drain: float = 10.0
    give_up: float = 5.0
    workers: int = 1
    shard: int = 1
    of_shards: int = 1
    start_at: float | None = None
    stages: str = ""
    """As they were written."""


Watch = Callable[[float, list[Beat]], None]


def slot_seconds(duration: float) -> float:
    """How long the slots of the time line are."""
    if duration > LONG_RUN:
        return duration / LONG_RUN
    return next((slot for slot in (1.0, 0.5, 0.2) if slot * SLOTS <= duration), SHORTEST_SLOT)


def measure(target: Target, load: Load, watch: Watch) -> RunRecord:
    """Raises ScheduleError, WorkerError."""
    jobs = shared(target, load)
    whole = load.course.schedule(load.seed, len(target.policies)) if load.course else None
    made = plan(target, load, whole)
    sha256 = whole.sha256 if whole else ""
    del whole  # the workers make their own
    finished = workers.run(jobs, watch, load.start_at)
    run = RunRecord(
        target=target.address.url,
        seed=load.seed,
        schedule_sha256=sha256,
        plan=made,
        arms=finished.outcomes[0].arms,
        started_at=finished.started_at,
        ended_at=finished.started_at + max(outcome.ended for outcome in finished.outcomes),
        generator=generator(finished.outcomes),
        labels=list(target.description.labels),
        truth=target.data.truth,
        data=target.data.name,
        shards=[load.shard],
        of_shards=load.of_shards,
        messages=said(finished),
        stopped=next((outcome.stopped for outcome in finished.outcomes if outcome.stopped), ""),
        ensemble={
            "name": target.description.name,
            "version": target.description.version,
            "digest": target.description.digest,
        },
    )
    for outcome in finished.outcomes[1:]:
        for mine, theirs in zip(run.arms, outcome.arms, strict=True):
            mine.merge(theirs)
    return run


def said(finished: Finished) -> dict[str, str]:
    return {code: text for outcome in reversed(finished.outcomes) for code, text in outcome.messages.items()}


def shared(target: Target, load: Load) -> list[Job]:
    """The jobs of this machine's workers."""
    job = Job(
        address=target.address,
        options=target.options,
        description=target.description,
        policies=target.policies,
        names=target.names,
        data=target.path,
        seed=load.seed,
        duration=load.duration,
        course=load.course,
        warm_up=load.warm_up,
        drain=load.drain,
        give_up=load.give_up,
        slot_seconds=slot_seconds(load.duration),
    )
    parts = load.of_shards * load.workers
    return [
        replace(
            job,
            part=(load.shard + load.of_shards * worker, parts),
            concurrency=load.concurrency // load.workers + (worker < load.concurrency % load.workers),
        )
        for worker in range(load.workers)
    ]


def plan(target: Target, load: Load, whole: Schedule | None) -> Plan:
    return Plan(
        arrivals=load.course.kind.value if load.course else "closed",
        rate=len(whole) / load.duration if whole and load.course and not load.course.stages else rate(load),
        concurrency=load.concurrency or None,
        duration=load.duration,
        rows_per_request=target.options.rows,
        requests=len(whole.part(load.shard, load.of_shards)) if whole else 0,
        warm_up=load.warm_up,
        deadline=target.options.deadline or None,
        connections=target.options.connections * load.workers,
        workers=load.workers,
        stages=load.stages,
    )


def rate(load: Load) -> float | None:
    """Requests/s over all policies and shards, in the mean."""
    if load.course is None:
        return None
    seconds, requests = stages.total(load.course.stages)
    return requests / seconds


def generator(outcomes: list[Outcome]) -> Generator:
    shares = [outcome.cpu_seconds / outcome.wall_seconds for outcome in outcomes if outcome.wall_seconds]
    return Generator(
        sum(outcome.cpu_seconds for outcome in outcomes),
        sum(outcome.wall_seconds for outcome in outcomes),
        max(shares, default=0.0),
        [socket.gethostname()],
    )
