"""What changed between two runs, with intervals that hold all together. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ensembles.estimates import CONFIDENCE, Estimate
from loadtest import blocks, differences
from loadtest.records import ArmRecord, Json, RunRecord
from loadtest.standing import Standing, standing

COMPARED = ("p50", "p90", "p95", "p99")
"""Of latency; what lies further out needs more requests than most runs have."""

ACCURACY = "accuracy"


class Kind(Enum):
    RELATIVE = "relative"
    """The change is a share of the first run's value."""
    ABSOLUTE = "absolute"
    """The change is a difference of shares."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that both runs measured. `good`: 1 where more is better, -1 where less is."""

    name: str
    unit: str
    kind: Kind
    good: int
    read: Callable[[Standing], Estimate | None]


def _latency(name: str) -> Measure:
    return Measure(f"latency {name}", "s", Kind.RELATIVE, -1, lambda of: of.latency.get(name))


MEASURES = (
    *map(_latency, COMPARED),
    Measure("rows per second", "/s", Kind.RELATIVE, 1, lambda of: of.rows_per_second),
    Measure("error rate", "share", Kind.ABSOLUTE, -1, lambda of: of.error_rate),
    Measure(ACCURACY, "share", Kind.ABSOLUTE, 1, lambda of: of.accuracy),
    Measure("cost of 1,000 rows", "USD", Kind.RELATIVE, -1, lambda of: of.cost_usd_per_1000),
)


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of one policy in both runs. `before` and `after` have 95% intervals of their own.

    `change`: of the second run against the first, a share or a difference as the measure's kind says; its interval holds with 95%
    probability for all changes of the comparison together. `shown`: it lies wholly beyond the tolerance, on one side.
    """

    policy: str
    measure: Measure
    before: Estimate
    after: Estimate
    change: Estimate
    tolerance: float

    @property
    def shown(self) -> bool:
        return self.change.low > self.tolerance or self.change.high < -self.tolerance

    @property
    def worse(self) -> bool:
        return self.shown and self.change.value * self.measure.good < 0

    @property
    def better(self) -> bool:
        return self.shown and self.change.value * self.measure.good > 0


@dataclass(frozen=True, slots=True)
class Pair:
    """One policy in both runs."""

    before: RunRecord
    after: RunRecord
    first: ArmRecord
    second: ArmRecord

    def standings(self, confidence: float) -> tuple[Standing, Standing]:
        return standing(self.before, self.first, confidence=confidence), standing(
            self.after, self.second, confidence=confidence
        )

    @property
    def name(self) -> str:
        same = self.first.policy == self.second.policy
        return self.first.policy if same else f"{self.first.policy} → {self.second.policy}"


def pairs_of(before: RunRecord, after: RunRecord) -> list[Pair]:
    """The policies that took part in both; of runs with one policy each, these two whatever they are called."""
    if len(before.arms) == len(after.arms) == 1:
        return [Pair(before, after, before.arms[0], after.arms[0])]
    theirs = {arm.policy: arm for arm in after.arms}
    return [Pair(before, after, arm, theirs[arm.policy]) for arm in before.arms if arm.policy in theirs]


def compared(pairs: Sequence[Pair], tolerance: float = 0.0) -> list[Change]:
    """All that both runs measured of each pair.

    Each change's interval is at 1 - 0.05/k for k changes (Bonferroni): two equal runs show any change at all in at most 5% of cases.
    `tolerance`: how large a change must be to count: a share of the first run's value, or a difference of shares.
    """
    measured = [(pair, measure, values) for pair in pairs for measure, values in _both(pair, CONFIDENCE)]
    joint = 1 - (1 - CONFIDENCE) / max(len(measured), 1)
    wide = [_change(pair, measure, values, joint) for pair in pairs for measure, values in _both(pair, joint)]
    return [
        Change(pair.name, measure, *values, change, tolerance)
        for (pair, measure, values), change in zip(measured, wide, strict=True)
    ]


def _both(pair: Pair, confidence: float) -> Iterator[tuple[Measure, tuple[Estimate, Estimate]]]:
    first, second = pair.standings(confidence)
    for measure in MEASURES:
        before, after = measure.read(first), measure.read(second)
        if before is not None and after is not None:
            yield measure, (before, after)


def _change(pair: Pair, measure: Measure, values: tuple[Estimate, Estimate], confidence: float) -> Estimate:
    if measure.name == ACCURACY:
        return _accuracy(pair, confidence)
    before, after = values
    return differences.change(before, after) if measure.kind is Kind.RELATIVE else differences.difference(before, after)


def _accuracy(pair: Pair, confidence: float) -> Estimate:
    """Row by row where both runs sent the same rows, else from both shares."""
    first, second = (
        arm.answers.shares_right(run.truth) for run, arm in ((pair.before, pair.first), (pair.after, pair.second))
    )
    common = sorted(first.keys() & second.keys())
    if pair.before.data == pair.after.data and pair.before.truth == pair.after.truth and common:
        return differences.paired(np.array([second[row] - first[row] for row in common]), confidence)
    shares = [blocks.share(np.array(list(each.values())), np.ones(len(each)), confidence) for each in (first, second)]
    return differences.difference(*shares)


def as_json(changes: Sequence[Change]) -> list[Json]:
    return [
        {
            "policy": each.policy,
            "measure": each.measure.name,
            "unit": each.measure.unit,
            "kind": each.measure.kind.value,
            "before": each.before.as_json(),
            "after": each.after.as_json(),
            "change": each.change.as_json(),
            "shown": each.shown,
            "worse": each.worse,
        }
        for each in changes
    ]


def said(changes: Sequence[Change]) -> str:
    """What to make of it, in one sentence."""
    worse = [f"{each.measure.name} of {each.policy}" for each in changes if each.worse]
    better = [f"{each.measure.name} of {each.policy}" for each in changes if each.better]
    if not changes:
        return "The runs have no policy in common, so there is nothing to compare."
    if not worse and not better:
        return f"No change is shown in any of {len(changes)} measures."
    parts = [f"{what}: {', '.join(names)}" for what, names in (("Worse", worse), ("Better", better)) if names]
    return ". ".join(parts) + "."


def unlike(before: RunRecord, after: RunRecord) -> list[str]:
    """What else differs between the runs than what was measured: a change may come from it."""
    names = ("arrivals", "rate", "concurrency", "rows_per_request", "connections", "stages")
    found = [
        f"{name.replace('_', ' ')} {getattr(before.plan, name)} and {getattr(after.plan, name)}"
        for name in names
        if getattr(before.plan, name) != getattr(after.plan, name)
    ]
    if before.data != after.data:
        found.append(f"data {before.data or 'none'} and {after.data or 'none'}")
    if before.generator.machines != after.generator.machines:
        found.append(f"machines {', '.join(before.generator.machines)} and {', '.join(after.generator.machines)}")
    return found
