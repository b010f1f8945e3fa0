"""Objectives held against a run, policy by policy. Pure."""

import math
from collections.abc import Sequence

from ensembles.estimates import CONFIDENCE, Estimate
from loadtest import blocks
from loadtest.records import ArmRecord, RunRecord
from loadtest.slo import Outcome, Slo, Unit
from loadtest.standing import Standing, standing


def tightest(slos: Sequence[Slo]) -> float:
    """The least latency, in seconds, that any objective sets; infinite where none does."""
    return min((slo.limit for slo in slos if slo.unit is Unit.SECONDS and slo.sign.startswith("<")), default=math.inf)


def judged(run: RunRecord, arm: ArmRecord, slos: Sequence[Slo], confidence: float = CONFIDENCE) -> tuple[Outcome, ...]:
    """Whether each objective is met, and how surely."""
    found = standing(run, arm, tightest(slos), confidence)
    return tuple(_judged(slo, arm, found, confidence) for slo in slos)


def _judged(slo: Slo, arm: ArmRecord, found: Standing, confidence: float) -> Outcome:
    if slo.quantile is not None:
        return _quantile(slo, slo.quantile, arm, confidence)
    estimate = measured(slo.quantity, arm, found)
    if estimate is None or math.isnan(estimate.value):
        return Outcome(slo, met=False, found=None, sure=False)
    met = slo.holds(estimate.value)
    return Outcome(slo, met, estimate, slo.holds(estimate.low) == met == slo.holds(estimate.high))


def _quantile(slo: Slo, q: float, arm: ArmRecord, confidence: float) -> Outcome:
    """Of all requests; those that failed or had no answer take forever."""
    if not arm.requests:
        return Outcome(slo, met=False, found=None, sure=False)
    kept = [min(slot.latency.within(slo.limit), slot.due) for slot in arm.timeline]
    share = blocks.share(blocks.joined(kept), blocks.joined([slot.due for slot in arm.timeline]), confidence)
    found = _with_failures(q, arm, confidence)
    met = slo.holds(found.value)
    return Outcome(slo, met, found, share.low >= q if met else share.high < q)


def _with_failures(q: float, arm: ArmRecord, confidence: float) -> Estimate:
    answered = arm.latency.count
    level = q * arm.requests / answered if answered else math.inf
    if level > 1 + 1e-12:
        return Estimate(math.inf, arm.latency.quantile(1.0) if answered else 0.0, math.inf, arm.requests)
    found = blocks.quantile(arm.latency, [slot.latency for slot in arm.timeline], min(level, 1.0), confidence)
    return Estimate(found.value, found.low, found.high, arm.requests)


def measured(quantity: str, arm: ArmRecord, found: Standing) -> Estimate | None:
    """What a run says of a quantity of `slo.QUANTITIES`."""
    by_name = {
        "error_rate": found.error_rate,
        "accuracy": found.accuracy,
        "agreement": found.agreement,
        "partial_rate": found.partial_rate,
        "mean": _exactly(arm.delays.mean, arm.delays.count),
        "max": _exactly(arm.delays.quantile(1.0), arm.delays.count),
        "rows_per_second": found.rows_per_second,
        "requests_per_second": found.requests_per_second,
        "cost_per_1k": found.cost_usd_per_1000,
        "cost_per_1k_right": found.cost_usd_per_1000_right,
    }
    return by_name[quantity]


def _exactly(value: float, n: int) -> Estimate:
    return Estimate(value, value, value, n)
