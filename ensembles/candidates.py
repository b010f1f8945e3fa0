"""Every subset under one rule, and the three kinds of candidates that can be made of it. Pure.

All members of the subset run. Or each row stops once it is decided, in the cheapest of all orders. Or some of the members run
first and rows leave where they are sure enough, for every way to divide the subset in two. The third kind is by far the most
frequent; one is counted only if the best that it could be is not beaten already.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ensembles import subsets
from ensembles.front import DECIDED, RECORD, Front, Records, records
from ensembles.stopping import ADDITIVE, Score, cheapest_exact_order, members_of, reach
from ensembles.subsets import agreement, sums, supersets
from ensembles.votes import Ballot, Floats, Ints, Mask, Rule

DIGITS = 12
"""Costs are compared to so many digits of what all members cost together, so that rounding makes no candidate cheaper."""

FEW = 256
"""Divided subsets that are counted at once."""


@dataclass(frozen=True)
class Rows:
    """The rows that choose: `scores` [n, M, K], `y` [n]; and `costs` [M] of a row for each member, none negative."""

    scores: NDArray[np.floating]
    y: Ints
    costs: Floats

    @cached_property
    def choices(self) -> Ints:
        """The class that each member puts first, [M, n]."""
        return np.ascontiguousarray(self.scores.argmax(axis=2).T)


@dataclass(frozen=True, slots=True)
class Census:
    """Every subset under one rule: its labels [2^M, n] and margins, how many are right [2^M] and what it costs [2^M].

    `hits` [2^M, n / 8] uint8: which rows are right, eight to a byte.
    """

    rows: Rows
    ballot: Ballot
    labels: NDArray[np.int16]
    margin: NDArray[np.float32]
    hits: NDArray[np.uint8]
    right: Ints
    cost: Floats

    @property
    def rule(self) -> Rule:
        return self.ballot.rule

    @property
    def members(self) -> int:
        return len(self.rows.costs)

    @property
    def full(self) -> int:
        return (1 << self.members) - 1


def count(census: Census, allowed: int) -> int:
    """How many candidates there are under one rule."""
    whole = census.full
    many = whole - census.members if census.rule in ADDITIVE else 0
    divisions = 3**census.members - 2 * whole - 1
    first_alone = census.members * ((1 << census.members - 1) - 1)
    return whole + many + (2 * divisions - first_alone if allowed >= 0 else 0)


def tabulate(rows: Rows, ballot: Ballot) -> tuple[Census, NDArray[np.int32]]:
    """The table of a rule, and how many rows of subset g are undecided after its subset s, [2^M, 2^M]; [0, 0] if not additive."""
    many = 1 << len(rows.costs)
    labels, margin = np.full((many, len(rows.y)), -1, np.int16), np.zeros((many, len(rows.y)), np.float32)
    undecided = np.zeros((many, many) if ballot.rule in ADDITIVE else (0, 0), np.int32)
    outside = sums(ballot.weights / ballot.weights.sum()) * reach(ballot.rule, rows.scores.shape[2])
    for block in subsets.answers(rows.scores, ballot):
        these = slice(block.first, block.first + len(block.labels))
        labels[these], margin[these] = block.labels, block.margin
        for subset, lead in enumerate(np.sort(block.lead, axis=1) if block.lead is not None else (), block.first):
            larger = supersets(subset, len(rows.costs))
            undecided[larger, subset] = np.searchsorted(lead, outside[larger] - outside[subset], side="right")
    hits = np.packbits(labels == rows.y, axis=1)
    right = np.bitwise_count(hits).sum(axis=1, dtype=np.int64)
    undecided[:, :1] = len(rows.y)
    return Census(rows, ballot, labels, margin, hits, right, rounded(sums(rows.costs), rows.costs)), undecided


def rounded(cost: Floats | np.float64, costs: Floats) -> Floats:
    """Costs without what rounding made of them."""
    unit = costs.sum() or 1.0
    return np.round(cost / unit, DIGITS) * unit


def unstopped(census: Census) -> Records:
    """Each subset, all of whose members run."""
    subset = np.arange(1, census.full + 1)
    return records(census.rule, None, subset, 0, census.cost[1:], census.right[1:])


def exact(census: Census, undecided: NDArray[np.int32]) -> Records:
    """Each subset of two members and more, in its cheapest exact order."""
    if not len(undecided):
        return np.empty(0, RECORD)
    subset = np.flatnonzero(np.bitwise_count(np.arange(census.full + 1)) > 1)
    n = len(census.rows.y)
    cost = np.array([_cheapest(census, each, undecided[each, _within(each)] / n) for each in subset.tolist()])
    return records(census.rule, DECIDED, subset, 0, rounded(cost, census.rows.costs), census.right[subset])


def _cheapest(census: Census, subset: int, undecided: Floats) -> float:
    return cheapest_exact_order(undecided, census.rows.costs[members_of(subset)])[1]


def _within(subset: int) -> Ints:
    """The subsets of a subset, counted through its own members."""
    return sums(np.exp2(members_of(subset))).astype(np.int64)


def divided(census: Census, front: Front, allowed: int) -> None:
    """Add the divided subsets that might not be beaten, those that begin cheaply first."""
    for first in (np.argsort(census.cost[1:], kind="stable") + 1).tolist():
        larger = _promising(census, first, front, allowed)
        if len(larger):
            front.add(_divided(census, first, larger, allowed))


def cheapest_divided(census: Census, allowed: int) -> Records:
    """The cheapest way to divide all members in two, [1], or [0] if there is none."""
    best = np.empty(0, RECORD)
    whole = np.array([census.full])
    bound = np.array([_least(census, first, whole, allowed)[0] for first in range(1, census.full)])
    for first in (np.argsort(bound, kind="stable") + 1).tolist():
        if len(best) and bound[first - 1] >= best["cost"][0]:
            break
        found = np.concatenate([best, _divided(census, first, whole, allowed)])
        best = found[np.lexsort((-found["right"], found["cost"]))[:1]]
    return best


def _promising(census: Census, first: int, front: Front, allowed: int) -> Ints:
    """Of the subsets that begin with `first`, those which at best are not beaten.

    At best the rows allowed to differ are ones that `first` has right and the whole subset has not.
    """
    larger = supersets(first, census.members)
    rescued = np.bitwise_count(census.hits[first] & ~census.hits[larger]).sum(axis=1, dtype=np.int64)
    right = census.right[larger] + np.minimum(rescued, allowed)
    open_ = ~front.beats(np.broadcast_to(census.cost[first], larger.shape), right)
    larger, right = larger[open_], right[open_]
    kept: Ints = larger[~front.beats(_least(census, first, larger, allowed), right)]
    return kept


def _least(census: Census, first: int, larger: Ints, allowed: int) -> Floats:
    """What a divided subset costs at least: all rows leave on which both give the same label, and those allowed to differ."""
    same = np.count_nonzero(census.labels[larger] == census.labels[first], axis=1)
    staying = np.maximum(1 - (same + allowed) / len(census.rows.y), 0)
    rounding = 10.0**-DIGITS * census.cost[-1]
    least: Floats = census.cost[first] + staying * (census.cost[larger] - census.cost[first]) - rounding
    return least


def _divided(census: Census, first: int, larger: Ints, allowed: int) -> Records:
    found = [count_divided(census, first, larger, Score.MARGIN, census.margin[first], allowed)]
    if np.bitwise_count(first) > 1:  # a member alone agrees with itself
        behind = agreement(census.rows.choices, census.labels[first], census.ballot, first)
        found.append(count_divided(census, first, larger, Score.AGREEMENT, behind, allowed))
    return np.concatenate(found)


def count_divided(
    census: Census, first: int, larger: Ints, score: Score, values: NDArray[np.float32], allowed: int
) -> Records:
    """What costs and is right where rows leave `first` by the loosest threshold with which only `allowed` of them differ.

    `values` [n]: the score of each row after the members of `first` have voted.
    """
    order = np.argsort(-values, kind="stable")
    falling = -values[order]
    y, before = census.rows.y[order], census.labels[first, order]
    early = np.append(0, np.cumsum(before == y))
    found = []
    for start in range(0, len(larger), FEW):
        some = larger[start : start + FEW]
        after = census.labels[some[:, None], order]
        leaving = np.searchsorted(falling, _failing(after != before, falling, allowed), side="left")
        late = np.cumsum(np.pad(after == y, ((0, 0), (0, 1)))[:, ::-1], axis=1)[:, ::-1]
        right = early[leaving] + late[np.arange(len(some)), leaving]
        cost = census.cost[first] + (1 - leaving / len(y)) * (census.cost[some] - census.cost[first])
        made = records(census.rule, score, some, first, rounded(cost, census.rows.costs), right)
        found.append(made[leaving > 0])
    return np.concatenate(found)


def _failing(differs: Mask, falling: NDArray[np.float32], allowed: int) -> NDArray[np.float32]:
    """The (negative) score of the first row that differs once too often, [m]; infinity where none does."""
    place = (np.cumsum(differs, axis=1, dtype=np.int32) <= allowed).sum(axis=1)
    failing: NDArray[np.float32] = np.append(falling, np.float32(np.inf))[place]
    return failing
