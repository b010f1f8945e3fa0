"""The table of a batch: votes come in, rows leave once they need no more of them, the answer. Pure: it runs no member."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.stopping import Score, cast_share, decidable, leads, leaving
from ensembles.votes import SUM_TOLERANCE, Ballot, Ints, Mask, Result, Rule, Standing, standing


class BadVote(ValueError):
    """A member's scores are no votes. One line: what was found and what was expected."""


class Tally:
    """n rows x M members x K classes, empty at first. A member's column is entered for all open rows or not at all."""

    def __init__(
        self, ballot: Ballot, rows: int, classes: int, members: Mask | None = None, rule: Rule | None = None
    ) -> None:
        """`ballot`: of the full ensemble. `members` [M]: those that may vote here, None for all. `rule`: another than its own."""
        self._full = ballot
        self._ballot = ballot if rule in (None, ballot.rule) else replace(ballot, rule=rule)
        self._members = members
        self._scores = np.zeros((rows, len(ballot.weights), classes), np.float32)
        self._voted = np.zeros(len(ballot.weights), np.bool_)
        self._open: Ints | None = None  # rows that have not left; None while none has
        self._result: Result | None = None  # from then on, of which the rows that have left are answers
        self._exact = np.zeros(rows, np.bool_)

    @property
    def votes(self) -> int:
        """How many members have voted on the rows that are open."""
        return int(np.count_nonzero(self._voted))

    @property
    def complete(self) -> bool:
        """Whether every member of the ensemble has voted on every row."""
        return self._open is None and bool(self._voted.all())

    @property
    def rows(self) -> int:
        """How many rows it has, those that have left among them."""
        return len(self._scores)

    @property
    def open_rows(self) -> int:
        """How many rows have not left."""
        return len(self._scores) if self._open is None else len(self._open)

    @property
    def open(self) -> Ints:
        """Which rows have not left, in their order."""
        return np.arange(len(self._scores)) if self._open is None else self._open

    @property
    def voted(self) -> Mask:
        """Which members have voted on the rows that are open, [M]."""
        return self._voted

    @property
    def scores(self) -> NDArray[np.float32]:
        """What the members said, [n, M, K]; zeros where one did not vote."""
        return self._scores

    def take(self, rows: Ints) -> "Tally":
        """A tally of these rows alone, as far as they have come."""
        taken = copy(self)
        taken._scores, taken._exact, taken._voted = self._scores[rows], self._exact[rows], self._voted.copy()
        if self._open is not None and self._result is not None:
            still = np.zeros(len(self._scores), np.bool_)
            still[self._open] = True
            still = still[rows]
            if still.all():
                taken._open = taken._result = None
            else:
                taken._open, taken._result = np.flatnonzero(still), self._result.take(rows)
        return taken

    @staticmethod
    def join(tallies: "Sequence[Tally]") -> "Tally":
        """One tally of all their rows. They must count alike, and the same members must have voted on their open rows."""
        joined = copy(tallies[0])
        joined._scores = np.concatenate([tally._scores for tally in tallies])
        joined._exact = np.concatenate([tally._exact for tally in tallies])
        joined._voted = tallies[0]._voted.copy()
        if any(tally._open is not None for tally in tallies):
            starts = np.cumsum([0, *(tally.rows for tally in tallies)])
            joined._open = np.concatenate([start + tally.open for start, tally in zip(starts, tallies, strict=False)])
            joined._result = Result.join([tally._result or tally._standing().result() for tally in tallies])
        return joined

    def enter(self, member: int, scores: NDArray[Any]) -> None:
        """Enter the probabilities [open rows, K] of the member at index `member`. Raises BadVote, and then enters nothing."""
        fault = no_votes(scores, (self.open_rows, self._scores.shape[2]))
        if fault:
            raise BadVote(fault)
        self._put(member, scores)

    def enter_all(self, columns: Mapping[int, NDArray[Any]]) -> dict[int, str]:
        """Enter the columns of several members, checked in one go. Those that are no votes are left out: why, by member."""
        shape = (self.open_rows, self._scores.shape[2])
        if columns and all(scores.shape == shape for scores in columns.values()):
            table = np.array(list(columns.values()))
            if _all_probabilities(table):
                self._put_all(list(columns), table)
                return {}
        faults = {member: no_votes(scores, shape) for member, scores in columns.items()}
        for member, scores in columns.items():
            if not faults[member]:
                self._put(member, scores)
        return {member: fault for member, fault in faults.items() if fault}

    def _put_all(self, members: list[int], table: NDArray[Any]) -> None:
        if self._open is None and members == list(range(len(self._voted))):
            self._scores[:] = table.swapaxes(0, 1)
            self._voted[:] = True
            return
        for member, scores in zip(members, table, strict=True):
            self._put(member, scores)

    def _put(self, member: int, scores: NDArray[Any]) -> None:
        self._scores[slice(None) if self._open is None else self._open, member] = scores
        self._voted[member] = True

    def leave(self, score: Score | None = None, threshold: float = 0.0) -> Mask:
        """Let open rows go that need no more votes: which of them, [open rows].

        Without a `score`, those whose label no member that may still vote can change; with one, those that reach the threshold.
        Their votes are counted here, once: where the classes stand tells whether a row may leave, and is its answer if it does.
        """
        cast = cast_share(self._ballot, self._voted, self._members)
        if not (cast if score else decidable(self._ballot, cast)):
            return np.zeros(self.open_rows, np.bool_)
        so_far = self._standing()
        result = so_far.result() if score else None
        leaves = leads(so_far, cast) if score is None or result is None else leaving(result, score, threshold)
        if np.count_nonzero(leaves):
            decides_all = score is None and self._members is None and self._ballot is self._full
            self._close(leaves, result or so_far.result(), leaves if decides_all else self._surely(so_far))
        return leaves

    def _standing(self) -> Standing:
        """Where the classes stand on the rows that are open. Raises ValueError when nobody has voted."""
        scores = self._scores if self._open is None else self._scores[self._open]
        return standing(scores, self._ballot, None if self._voted.all() else self._voted[None])

    def _surely(self, so_far: Standing) -> Mask:
        """Which of these rows have, with the votes so far, the label of the full ensemble, whatever the others would say."""
        cast = cast_share(self._full, self._voted)
        if self._ballot is not self._full or not decidable(self._full, cast):
            return np.zeros(len(so_far.margin), np.bool_)
        return leads(so_far, cast)

    def _close(self, leaves: Mask, result: Result, exact: Mask) -> None:
        """Of the open rows, these leave. `result`, `exact`: of all that are open."""
        if self._open is None or self._result is None:
            self._open, self._result, self._exact = (~leaves).nonzero()[0], result, exact
            return
        gone = self._open[leaves]
        self._result.put(gone, result.take(leaves.nonzero()[0]))
        self._exact[gone] = exact[leaves]
        self._open = self._open[~leaves]

    def answer(self) -> tuple[Result, Mask]:
        """Count the votes that are there: the result, and which labels are provably the full ensemble's, [n].

        Raises ValueError when a row has no vote.
        """
        if self._open is None or self._result is None:
            so_far = self._standing()
            return so_far.result(), self._surely(so_far)
        if len(self._open):
            so_far = self._standing()
            self._result.put(self._open, so_far.result())
            self._exact[self._open] = self._surely(so_far)
        return self._result, self._exact


