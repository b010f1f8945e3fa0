"""Candidates for a policy, and those among them that no other beats. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensembles.stopping import Score
from ensembles.votes import Floats, Ints, Mask, Rule

Records = NDArray[np.void]

RECORD = np.dtype([("cost", "f8"), ("right", "i8"), ("rule", "i1"), ("members", "i8"), ("first", "i8"), ("exit", "i1")])
"""A candidate among millions. `members` and `first`, those that run first, are sets whose bit j stands for member j."""

Stages = tuple[tuple[int, ...], ...]

DECIDED = "decided"
RULES = tuple(Rule)
EXITS: tuple[Score | str | None, ...] = (None, DECIDED, Score.MARGIN, Score.AGREEMENT)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run some of the members, and how it did on the rows that chose it.

    `stages`: indices of members. `exit`: None (all of them run), "decided", or the score of a certified exit, whose threshold
    other rows must find. `cost` of a row, in the unit of the members' costs. `right`: how many rows it answered rightly.
    """

    rule: Rule
    stages: Stages
    exit: Score | str | None
    cost: float
    right: int

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(sorted(member for stage in self.stages for member in stage))

    @property
    def certified(self) -> bool:
        """Whether its exit needs a certificate."""
        return isinstance(self.exit, Score)


def bigger_model(costs: Sequence[float]) -> int | None:
    """The one bigger model among members with these costs: the dearest, if it costs at least what the two cheapest cost together."""
    ranked = sorted(range(len(costs)), key=lambda member: costs[member])
    return ranked[-1] if len(costs) > 2 and costs[ranked[-1]] >= costs[ranked[0]] + costs[ranked[1]] else None


def records(
    rule: Rule, exit_: Score | str | None, members: Ints, first: Ints | int, cost: Floats, right: Ints
) -> Records:
    """Candidates of one kind, as records."""
    made = np.empty(len(members), RECORD)
    made["rule"], made["exit"] = RULES.index(rule), EXITS.index(exit_)
    made["members"], made["first"], made["cost"], made["right"] = members, first, cost, right
    return made


class Front:
    """Candidates by increasing cost and increasing number of right answers."""

    def __init__(self) -> None:
        self.records: Records = np.empty(0, RECORD)

    def beats(self, cost: Floats, right: Ints) -> Mask:
        """Which candidates of such a cost, or a higher one, and so many right answers, or fewer, are beaten or equalled."""
        dearest = np.searchsorted(self.records["cost"], cost, side="right") - 1
        most = np.append(self.records["right"], -1)[dearest]
        beaten: Mask = most >= right
        return beaten

    def add(self, found: Records) -> None:
        """Of candidates that are equally good the one that came first stays."""
        both = np.concatenate([self.records, found])
        both = both[np.lexsort((-both["right"], both["cost"]))]
        best = np.maximum.accumulate(both["right"])
        better = np.ones(len(both), np.bool_)
        better[1:] = best[1:] > best[:-1]
        self.records = both[better]
