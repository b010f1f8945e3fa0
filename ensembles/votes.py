"""Voting rules on the table of votes: n rows x M members x K classes. Pure: arrays in, arrays out.

A rule pools the table into one share per class, [n, K], every row of it summing to one; the answer is the class with the
largest share. Shares closer than `TIE` count as equal, so that the order in which floating-point numbers were added never
picks a winner, and equal shares are resolved by the tie rule, which never looks at who answered first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Precision = TypeVar("Precision", bound=np.floating)

TIE = 1e-9
"""Shares this close are tied: far above the rounding of a sum of probabilities, far below a vote that means something."""

SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from summing to one: half-precision members stay within it, logits do not."""

FEW_ROWS = 32
"""For so few rows numpy's dot takes half the time that its matmul does; for many, twice the time."""

MOST_DUELLISTS = 32
"""Of so many classes it is cheaper to compare each with each than to sort them."""

NO_VOTE = "a row without any vote has no answer"

LEAST_PROBABILITY = 1e-12
"""What the logarithm of `log_average` sees instead of zero, so that one member cannot veto a class for all."""


class Rule(StrEnum):
    """How votes become one answer."""

    MAJORITY = "majority"
    PROBABILITY_AVERAGE = "probability_average"
    LOG_AVERAGE = "log_average"
    MEDIAN = "median"
    BORDA = "borda"


class TieBreak(StrEnum):
    """Who wins among classes with equal shares."""

    PROBABILITY = "probability"
    PRIORITY = "priority"
    FIRST_CLASS = "first_class"
    ABSTAIN = "abstain"


@dataclass(frozen=True, slots=True)
class Ballot:
    """How a table is counted.

    `weights` [M] float64, positive: what each member's vote counts.
    `priority` [M] int64: members in the order in which the `priority` tie rule asks them, the most trusted first.
    `temperature`: of the pooled shares; it sharpens or flattens them and never changes the winner.
    `parts` [M] float64: each member's part of the weight of all, which sum to one.
    """

    rule: Rule
    weights: Floats
    priority: Ints
    tie_break: TieBreak = TieBreak.PROBABILITY
    temperature: float = 1.0
    parts: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", self.weights / self.weights.sum())


def part(ballot: Ballot, members: Ints) -> Ballot:
    """The ballot of some of the members, given by their indices, counted as `votes.vote` counts a table of their columns."""
    place = {int(member): index for index, member in enumerate(members)}
    priority = np.array([place[member] for member in ballot.priority.tolist() if member in place], np.int64)
    return replace(ballot, weights=ballot.weights[members], priority=priority)


@dataclass(frozen=True, slots=True)
class Result:
    """The answers for a table of n rows.

    `label_index` [n] int64: the winning class, -1 for an abstention.
    `probabilities` [n, K] float32: the pooled shares.
    `votes` [n, M] int64: the class of each member, -1 where it did not vote.
    `agrees` [n, M] bool: whether the member's vote is the answer.
    `agreement` [n] float32: the share of the weight of those who voted that stands behind the label; 0 for an abstention.
    `margin` [n] float32: the largest share less the second largest.
    """

    label_index: Ints
    probabilities: NDArray[np.float32]
    votes: Ints
    agrees: Mask
    agreement: NDArray[np.float32]
    margin: NDArray[np.float32]

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """All of them, in their order."""
        return self.label_index, self.probabilities, self.votes, self.agrees, self.agreement, self.margin

    def take(self, rows: Ints) -> "Result":
        """The answers for these rows alone."""
        return Result(*[column[rows] for column in self.columns])

    def put(self, rows: Ints, answers: "Result") -> None:
        """Write others in the place of those for these rows."""
        for mine, others in zip(self.columns, answers.columns, strict=True):
            mine[rows] = others

    @staticmethod
    def join(parts: "Sequence[Result]") -> "Result":
        """The answers for all their rows."""
        return Result(*map(np.concatenate, zip(*[part.columns for part in parts], strict=True)))