def no_votes(scores: NDArray[Any], shape: tuple[int, int]) -> str:
    """Why `scores` are no probabilities [rows, classes] of this shape: what was found and what was expected; "" if they are."""
    if scores.shape != shape:
        return f"found scores of shape {list(scores.shape)}, expected {list(shape)}"
    with np.errstate(all="ignore"):
        sums = scores.sum(axis=1)
        worst = sums[np.abs(sums - 1).argmax()]
    if not abs(worst - 1) <= SUM_TOLERANCE:  # false for NaN and infinity too
        return f"found probabilities that sum to {worst:.4g} at the worst, expected 1 within {SUM_TOLERANCE}"
    if scores.min() < -SUM_TOLERANCE:
        return f"found the probability {scores.min():.3g}, expected none below 0"
    return ""


def _all_probabilities(table: NDArray[Any]) -> bool:
    """Whether every row [m, n, :] is one of probabilities; false for NaN and infinity too. Why one is not, `no_votes` says."""
    if not np.minimum.reduce(table, None) >= -SUM_TOLERANCE:
        return False
    sums = np.add.reduce(table, 2)
    least, most = np.minimum.reduce(sums, None), np.maximum.reduce(sums, None)
    return bool(least >= 1 - SUM_TOLERANCE and most <= 1 + SUM_TOLERANCE)
