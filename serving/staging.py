"""The cheapest way now: run what remains of a policy stage after stage, or all of it at once? Pure.

One after the other saves the runs of members that a row turns out not to need; at once saves the waiting. Both are put on one
axis, the seconds for which rows wait: those of this batch until they leave, and those in the queue until the cores are free.
Labels do not depend on the choice: rows leave by the votes of the same stages either way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RECENT = 0.1
"""The weight of the newest batch in the share of rows that go on."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """One stage that remains. `seconds`: of each of its members over the rows at hand. `reach`: the share of rows that need it."""

    seconds: Sequence[float]
    reach: float


def makespan(seconds: Sequence[float], cores: int) -> float:
    """How long runs of these lengths take on so many cores, at the least (Graham 1969's lower bound)."""
    return max(*seconds, sum(seconds) / cores)


def at_once(stages: Sequence[Remaining], rows: int, waiting: int, cores: int) -> bool:
    """Whether to run all of `stages` now. `rows`: in this batch; `waiting`: in the queue behind it.

    A run over a share of the rows is taken to cost that share of the time.
    """
    alone, together, begun = 0.0, 0.0, 0.0
    wait_alone = wait_together = 0.0
    for number, stage in enumerate(stages):
        leave = stage.reach - (stages[number + 1].reach if number + 1 < len(stages) else 0.0)
        alone += stage.reach * makespan(stage.seconds, cores)
        begun += sum(stage.seconds)
        longest = max(max(seen.seconds) for seen in stages[: number + 1])
        together = max(longest, begun / cores)
        wait_alone += leave * alone
        wait_together += leave * together
    work_alone = sum(stage.reach * sum(stage.seconds) for stage in stages) / cores
    work_together = begun / cores
    return rows * wait_together + waiting * work_together < rows * wait_alone + waiting * work_alone


class Reach:
    """Which share of rows goes on after each stage of a policy, learned as it runs; at first, all of them."""

    def __init__(self, stages: int) -> None:
        self._goes_on = [1.0] * stages

    def observe(self, stage: int, rows: int, left: int) -> None:
        """`rows` had run the stage, `left` of them needed no more."""
        self._goes_on[stage] += RECENT * (1 - left / rows - self._goes_on[stage])

    def after(self, stage: int) -> list[float]:
        """Of the rows that are at `stage`, the share that will need it (1), the next one, and so on."""
        shares = [1.0]
        for goes_on in self._goes_on[stage:-1]:
            shares.append(shares[-1] * goes_on)
        return shares
