"""The search among more members than all candidates can be looked at for. Pure.

Under majority all subsets are looked at, a million of them for twenty members. Other rules, orders and exits are searched among
the dozen members whose majority is right most often.
"""

import heapq
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ensembles.candidates import Rows, rounded
from ensembles.front import Candidate, Front, records
from ensembles.majorities import right_by_subset
from ensembles.policy_search import Progress, Search, plain, search
from ensembles.stopping import members_of
from ensembles.subsets import sums
from ensembles.votes import Ballot, Ints, Rule, part

MOST_MEMBERS = 12
"""Of a search through all candidates: half a million divided subsets under each rule."""

MOST_IN_MAJORITIES = 20
"""Of a search through all majorities."""


def find(rows: Rows, ballot: Ballot, rules: Sequence[Rule], allowed: int, progress: Progress) -> Search:
    """As `search.search`, for any number of members."""
    if len(rows.costs) <= MOST_MEMBERS:
        return search(rows, ballot, rules, allowed, progress)
    singles = [plain(rows, ballot, np.array([member])) for member in range(len(rows.costs))]
    best = np.sort(np.argsort([-each.right for each in singles], kind="stable")[:MOST_IN_MAJORITIES])
    majorities, dozen = _majorities(rows, ballot, best)
    inner = search(_of(rows, dozen), part(ballot, dozen), rules, allowed, progress)
    among = [_renamed(each, dozen) for each in inner.front]
    return Search(
        size=(1 << len(best)) - 1 + inner.size,
        front=_joined(among, majorities),
        singles=tuple(singles),
        full=plain(rows, ballot, np.arange(len(rows.costs))),
        early_exit=None,
        cascade=None,
    )


def limits(members: int) -> tuple[str, ...]:
    """What is not looked at among so many members, in a line."""
    if members <= MOST_MEMBERS:
        return ()
    majorities = min(members, MOST_IN_MAJORITIES)
    alone = f" of the {majorities} that are right most often alone" if members > majorities else ""
    line = (
        f"found {members} members: all subsets{alone} under majority; other rules, orders and exits among the "
        f"{MOST_MEMBERS} whose majority is right most often, none for all members together"
    )
    return (line,)


def _of(rows: Rows, members: Ints) -> Rows:
    return Rows(rows.scores[:, members], rows.y, rows.costs[members])


def _majorities(rows: Rows, ballot: Ballot, members: Ints) -> tuple[list[Candidate], Ints]:
    """The front of all majorities of some members, and the dozen of them whose majority is right most often."""
    counted = replace(part(ballot, members), rule=Rule.MAJORITY)
    right = right_by_subset(rows.scores[:, members], rows.y, counted)
    cost = rounded(sums(rows.costs[members]), rows.costs)
    front = Front()
    front.add(records(Rule.MAJORITY, None, np.arange(1, len(right)), 0, cost[1:], right[1:]))
    dozens = np.flatnonzero(np.bitwise_count(np.arange(len(right))) == MOST_MEMBERS)
    found = [
        Candidate(Rule.MAJORITY, (tuple(members[members_of(int(subset))].tolist()),), None, float(cost), int(right))
        for cost, right, _, subset, *_ in front.records.tolist()
    ]
    return found, members[members_of(int(dozens[right[dozens].argmax()]))]


def _renamed(candidate: Candidate, members: Ints) -> Candidate:
    """The same with members called by their place among all."""
    stages = tuple(tuple(members[list(stage)].tolist()) for stage in candidate.stages)
    return replace(candidate, stages=stages)


def _joined(*fronts: Sequence[Candidate]) -> tuple[Candidate, ...]:
    joined: list[Candidate] = []
    for each in heapq.merge(*fronts, key=lambda candidate: (candidate.cost, -candidate.right)):
        if not joined or each.right > joined[-1].right:
            joined.append(each)
    return tuple(joined)
