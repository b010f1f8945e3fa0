"""How often the majority of every subset of many members is right: a million subsets of twenty members. Pure.

Row by row the true class is set against each rival that got a vote. What a member adds to the difference is known beforehand,
so a subset's difference is a sum, and a sum over twenty members is one entry of a table for the first few plus one of a table
for the others. The tie rule is a second, small amount in the same number.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import TIE, Ballot, Floats, Ints, TieBreak

LOW_MEMBERS = 8
ROWS = 128
"""The table of 2^8 subsets x 128 rows of one rival fits into a core's cache; and 128 fit into the bytes that count rows."""

FINEST = 1e-6
"""Weights that are no whole numbers: votes whose sums are closer than this share of all weight count as tied."""


def right_by_subset(scores: NDArray[np.floating], y: Ints, ballot: Ballot) -> Ints:
    """How many rows the majority of each subset answers rightly, [2^M]; bit j stands for member j, the empty one has none right.

    `scores` [n, M, K], `y` [n]; the ballot's weights and tie rule count, its rule does not.
    """
    n, members, classes = scores.shape
    choices = scores.argmax(axis=2)
    voted = np.zeros((n, classes), np.bool_)
    voted[np.arange(n)[:, None], choices] = True
    contested = voted[np.arange(n), y]
    voted[np.arange(n), y] = False
    rivals = voted.sum(axis=1)
    right = np.full(1 << members, np.count_nonzero(contested & (rivals == 0)))
    for count in np.unique(rivals[contested & (rivals > 0)]):
        rows = np.flatnonzero(contested & (rivals == count))
        against = np.nonzero(voted[rows])[1].reshape(len(rows), count)
        for start in range(0, len(rows), ROWS):
            some = slice(start, start + ROWS)
            _count(right, *_contest(scores[rows[some]], choices[rows[some]], y[rows[some]], against[some], ballot))
    right[0] = 0
    return right


def _contest(
    scores: NDArray[np.floating], choices: Ints, y: Ints, rivals: Ints, ballot: Ballot
) -> tuple[Floats, Floats]:
    """What each member adds to the true class's lead over each rival, [r, n, M], and what the tie rule adds in any case, [r, n]."""
    ahead = (choices == y[:, None])[None] * 1.0 - (choices == rivals.T[:, :, None])
    weights = ballot.weights
    whole = (weights == np.rint(weights)).all()
    small = (1.0 if whole else FINEST * weights.sum()) / 4
    first = np.where(y < rivals.T, 1.0, -1.0)
    likelier = _column(scores, y) - np.stack([_column(scores, rival) for rival in rivals.T])
    trust = np.empty(len(weights))
    trust[ballot.priority] = 0.5 ** np.arange(1, len(weights) + 1)
    by_member: dict[TieBreak, Callable[[], Floats]] = {
        TieBreak.PROBABILITY: lambda: likelier * weights / weights.sum(),
        TieBreak.PRIORITY: lambda: ahead * trust,
    }
    always = {TieBreak.PROBABILITY: first * TIE, TieBreak.FIRST_CLASS: first, TieBreak.ABSTAIN: -np.ones_like(first)}
    added = by_member[ballot.tie_break]() if ballot.tie_break in by_member else 0.0
    return ahead * weights + small * added, small * always.get(ballot.tie_break, np.zeros_like(first))


def _column(scores: NDArray[np.floating], label: Ints) -> Floats:
    """What each member says of one class of each row, [n, M]."""
    return np.take_along_axis(scores, label[:, None, None], axis=2)[:, :, 0].astype(np.float64)


def _count(right: Ints, lead: Floats, always: Floats) -> None:
    """Add the rows in which the true class leads all rivals to the subsets that let it."""
    low = _sums(lead[:, :, :LOW_MEMBERS]) + always[:, :, None]
    high = _sums(lead[:, :, LOW_MEMBERS:])
    worst, one = np.empty(low.shape[1:]), np.empty(low.shape[1:])
    table = right.reshape(high.shape[2], low.shape[2])
    for index in range(high.shape[2]):
        np.add(low[0], high[0, :, index, None], out=worst)
        for rival in range(1, len(low)):
            np.add(low[rival], high[rival, :, index, None], out=one)
            np.minimum(worst, one, out=worst)
        table[index] += np.add.reduce((worst > 0).view(np.uint8), axis=0, dtype=np.uint8)


def _sums(values: Floats) -> Floats:
    """Sums over all subsets of the last axis, [..., m] to [..., 2^m]."""
    total = np.zeros((*values.shape[:-1], 1))
    for member in range(values.shape[-1]):
        total = np.concatenate([total, total + values[..., member, None]], axis=-1)
    return total
