"""Whether the load generator did what it was to do; if not, its numbers are about itself. Pure."""

from loadtest.histogram import Histogram
from loadtest.records import RunRecord

LATE = 1e-3
"""Seconds that the p99 of lateness may reach, as perf_analyzer's tolerance of a schedule's delay; …"""
LATE_SHARE = 0.05
"""… or this share of the median latency, whichever is more."""
SENT_SHARE = 0.99
"""Of the planned requests that must have been sent."""
BUSY = 0.95
"""The share of its core up to which a process of the generator can be trusted to be on time."""


def reasons(run: RunRecord) -> list[str]:
    """Why the run is invalid; empty for a valid one."""
    found = [_nothing(run), *(() if run.plan.rate is None else (_late(run), _short(run))), _busy(run), _missing(run)]
    return [each for each in found if each]


def _nothing(run: RunRecord) -> str:
    return "" if any(arm.latency.count for arm in run.arms) else "no request was answered"


def _late(run: RunRecord) -> str:
    """Lateness over all policies: they are sent by the same generator."""
    lateness, latency = Histogram(), Histogram()
    for arm in run.arms:
        lateness.merge(arm.lateness)
        latency.merge(arm.delays)
    if not lateness.count or not latency.count:
        return ""
    late, median = lateness.quantile(0.99), latency.quantile(0.5)
    allowed = max(LATE, LATE_SHARE * median)
    if late <= allowed:
        return ""
    return (
        f"the generator was late: p99 of lateness {1000 * late:.3g} ms, expected at most {1000 * allowed:.3g} ms "
        f"(1 ms, or 5% of the median latency)"
    )


def _short(run: RunRecord) -> str:
    if run.stopped or not run.plan.requests:
        return ""
    sent = sum(arm.lateness.count for arm in run.arms)
    if sent >= SENT_SHARE * run.plan.requests:
        return ""
    return f"the generator fell short: sent {sent:,} of {run.plan.requests:,} planned requests, expected at least {SENT_SHARE:.0%}"


def _busy(run: RunRecord) -> str:
    if run.generator.busiest <= BUSY:
        return ""
    return (
        f"the generator had no CPU left: {run.generator.busiest:.0%} of a core, expected at most {BUSY:.0%}; "
        "more --workers, or a lower rate"
    )


def _missing(run: RunRecord) -> str:
    absent = sorted(set(range(1, run.of_shards + 1)) - set(run.shards))
    if not absent or len(run.shards) == 1:
        return ""
    return f"shards are missing: {', '.join(map(str, absent))} of {run.of_shards}"