def vote(scores: NDArray[np.floating], ballot: Ballot, present: Mask | None = None) -> Result:
    """Count a table of votes.

    `scores` [n, M, K]: what each member says of each row, a probability for each class.
    `present` [n, M]: which votes are there; None means all. Whatever `scores` holds elsewhere is ignored; it must be finite where
    `present` is [1, M], the same for all rows. Raises ValueError when a row has no vote at all.
    """
    return standing(scores, ballot, present).result()


def standing(scores: NDArray[np.floating], ballot: Ballot, present: Mask | None = None) -> "Standing":
    """The same, as far as to where the classes stand, which tells whether a row needs more votes."""
    table = _table(scores, ballot.parts, present)
    shares = POOL[ballot.rule](table)
    return Standing(ballot, present, table, shares, _margin(shares))


def weighted(weights: Floats, values: NDArray[Any]) -> Floats:
    """The sum over members, each with its weight: [M] and [n, M, K] to [n, K]."""
    summed: Floats = weights.dot(values) if len(values) <= FEW_ROWS else weights @ values
    return summed


@dataclass(frozen=True, slots=True)
class _Table:
    """`scores` [n, M, K]: zero where a vote is missing. `choices` [n, M]: -1 there.

    `weights`: of those who voted, summing to one; [n, M], zero where a vote is missing, or [1, M] where none is.
    """

    scores: NDArray[np.floating]
    choices: Ints
    weights: Floats

    def mean(self, values: NDArray[np.floating]) -> Floats:
        """The weighted mean [n, K] of what the members [n, M, K] have."""
        if len(self.weights) == 1:
            return weighted(self.weights[0], values)
        mean: Floats = (self.weights[:, None, :] @ values)[:, 0]
        return mean

    def weight_of(self, members: Mask) -> Floats:
        """The summed weight [n] of those members [n, M] who voted."""
        if len(self.weights) == 1:
            alike: Floats = members.dot(self.weights[0])
            return alike
        summed: Floats = (members * self.weights).sum(axis=1)
        return summed

    def rows(self, rows: Ints) -> "_Table":
        weights = self.weights if len(self.weights) == 1 else self.weights[rows]
        return _Table(self.scores[rows], self.choices[rows], weights)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the classes stand with the votes that are there.

    `shares` [n, K] float64: pooled by the rule, not yet at the ballot's temperature. `margin` [n] float64: the largest less the second.
    """

    ballot: Ballot
    present: Mask | None
    table: _Table
    shares: Floats
    margin: Floats

    def result(self) -> Result:
        """The answers, if no more votes come."""
        ballot, table, shares, margin = self.ballot, self.table, self.shares, self.margin
        label_index = _winner(shares, margin, table, ballot)
        if ballot.temperature != 1.0:
            shares = at_temperature(shares, ballot.temperature)
            margin = _margin(shares)
        agrees = table.choices == label_index[:, None]
        if self.present is not None:  # an abstention is nobody's vote, and a missing vote looks like one
            agrees &= self.present
        return Result(
            label_index=label_index,
            probabilities=shares.astype(np.float32),
            votes=table.choices,
            agrees=agrees,
            agreement=table.weight_of(agrees).astype(np.float32),
            margin=margin.astype(np.float32),
        )


def _table(scores: NDArray[np.floating], weights: Floats, present: Mask | None) -> _Table:
    choices = scores.argmax(axis=2)
    if present is None:
        return _Table(scores, choices, weights[None, :])
    if len(present) == 1 < len(scores):
        return _alike(scores, choices, weights, present[0])
    if not present.any(axis=1).all():
        raise ValueError(NO_VOTE)
    cast = np.where(present, weights, 0.0)
    cast /= cast.sum(axis=1, keepdims=True)
    return _Table(np.where(present[:, :, None], scores, 0.0), np.where(present, choices, -1), cast)


def _alike(scores: NDArray[np.floating], choices: Ints, weights: Floats, voted: Mask) -> _Table:
    """Where the same members have voted on all rows, no weight is enough to leave the others out."""
    cast = weights * voted
    total = cast.sum()
    if not total:
        raise ValueError(NO_VOTE)
    cast /= total
    choices[:, ~voted] = -1
    return _Table(scores, choices, cast[None])


def _majority(table: _Table) -> Floats:
    """The share of the voting weight behind each class."""
    n, members, classes = table.scores.shape
    cells = np.maximum(table.choices, 0) + np.arange(n)[:, None] * classes
    weights = np.broadcast_to(table.weights, (n, members))
    counts = np.bincount(cells.ravel(), weights=weights.ravel(), minlength=n * classes)
    return np.asarray(counts, np.float64).reshape(n, classes)


def _probability_average(table: _Table) -> Floats:
    """The linear opinion pool: the weighted mean of the members' probabilities."""
    return table.mean(table.scores)


