"""Shards of one run become the run. Counts, sums and histograms add up, so nothing is lost or approximated. Pure."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

from loadtest.records import ArmRecord, Generator, Plan, RunRecord

APART = 1.0
"""Seconds that shards may have begun apart; more, and they did not load the server together."""

ALIKE = ("target", "seed", "schedule_sha256", "of_shards", "labels", "truth", "data", "slos")
PLANNED_ALIKE = ("arrivals", "rate", "duration", "rows_per_request", "warm_up", "deadline", "stages")


class MergeError(ValueError):
    """These are not shards of one run. One line."""


def merged(runs: Sequence[RunRecord], names: Sequence[str] | None = None) -> RunRecord:
    """The run of which these are the shards; missing ones make it invalid. `names`: what to call each in a fault.

    Raises MergeError.
    """
    called = names or [f"shard {number}" for number in range(1, len(runs) + 1)]
    if not runs:
        raise MergeError("found no runs, expected the results of at least one shard")
    for run, name in zip(runs[1:], called[1:], strict=True):
        _check(runs[0], run, called[0], name)
    _check_shards(runs, called)
    first = runs[0]
    return replace(
        first,
        plan=_plan(runs),
        arms=[_arm(runs, arm.policy) for arm in first.arms],
        started_at=min(run.started_at for run in runs),
        ended_at=max(run.ended_at for run in runs),
        generator=_generator(runs),
        shards=sorted(shard for run in runs for shard in run.shards),
        stopped="; ".join(dict.fromkeys(run.stopped for run in runs if run.stopped)),
        messages={code: text for run in reversed(runs) for code, text in run.messages.items()},
        server=next((run.server for run in runs if run.server), {}),
    )


def _check(first: RunRecord, other: RunRecord, first_name: str, name: str) -> None:
    pairs = [(field, getattr(first, field), getattr(other, field)) for field in ALIKE]
    pairs += [(field, getattr(first.plan, field), getattr(other.plan, field)) for field in PLANNED_ALIKE]
    pairs += [("policies", [arm.policy for arm in first.arms], [arm.policy for arm in other.arms])]
    for field, expected, found in pairs:
        if expected != found:
            told = (
                f"found {field} {found}, expected {expected}"
                if len(f"{found}{expected}") < 200
                else f"found another {field}"
            )
            raise MergeError(f"{name}: {told} as in {first_name}")
    if abs(other.started_at - first.started_at) > APART:
        raise MergeError(
            f"{name}: found a start {abs(other.started_at - first.started_at):.1f} s from that of {first_name}, expected the same "
            "moment: give all shards one --start-at"
        )


def _check_shards(runs: Sequence[RunRecord], names: Sequence[str]) -> None:
    seen: dict[int, str] = {}
    for run, name in zip(runs, names, strict=True):
        for shard in run.shards:
            if shard in seen:
                raise MergeError(
                    f"{name}: found shard {shard} of {run.of_shards}, which {seen[shard]} holds already; expected each shard once"
                )
            seen[shard] = name


def _plan(runs: Sequence[RunRecord]) -> Plan:
    plans = [run.plan for run in runs]
    concurrent = [plan.concurrency for plan in plans if plan.concurrency is not None]
    return replace(
        plans[0],
        requests=sum(plan.requests for plan in plans),
        concurrency=sum(concurrent) if concurrent else None,
        connections=sum(plan.connections for plan in plans),
        workers=sum(plan.workers for plan in plans),
    )


def _arm(runs: Sequence[RunRecord], policy: str) -> ArmRecord:
    total, *others = (run.arm(policy) for run in runs)
    total = deepcopy(total)
    for other in others:
        total.merge(other)
    return total


def _generator(runs: Sequence[RunRecord]) -> Generator:
    total = Generator()
    for run in runs:
        total.merge(run.generator)
    return total
