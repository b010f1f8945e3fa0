"""What every subset of the members would answer on the same rows. Pure.

A subset is an integer whose bit j stands for member j. Under an additive rule the standing of a subset is a sum of its members'
points, so that all of them are one product of matrices; only rows in which classes come close to a tie are counted by
`votes.vote` itself. Each other rule is counted subset by subset.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensembles.stopping import ADDITIVE, BLOCK_CELLS, first_two, lead_of, members_of, points
from ensembles.votes import TIE, Ballot, Floats, Ints, Result, part, vote


def sums(values: Floats) -> Floats:
    """The sum of a value of each member over every subset. [M] to [2^M]"""
    total = np.zeros(1)
    for value in values:
        total = np.concatenate([total, total + value])
    return total


def supersets(subset: int, members: int) -> Ints:
    """All subsets of `members` members that hold all of `subset` and more."""
    free = (1 << members) - 1 & ~subset
    rest = np.zeros(1, np.int64)
    for member in members_of(free):
        rest = np.concatenate([rest, rest | 1 << int(member)])
    return subset | rest[1:]


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of consecutive subsets, from `first` on, to the same n rows.

    `labels` [b, n] int16, -1 for an abstention. `margin` [b, n]: as in `votes.Result`.
    `lead` [b, n]: how far the leader is ahead, as a share of the weight of all members, less what makes it safe from ties: the
    label is decided where it exceeds what those outside can add. None under a rule that is not additive.
    """

    first: int
    labels: NDArray[np.int16]
    margin: NDArray[np.float32]
    lead: Floats | None


def answers(scores: NDArray[np.floating], ballot: Ballot) -> Iterator[Answers]:
    """The answers of all subsets but the empty one, in blocks. `scores` [n, M, K]."""
    last = 1 << scores.shape[1]
    if ballot.rule not in ADDITIVE:
        yield from (_one_by_one(scores, ballot, subset) for subset in range(1, last))
        return
    step = max(BLOCK_CELLS // max(len(scores), 1), 1)
    each = np.ascontiguousarray(points(scores, ballot).transpose(1, 2, 0))
    for first in range(1, last, step):
        yield _added(scores, ballot, each, np.arange(first, min(first + step, last)))


def counted(scores: NDArray[np.floating], ballot: Ballot, subset: int) -> Result:
    """The answers of one subset, as `votes.vote` counts its members alone."""
    members = members_of(subset)
    return vote(scores[:, members], part(ballot, members))


def _one_by_one(scores: NDArray[np.floating], ballot: Ballot, subset: int) -> Answers:
    result = counted(scores, ballot, subset)
    return Answers(subset, result.label_index[None].astype(np.int16), result.margin[None], None)


def _added(scores: NDArray[np.floating], ballot: Ballot, each: Floats, subsets: Ints) -> Answers:
    members, classes, n = each.shape
    include = (subsets[:, None] >> np.arange(members) & 1).astype(np.float64)
    share = (include @ (ballot.weights / ballot.weights.sum()))[:, None]
    standing = (include @ each.reshape(members, -1)).reshape(len(subsets), classes, n)
    labels, top, second = first_two(standing)
    close = top - second <= 2 * TIE * share
    for block in np.flatnonzero(close.any(axis=1)):
        labels[block, close[block]] = counted(scores[close[block]], ballot, int(subsets[block])).label_index
    lead = lead_of(standing, ballot.tie_break)
    margin = (
        (top - second) / share if ballot.temperature == 1.0 else _tempered(standing, top, second, ballot.temperature)
    )
    return Answers(int(subsets[0]), labels, margin.astype(np.float32), lead)


def _tempered(standing: Floats, top: Floats, second: Floats, temperature: float) -> Floats:
    """The largest share less the second largest, [b, n], of shares to the power of 1 / temperature that sum to one."""
    total = _powers(standing / top[:, None], temperature).sum(axis=1, dtype=np.float64)
    margin: Floats = (1 - _powers(second / top, temperature)) / total
    return margin


def _powers(shares: Floats, temperature: float) -> NDArray[np.float32]:
    """Shares to the power of 1 / temperature, in the precision of a margin, which takes a quarter of the time."""
    powers = shares.astype(np.float32)
    np.maximum(powers, 0, out=powers)
    with np.errstate(divide="ignore"):  # the logarithm of no share is minus infinity, as it should be
        np.log(powers, out=powers)
    powers /= np.float32(temperature)
    return np.exp(powers, out=powers)


def agreement(choices: Ints, labels: NDArray[np.int16], ballot: Ballot, subset: int) -> NDArray[np.float32]:
    """The share of a subset's weight behind its labels, as in `votes.Result`. `choices` [M, n], `labels` [n]."""
    members = members_of(subset)
    weights = ballot.weights[members]
    behind: Floats = weights @ (choices[members] == labels) / weights.sum()
    return behind.astype(np.float32)