def _log_average(table: _Table) -> Floats:
    """The logarithmic opinion pool: the normalised weighted geometric mean."""
    logs = np.log(np.maximum(table.scores, LEAST_PROBABILITY, dtype=np.float64))
    mean = table.mean(logs)
    return _normalised(np.exp(mean - mean.max(axis=1, keepdims=True)))


def _median(table: _Table) -> Floats:
    """The weighted median of the members' probabilities, class by class, normalised.

    Half of the weight lies on either side; where it divides exactly, the middle of the two neighbours, so that a weight of 2
    equals the member twice.
    """
    by_class = table.scores.transpose(0, 2, 1)
    if len(table.weights) == 1 and (table.weights == table.weights[0, 0]).all():
        ordered = np.sort(by_class, axis=2)
        members = ordered.shape[2]
        pair = ordered[:, :, (members - 1) // 2].astype(np.float64) + ordered[:, :, members // 2]
        return _normalised(pair)
    weights = np.broadcast_to(table.weights[:, None, :], by_class.shape)
    order = by_class.argsort(axis=2)
    values = _along(by_class, order)
    below = _along(weights, order).cumsum(axis=2)
    lower = (below >= 0.5 - TIE).argmax(axis=2)[:, :, None]
    upper = (below > 0.5 + TIE).argmax(axis=2)[:, :, None]
    middle = _along(values, lower) + _along(values, upper)
    return _normalised(middle[:, :, 0].astype(np.float64))


def _borda(table: _Table) -> Floats:
    """Points 0 to K-1 by rank within each member, equal probabilities sharing the points of their places."""
    points: Floats = table.mean(places(table.scores)) / most_points(table.scores.shape[2])
    return points


def most_points(classes: int) -> float:
    """What a member gives to all classes together."""
    return classes * (classes - 1) / 2


def places(scores: NDArray[np.floating]) -> Floats:
    """The place of each class from below, counted from 0; equal ones share the mean of their places. [n, M, K]"""
    return _places_by_duels(scores) if scores.shape[2] <= MOST_DUELLISTS else _places_by_order(scores)


def _places_by_duels(scores: NDArray[np.floating]) -> Floats:
    """Every class against every other: a place is what it wins, less what it loses, half of it, from the middle."""
    rows, members, classes = scores.shape
    by_class = np.ascontiguousarray(scores.reshape(rows * members, classes).T)
    beats = by_class[:, None] > by_class
    wins, losses = np.add.reduce(beats, axis=1, dtype=np.float64), np.add.reduce(beats, axis=0, dtype=np.float64)
    places: Floats = ((wins - losses + (classes - 1)) / 2).T.reshape(scores.shape)
    return places


def _places_by_order(scores: NDArray[np.floating]) -> Floats:
    order = scores.argsort(axis=2)
    ranked = _along(scores, order)
    rises = ranked[:, :, 1:] != ranked[:, :, :-1]
    place = np.broadcast_to(np.arange(scores.shape[2], dtype=np.float64), scores.shape)
    places = np.empty(scores.shape)
    places.reshape(-1)[_flat(order)] = place if rises.all() else _shared_places(place, rises)
    return places


def _shared_places(place: Floats, rises: Mask) -> Floats:
    """Mean of the first and the last place of each run of equals."""
    edge = np.ones_like(rises[:, :, :1])
    first = np.maximum.accumulate(np.where(np.concatenate([edge, rises], axis=2), place, 0), axis=2)
    last = np.where(np.concatenate([rises, edge], axis=2), place, place.shape[2] - 1)
    return (first + np.minimum.accumulate(last[:, :, ::-1], axis=2)[:, :, ::-1]) / 2


def _along(values: NDArray[np.floating], index: Ints) -> NDArray[np.floating]:
    """`np.take_along_axis` on the last axis, at a third of its overhead."""
    return np.ascontiguousarray(values).reshape(-1)[_flat(index, values.shape[2])]


def _flat(index: Ints, length: int | None = None) -> Ints:
    rows, columns, _ = index.shape
    start: Ints = np.arange(rows * columns).reshape(rows, columns, 1) * (length or index.shape[2])
    return index + start


POOL: dict[Rule, Callable[[_Table], Floats]] = {
    Rule.MAJORITY: _majority,
    Rule.PROBABILITY_AVERAGE: _probability_average,
    Rule.LOG_AVERAGE: _log_average,
    Rule.MEDIAN: _median,
    Rule.BORDA: _borda,
}


def _normalised(shares: NDArray[Precision]) -> NDArray[Precision]:
    """Every row summing to one; a row of zeros (medians can all be zero) becomes even."""
    total = shares.sum(axis=1, keepdims=True)
    normalised: NDArray[Precision] = np.where(
        total > 0, shares / np.where(total > 0, total, 1.0), 1.0 / shares.shape[1]
    )
    return normalised


def at_temperature(shares: NDArray[Precision], temperature: float | NDArray[Precision]) -> NDArray[Precision]:
    """Shares [n, K] raised to 1/temperature and normalised: what a softmax over their logarithms would give.

    `temperature`: one for all rows, or one for each, [n, 1].
    """
    floored = np.maximum(shares, 0.0)  # rounding may have left a share just below
    return _normalised((floored / floored.max(axis=1, keepdims=True)) ** (1.0 / temperature))


def _margin(shares: Floats) -> Floats:
    """The largest share less the second largest, [n]."""
    ordered = shares.copy()
    ordered.partition(shares.shape[1] - 2, axis=1)
    return ordered[:, -1] - ordered[:, -2]


def _winner(shares: Floats, margin: Floats, table: _Table, ballot: Ballot) -> Ints:
    """The class with the largest share, [n]; equal shares go by the tie rule."""
    label_index: Ints = shares.argmax(axis=1)
    if len(margin) and not margin[margin.argmin()] > TIE:  # also where it is NaN
        rows = np.flatnonzero(margin <= TIE)
        tied = shares[rows] >= shares[rows].max(axis=1, keepdims=True) - TIE
        label_index[rows] = TIE_RULES[ballot.tie_break](tied, table.rows(rows), ballot)
    return label_index


def _first_class(tied: Mask, _table: _Table, _ballot: Ballot) -> Ints:
    first: Ints = tied.argmax(axis=1)
    return first


def _abstain(tied: Mask, _table: _Table, _ballot: Ballot) -> Ints:
    return np.full(len(tied), -1)


def _most_probable(tied: Mask, table: _Table, ballot: Ballot) -> Ints:
    """Among the tied, the class with the largest mean probability; still equal, the first."""
    mean = np.where(tied, _probability_average(table), -1.0)
    return _first_class(mean >= mean.max(axis=1, keepdims=True) - TIE, table, ballot)


def _most_trusted(tied: Mask, table: _Table, ballot: Ballot) -> Ints:
    """The vote of the first member, in the order of priority, that voted for one of the tied; nobody did, the first class."""
    choices = table.choices[:, ballot.priority]
    eligible = (choices >= 0) & np.take_along_axis(tied, np.maximum(choices, 0), axis=1)
    chosen = np.take_along_axis(choices, eligible.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(eligible.any(axis=1), chosen, tied.argmax(axis=1))


TIE_RULES: dict[TieBreak, Callable[[Mask, _Table, Ballot], Ints]] = {
    TieBreak.PROBABILITY: _most_probable,
    TieBreak.PRIORITY: _most_trusted,
    TieBreak.FIRST_CLASS: _first_class,
    TieBreak.ABSTAIN: _abstain,
}
