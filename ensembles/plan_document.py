"""A plan as plain values: `plan.json`, and the policies that it puts into `ensemble.yaml`.

Numbers are SI units and USD, shares are fractions, and an estimate is `{"value", "low", "high", "n"}` at 95%, from the rows that
chose and certified nothing.
"""

from collections.abc import Callable
from typing import Any

from ensembles.estimates import Estimate
from ensembles.front import DECIDED, Stages
from ensembles.judging import Policy, Threshold
from ensembles.planning import Judged, Plan

SCHEMA = 1
FILE = "plan.json"
KNOWN_POLICIES = ("early_exit", "cascade")

Json = dict[str, Any]


def document(plan: Plan) -> Json:
    """The content of `plan.json`."""
    chosen = plan.named("chosen")
    return {
        "schema": SCHEMA,
        "candidates": plan.candidates,
        "front": [_entry(plan, each) for each in plan.front],
        "chosen": _entry(plan, chosen) if chosen else None,
        "judged_on": len(plan.parts.judge),
        "chosen_on": len(plan.parts.choose),
        "certified_on": len(plan.parts.certify),
        "asked": {
            "min_accuracy": plan.wishes.min_accuracy,
            "max_cost_usd_per_1000": plan.wishes.max_cost,
            "disagreement": plan.wishes.disagreement,
            "confidence": plan.wishes.confidence,
        },
        "price_usd_per_hour": plan.wishes.price_per_hour,
        "seed": plan.wishes.seed,
        "temperature": plan.ballot.temperature,
        "notes": list(plan.notes),
    }


def _entry(plan: Plan, judged: Judged) -> Json:
    names, policy = plan.recorded.names, judged.policy
    usd = plan.wishes.usd_per_1000(1.0)
    certificate = policy.exit.certificate if isinstance(policy.exit, Threshold) else None
    return {
        "members": [names[member] for member in policy.members],
        "rule": policy.rule.value,
        "stages": _named(policy.stages, names),
        "exit": _exit(policy),
        "accuracy": judged.accuracy.as_json(),
        "expected_member_runs": judged.runs.as_json(),
        "seconds_per_1000": _times(judged.seconds, 1000).as_json(),
        "cost_usd_per_1000": _times(judged.seconds, usd).as_json(),
        "when_choosing": {
            "accuracy": judged.candidate.right / len(plan.parts.choose),
            "cost_usd_per_1000": usd * judged.candidate.cost,
        },
        "certificate": None
        if certificate is None
        else {
            "disagreement": certificate.disagreement,
            "confidence": certificate.confidence,
            "n": certificate.n,
        },
        "known_as": list(judged.known_as),
        "on_front": judged.on_front,
    }


def _times(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor, estimate.n)


def _named(stages: Stages, names: tuple[str, ...]) -> list[list[str]]:
    return [[names[member] for member in stage] for stage in stages]


def _exit(policy: Policy) -> str | Json | None:
    if isinstance(policy.exit, Threshold):
        return {policy.exit.score.value: policy.exit.value}
    return policy.exit


def manifest_changes(plan: Plan, digest: Callable[[Json], str]) -> dict[str, Json]:
    """What changes in `ensemble.yaml`: the temperature, and the policies `early_exit`, `cascade` and `planned`.

    `planned` is what was chosen where that is neither of them, nor all members. A policy that this plan does not have goes: it was
    made for another temperature. `digest`: of what the certificate of a policy, given as the manifest says it, depends on.
    """
    policies: dict[str, Json | None] = dict.fromkeys((*KNOWN_POLICIES, "planned"))
    for name in KNOWN_POLICIES:
        judged = plan.named(name)
        policies[name] = _policy(plan, judged, digest) if judged else None
    chosen = plan.named("chosen")
    if chosen and not set(chosen.known_as) & {*KNOWN_POLICIES, "full"}:
        policies["planned"] = _policy(plan, chosen, digest)
    return {"vote": {"temperature": plan.ballot.temperature}, "policies": policies}


def _policy(plan: Plan, judged: Judged, digest: Callable[[Json], str]) -> Json:
    entry = _entry(plan, judged)
    policy = {"stages": entry["stages"], "exit": entry["exit"] or DECIDED}
    if judged.policy.rule is not plan.ballot.rule:
        policy["rule"] = entry["rule"]
    if entry["certificate"]:
        policy["certificate"] = {**entry["certificate"], "digest": digest(policy)}
    return policy
