"""The search for what to serve: all subsets, rules, orders and exits, on the rows that choose. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensembles.candidates import Census, Rows, cheapest_divided, count, divided, exact, rounded, tabulate, unstopped
from ensembles.front import DECIDED, EXITS, RULES, Candidate, Front, Records
from ensembles.stopping import (
    ADDITIVE,
    cheapest_exact_order,
    members_of,
    stages_of,
    undecided_by_subset,
)
from ensembles.votes import Ballot, Ints, Rule, part, vote

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Search:
    """What was found.

    `size`: how many candidates there were. `front`: those that none beats, by increasing cost. `singles`: each member alone.
    `full`: all members under the ballot's own rule; `early_exit` and `cascade`: these with the cheapest exact order and with the
    cheapest certified exit, None where there is none.
    """

    size: int
    front: tuple[Candidate, ...]
    singles: tuple[Candidate, ...]
    full: Candidate
    early_exit: Candidate | None
    cascade: Candidate | None


def search(rows: Rows, ballot: Ballot, rules: Sequence[Rule], allowed: int, progress: Progress) -> Search:
    """Look at all candidates: 3^M for each rule, which a dozen members allow.

    `ballot`: of all members, with the ensemble's own rule. `rules`: those to look at, its own among them. `allowed`: how many of
    these rows may leave a certified exit with another label than all would give; -1 for no such exits. `progress` is told how
    many steps are done, and of how many.
    """
    everyone = np.arange(len(rows.costs))
    front = Front()
    censuses: dict[Rule, Census] = {}
    for step, rule in enumerate(rules):
        census, undecided = tabulate(rows, replace(ballot, rule=rule))
        censuses[rule] = census
        front.add(unstopped(census))
        front.add(exact(census, undecided))
        progress(step + 1, 2 * len(rules))
    for step, rule in enumerate(rules if allowed >= 0 else ()):
        divided(censuses[rule], front, allowed)
        progress(len(rules) + step + 1, 2 * len(rules))
    early_exit = exactly(rows, ballot, everyone)
    cascades = cheapest_divided(censuses[ballot.rule], allowed) if allowed >= 0 else front.records[:0]
    return Search(
        size=sum(count(census, allowed) for census in censuses.values()),
        front=tuple(candidate(censuses[RULES[each["rule"]]], each) for each in front.records),
        singles=tuple(plain(rows, ballot, np.array([member])) for member in range(len(rows.costs))),
        full=plain(rows, ballot, everyone),
        early_exit=early_exit if early_exit.exit else None,
        cascade=candidate(censuses[ballot.rule], cascades[0]) if len(cascades) else None,
    )


def plain(rows: Rows, ballot: Ballot, members: Ints) -> Candidate:
    """Some of the members, all of whom run. `ballot`: of all members."""
    label_index = vote(rows.scores[:, members], part(ballot, members)).label_index
    cost = float(rounded(rows.costs[members].sum(), rows.costs))
    return Candidate(ballot.rule, (tuple(members.tolist()),), None, cost, int(np.sum(label_index == rows.y)))


def exactly(rows: Rows, ballot: Ballot, members: Ints) -> Candidate:
    """Some of the members in their cheapest exact order; all of them run where the rule, or a single member, has none."""
    together = plain(rows, ballot, members)
    if ballot.rule not in ADDITIVE or len(members) < 2:
        return together
    undecided = undecided_by_subset(rows.scores[:, members], part(ballot, members))
    order, cost = cheapest_exact_order(undecided, rows.costs[members])
    stages = tuple(tuple(members[list(stage)].tolist()) for stage in stages_of(order, undecided))
    return replace(together, stages=stages, exit=DECIDED, cost=float(rounded(np.float64(cost), rows.costs)))


def candidate(census: Census, record: Records) -> Candidate:
    """The candidate that a record stands for, with its order."""
    members = members_of(int(record["members"]))
    if EXITS[record["exit"]] == DECIDED:
        return exactly(census.rows, census.ballot, members)
    first = members_of(int(record["first"])).tolist()
    rest = [member for member in members.tolist() if member not in first]
    stages = tuple(tuple(stage) for stage in (first, rest) if stage)
    return Candidate(census.rule, stages, EXITS[record["exit"]], float(record["cost"]), int(record["right"]))
