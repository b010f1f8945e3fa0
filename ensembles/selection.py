"""Which members of a pool to let vote, how often each: greedy selection with replacement. Pure.

Caruana, Niculescu-Mizil, Crew & Ksikes, "Ensemble selection from libraries of models", ICML 2004: begin with the best, then add, again
and again, whoever helps the vote most; a member may be added more than once. How often it was added is the weight of its vote.
Rows that choose flatter what they chose: judge the vote on others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import LEAST_PROBABILITY, Floats, Ints

INITIAL = 5
ROUNDS = 50

Value = tuple[int, float]
"""Of a vote: how many rows it has right, and the log likelihood (nats), which decides between equals."""


@dataclass(frozen=True, slots=True)
class Bagging:
    """Select `bags` times, each time from another `share` of the pool, and add up the weights: less luck in the choice."""

    bags: int
    share: float = 0.5
    seed: int = 0


def select(
    scores: NDArray[np.floating], y: Ints, rounds: int = ROUNDS, initial: int = INITIAL, bagging: Bagging | None = None
) -> Ints:
    """The weight of each member's vote, the smallest whole numbers, [pool] int64; 0 for those that are not chosen.

    `scores` [n, pool, K]: probabilities on rows labelled `y` [n]. The vote is the weighted mean of probabilities; a tie is the
    first class's. It begins with the best members, as many up to `initial` as are right most often together, then adds one at a
    time until no addition makes more rows right, or `rounds` were added. Among equals the likelier vote is preferred, then the
    member that comes first. Raises ValueError for no rows, an empty pool, or shapes that do not go together.
    """
    _check(scores, y, rounds, initial)
    counts = np.zeros(scores.shape[1], np.int64)
    for members in _bags(scores.shape[1], bagging):
        counts[members] += _greedy(scores, y, members, rounds, initial)
    smallest: Ints = counts // np.gcd.reduce(counts)
    return smallest


def _bags(pool: int, bagging: Bagging | None) -> list[Ints]:
    if bagging is None:
        return [np.arange(pool)]
    rng = np.random.default_rng(bagging.seed)
    size = max(1, round(bagging.share * pool))
    return [np.sort(rng.choice(pool, size, replace=False)) for _ in range(bagging.bags)]


def _greedy(scores: NDArray[np.floating], y: Ints, members: Ints, rounds: int, initial: int) -> Ints:
    """How often each of `members` was added."""
    nothing = np.zeros((len(y), scores.shape[2]))
    alone = [_value(_with(nothing, scores, member), y) for member in members]
    ranked = sorted(range(len(members)), key=lambda place: alone[place], reverse=True)
    added = _best_prefix(scores[:, members[ranked[:initial]]], y)
    counts = np.bincount(ranked[:added], minlength=len(members))
    total = scores[:, members[ranked[:added]]].sum(axis=1, dtype=np.float64)
    reached, _ = _value(total, y)
    for _ in range(rounds):
        values = [_value(_with(total, scores, member), y) for member in members]
        best = max(range(len(members)), key=lambda place: values[place])
        if values[best][0] <= reached:
            break
        reached, _ = values[best]
        counts[best] += 1
        total = _with(total, scores, members[best])
    return counts


def _best_prefix(scores: NDArray[np.floating], y: Ints) -> int:
    """How many of the first members are right most often together; the fewest of equals."""
    totals = np.cumsum(scores, axis=1, dtype=np.float64)
    right = [_value(totals[:, place], y)[0] for place in range(scores.shape[1])]
    return 1 + int(np.argmax(right))


def _with(total: Floats, scores: NDArray[np.floating], member: int) -> Floats:
    return total + scores[:, member]


def _value(total: Floats, y: Ints) -> Value:
    """Of the vote whose summed probabilities are `total` [n, K]."""
    given = total[np.arange(len(y)), y] / total.sum(axis=1)
    return int((total.argmax(axis=1) == y).sum()), float(np.log(np.maximum(given, LEAST_PROBABILITY)).sum())


def _check(scores: NDArray[np.floating], y: Ints, rounds: int, initial: int) -> None:
    if scores.ndim != 3 or y.shape != scores.shape[:1] or 0 in scores.shape:
        raise ValueError(f"found scores {list(scores.shape)} and y {list(y.shape)}, expected [n, pool, K] and [n]")
    if rounds < 0 or initial < 1:
        raise ValueError(f"found {rounds} rounds and {initial} to begin with, expected at least 0 and 1")
