"""What a report says beside its numbers, each sentence from a document (or its run) alone. Pure."""

import math

from loadtest.histogram import Histogram
from loadtest.records import ArmRecord, Json, RunRecord
from loadtest.wording import count, percent, rate, seconds, span

ARRIVALS = {
    "poisson": "Poisson arrivals",
    "constant": "evenly spaced arrivals",
    "gamma": "bursts (gamma arrivals)",
    "trace": "arrivals of a trace",
}


def load(run: RunRecord) -> str:
    """What was asked of the server."""
    plan = run.plan
    rows = "1 row" if plan.rows_per_request == 1 else f"{count(plan.rows_per_request)} rows"
    if plan.rate is None:
        return f"closed loop: {count(plan.concurrency or 0)} clients, each waiting for its answer, {seconds(plan.duration)}, {rows} a request"
    course = f"stages {plan.stages}" if plan.stages else f"{rate(plan.rate)} for {seconds(plan.duration)}"
    return f"{ARRIVALS.get(plan.arrivals, plan.arrivals)}, {course}, {rows} a request"


def closed(run: RunRecord) -> str:
    """What a closed loop cannot tell; nothing of an open one."""
    if run.plan.rate is not None:
        return ""
    return (
        "This was a closed loop: while the server is slow its clients send less, so stalls hardly show in the percentiles. "
        "An open loop (--rate) sends when it was planned, whatever the server does."
    )


def latency(document: Json) -> str:
    """The p99 of each policy; of many, the least and the greatest."""
    found = [(arm["policy"], arm["latency_intervals_seconds"]["p99"]) for arm in document["arms"] if arm["answered"]]
    if not found:
        return "No request was answered."
    found.sort(key=lambda each: float(each[1]["value"]))
    shown = found if len(found) < 5 else [found[0], found[-1]]
    parts = [f"{seconds(p99['value'])} with {policy} ({_interval(p99)})" for policy, p99 in shown]
    return f"99 of 100 requests had their answer within {', '.join(parts)}."


def _interval(of: Json) -> str:
    return f"95% interval {span(of['low'], of['high'], seconds)}"


def moments(run: RunRecord) -> str:
    """When it was slowest, and how much slower than usual."""
    found = [(value, place, arm) for arm in run.arms for place, value in enumerate(_p99s(arm)) if not math.isnan(value)]
    if not found:
        return "No request was answered."
    value, place, arm = max(found, key=lambda each: each[0])
    usual = Histogram.of([each for each in _p99s(arm) if not math.isnan(each)]).quantile(0.5)
    return (
        f"Slowest were the requests of {arm.policy} planned for {place * arm.slot_seconds:g} to {(place + 1) * arm.slot_seconds:g} s: "
        f"p99 {seconds(value)}, {value / max(usual, 1e-9):.3g} times that of its median moment."
    )


def _p99s(arm: ArmRecord) -> list[float]:
    return [slot.latency.quantile(0.99) for slot in arm.timeline]


def outcomes(document: Json) -> str:
    """How the requests ended."""
    total, answered, failed, unanswered, partial, degraded = (
        sum(arm[name] for arm in document["arms"])
        if name != "errors"
        else sum(sum(arm["errors"].values()) for arm in document["arms"])
        for name in ("requests", "answered", "errors", "censored", "partial", "degraded")
    )
    if not failed + unanswered + partial + degraded:
        return f"All {count(total)} requests were answered, with every member that should have voted."
    parts = [f"{count(answered)} of {count(total)} requests were answered"]
    parts += [f"{count(failed)} failed"] if failed else []
    parts += [f"{count(unanswered)} had no answer when the run ended (they count with their age)"] if unanswered else []
    parts += [f"{count(partial)} answers lacked a member"] if partial else []
    parts += [f"{count(degraded)} answers came of a cheaper policy than was asked for (brown-out)"] if degraded else []
    return ", ".join(parts) + "."


def failures(document: Json) -> str:
    """How soon requests failed, and what the target said."""
    slowest: dict[str, float] = {}
    for arm in document["arms"]:
        for code, within in arm["failure_seconds"].items():
            slowest[code] = max(slowest.get(code, 0.0), within["p99"] or 0.0)
    told = [
        f"{code} within {seconds(within)} (p99): {document['messages'].get(code) or 'nothing was said'}"
        for code, within in slowest.items()
    ]
    return f"{'; '.join(told)}." if told else ""


def generator(run: RunRecord) -> str:
    """Whether the numbers are the server's or the generator's own."""
    lateness = Histogram()
    for arm in run.arms:
        lateness.merge(arm.lateness)
    used = f"its busiest process used {run.generator.busiest:.0%} of a core"
    if run.plan.rate is None or not lateness.count:
        return f"Of the load generator, {used}."
    return f"The generator sent 99% of requests within {seconds(lateness.quantile(0.99))} of their planned instants; {used}."


def plane(document: Json) -> str:
    """Who is right most often, and who is cheapest."""
    arms = [arm for arm in document["arms"] if arm["accuracy"]]
    if not arms:
        return ""
    best = max(arms, key=lambda arm: float(arm["accuracy"]["value"]))
    text = f"{best['policy']} is right most often, on {percent(best['accuracy']['value'])} of {count(best['accuracy']['n'])} rows"
    priced = [arm for arm in arms if arm["cost_usd_per_1000"]]
    if not priced:
        return f"{text}."
    cheapest = min(priced, key=lambda arm: float(arm["cost_usd_per_1000"]["value"]))
    if cheapest is best:
        return f"{text}, and costs least."
    return f"{text}; {cheapest['policy']} costs least."


def objectives(document: Json) -> str:
    missed = sum(not each["met"] for arm in document["arms"] for each in arm["slos"])
    total = sum(len(arm["slos"]) for arm in document["arms"])
    if not total:
        return ""
    text = f"All {total} objectives are met." if not missed else f"{missed} of {total} objectives are missed."
    if any(arm["errors"] or arm["censored"] for arm in document["arms"]):
        text += " Those on latency are about all requests: one that failed or had no answer did not keep them."
    return text
