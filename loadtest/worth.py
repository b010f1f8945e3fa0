"""What a policy is worth against the best single member that ran beside it, row by row of the data. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensembles.accuracy import detectable_gain, mcnemar, paired_gain, rows_needed
from ensembles.estimates import Estimate, mean
from loadtest.differences import difference, quotient
from loadtest.records import MEMBER, ArmRecord, RunRecord
from loadtest.standing import Standing


@dataclass(frozen=True, slots=True)
class Worth:
    """One policy against one member.

    `gain`: how much more often right, as a fraction, on the rows that both answered; `p`: McNemar's exact test, None where answers
    to the same row differed. `extra_cost`: USD for 1,000 rows, None where a cost is unknown. `break_even`: USD that one more right
    answer costs (or, of a policy that is cheaper and worse, that one more wrong answer saves), None where gain or cost is not shown
    to differ from 0. `detectable`: the least gain that so many rows show. `rows_needed`: to show a gain as measured; None for none.
    """

    policy: str
    against: str
    gain: Estimate
    p: float | None
    detectable: float
    rows_needed: int | None
    extra_cost: Estimate | None
    cost_ratio: float | None
    break_even: Estimate | None

    @property
    def better(self) -> bool:
        return self.gain.low > 0

    @property
    def worse(self) -> bool:
        return self.gain.high < 0

    @property
    def dearer(self) -> bool:
        return self.extra_cost is not None and self.extra_cost.low > 0

    @property
    def cheaper(self) -> bool:
        return self.extra_cost is not None and self.extra_cost.high < 0


def best_member(standings: Sequence[Standing]) -> Standing | None:
    """The member that ran and was right most often, the cheaper of equals; None where none ran or none is known to be right.

    Of several it is chosen on the rows on which it is judged, which flatters it a little: gains over it are cautious.
    """
    members = [each for each in standings if each.policy.startswith(MEMBER) and each.accuracy]
    return max(members, key=lambda each: (_value(each.accuracy), -_value(each.cost_usd_per_1000)), default=None)


def _value(estimate: Estimate | None) -> float:
    return estimate.value if estimate else 0.0


def worths(run: RunRecord, standings: Sequence[Standing]) -> list[Worth]:
    """Of each policy that is no member, in their order; empty without labels or members."""
    best = best_member(standings)
    if best is None:
        return []
    others = [each for each in standings if not each.policy.startswith(MEMBER) and each.accuracy]
    found = [_worth(run, each, best) for each in others]
    return [each for each in found if each]


def _worth(run: RunRecord, mine: Standing, best: Standing) -> Worth | None:
    gain, p, differing = paired(run, run.arm(mine.policy), run.arm(best.policy))
    if gain is None:
        return None
    here, there = mine.cost_usd_per_1000, best.cost_usd_per_1000
    extra = difference(there, here) if here and there else None
    found = Worth(
        policy=mine.policy,
        against=best.policy,
        gain=gain,
        p=p,
        detectable=detectable_gain(differing, gain.n),
        rows_needed=rows_needed(differing, abs(gain.value)) if gain.value else None,
        extra_cost=extra,
        cost_ratio=here.value / there.value if here and there and there.value else None,
        break_even=None,
    )
    one_sided = (found.dearer and found.better) or (found.cheaper and found.worse)
    if not (extra and one_sided):
        return found
    thousand = Estimate(1000 * gain.value, 1000 * gain.low, 1000 * gain.high, gain.n)
    return replace(found, break_even=quotient(extra, thousand))


def paired(run: RunRecord, mine: ArmRecord, other: ArmRecord) -> tuple[Estimate | None, float | None, float]:
    """How much more often the one is right than the other on the rows that both answered, McNemar's p, and how often they differ.

    Where the answers to one row differed in the run (members missing under load), a row counts with its share of right answers, and
    Student's interval stands for the exact one.
    """
    here, there = mine.answers.shares_right(run.truth), other.answers.shares_right(run.truth)
    rows = sorted(here.keys() & there.keys())
    if not rows:
        return None, None, 0.0
    a, b = np.array([here[row] for row in rows]), np.array([there[row] for row in rows])
    differing = float(np.mean(np.square(a - b)))
    if np.isin([a, b], [0.0, 1.0]).all():
        return paired_gain(a == 1, b == 1), mcnemar(a == 1, b == 1), differing
    return mean(a - b), None, differing
