"""What a policy achieved in a run: estimates with their intervals, from what was recorded. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ensembles.estimates import CONFIDENCE, Estimate, share
from loadtest import blocks, differences
from loadtest.records import FULL, ArmRecord, RunRecord, Slot

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one policy. What the run cannot tell is None: accuracy without labels, cost where the target tells none."""

    policy: str
    latency: dict[str, Estimate]
    """The quantiles of `QUANTILES`, in seconds: of answers, and of unanswered requests at their age. Empty without any."""
    error_rate: Estimate | None
    """Requests that failed or had no answer."""
    partial_rate: Estimate | None
    requests_per_second: Estimate | None
    rows_per_second: Estimate | None
    goodput_per_second: Estimate | None
    """Rows of answers that came within the tightest objective on latency; all answers' where there is none."""
    accuracy: Estimate | None
    """`n` counts the data's rows, not requests: asking a row again tells nothing new."""
    agreement: Estimate | None
    """With the full ensemble of the same run, row by row."""
    device_seconds_per_1000: Estimate | None
    cost_usd_per_1000: Estimate | None
    cost_usd_per_1000_right: Estimate | None


def standing(run: RunRecord, arm: ArmRecord, limit: float = math.inf, confidence: float = CONFIDENCE) -> Standing:
    """`limit`: the tightest objective on latency, in seconds. `confidence`: of all intervals but those of rows."""
    slots = arm.timeline
    requests, rows, good = throughput(run, arm, limit, confidence)
    right = accuracy(run, arm)
    cost = per_1000_rows(slots, [slot.spending.cost_usd for slot in slots], confidence)
    return Standing(
        policy=arm.policy,
        latency=latencies(arm, confidence),
        error_rate=error_rate(arm, confidence),
        partial_rate=share(arm.partial, arm.latency.count) if arm.latency.count else None,
        requests_per_second=requests,
        rows_per_second=rows,
        goodput_per_second=good,
        accuracy=right,
        agreement=agreement(run, arm),
        device_seconds_per_1000=per_1000_rows(slots, [slot.spending.device_seconds for slot in slots], confidence),
        cost_usd_per_1000=cost,
        cost_usd_per_1000_right=differences.quotient(cost, right) if cost and right and right.value else None,
    )


def latencies(arm: ArmRecord, confidence: float = CONFIDENCE) -> dict[str, Estimate]:
    delays = arm.delays
    if not delays.count:
        return {}
    slots = [slot.latency for slot in arm.timeline]
    return {name: blocks.quantile(delays, slots, q, confidence) for name, q in QUANTILES.items()}


def error_rate(arm: ArmRecord, confidence: float = CONFIDENCE) -> Estimate | None:
    """Errors by the second in which they came; those without an answer in the end are added to the last."""
    if not arm.timeline:
        return None
    bad = [float(slot.errors) for slot in arm.timeline]
    ended = [float(slot.errors + slot.done) for slot in arm.timeline]
    bad[-1] += arm.censored.count
    ended[-1] += arm.censored.count
    return blocks.share(blocks.joined(bad), blocks.joined(ended), confidence) if sum(ended) else None


def throughput(
    run: RunRecord, arm: ArmRecord, limit: float = math.inf, confidence: float = CONFIDENCE
) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    """Per second: requests answered, their rows, and the rows that came within `limit` seconds."""
    answered, width = arm.latency.count, arm.slot_seconds
    seconds = run.seconds
    if not answered or seconds <= 0:
        return None, None, None
    whole = arm.timeline[: int(seconds / width + 1e-9)]
    spread = blocks.rate([slot.done for slot in whole], width, confidence) if whole else None
    requests = _around(answered / seconds, spread, answered)
    good = arm.latency.within(limit) / answered
    return requests, _times(requests, arm.rows / answered), _times(requests, good * arm.rows / answered)


def _around(value: float, spread: Estimate | None, n: int) -> Estimate:
    """The value with the interval of the whole slots, moved to it."""
    if spread is None:
        return Estimate(value, -math.inf, math.inf, n)
    return Estimate(value, max(0.0, value + spread.low - spread.value), value + spread.high - spread.value, n)


def _times(of: Estimate, factor: float) -> Estimate:
    return Estimate(of.value * factor, of.low * factor, of.high * factor, of.n)


def per_1000_rows(slots: Iterable[Slot], amounts: list[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """What 1,000 rows took, of the amounts that the answers of each slot told."""
    rows = [slot.spending.rows for slot in slots]
    if not sum(rows):
        return None
    found = blocks.ratio(blocks.joined(amounts), blocks.joined(rows), sum(rows), confidence)
    return Estimate(1000 * found.value, max(0.0, 1000 * found.low), 1000 * found.high, found.n)


def accuracy(run: RunRecord, arm: ArmRecord) -> Estimate | None:
    """The mean over rows of how often the answers to a row were right, with Wilson's interval."""
    return _share(arm.answers.shares_right(run.truth).values())


def agreement(run: RunRecord, arm: ArmRecord) -> Estimate | None:
    """The mean over rows of how often the answers were what the full ensemble of this run answers to the row.

    None also where a brown-out made cheaper policies answer for it: nobody knows then what it would have said.
    """
    full = next((each for each in run.arms if each.policy == FULL and not each.degraded), None)
    return _share(arm.answers.shares_right(full.answers.usual()).values()) if full else None


def _share(of_rows: Iterable[float]) -> Estimate | None:
    values = list(of_rows)
    return share(math.fsum(values), len(values)) if values else None
