"""The table of a batch: votes come in, rows leave once they need no more of them, the answer. Pure: it runs no member."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.stopping import Score, decided, leaving
from ensembles.votes import SUM_TOLERANCE, Ballot, Ints, Mask, Result, Rule, part, vote


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
        self._present: Mask | None = None  # [n, M], once rows have left with fewer votes than others
        self._exact = np.zeros(rows, np.bool_)

    @property
    def votes(self) -> int:
        """How many members have voted on the rows that are open."""
        return int(np.count_nonzero(self._voted))

    @property
    def complete(self) -> bool:
        """Whether every member of the ensemble has voted on every row."""
        return self._present is None and bool(self._voted.all())

    @property
    def open_rows(self) -> int:
        """How many rows have not left."""
        return len(self._scores) if self._open is None else len(self._open)

    def enter(self, member: int, scores: NDArray[Any]) -> None:
        """Enter the probabilities [open rows, K] of the member at index `member`. Raises BadVote, and then enters nothing."""
        shape = (self.open_rows, self._scores.shape[2])
        if scores.shape != shape:
            raise BadVote(f"found scores of shape {list(scores.shape)}, expected {list(shape)}")
        with np.errstate(all="ignore"):
            sums = scores.sum(axis=1)
            worst = sums[np.abs(sums - 1).argmax()]
        if not abs(worst - 1) <= SUM_TOLERANCE:  # false for NaN and infinity too
            raise BadVote(
                f"found probabilities that sum to {worst:.4g} at the worst, expected 1 within {SUM_TOLERANCE}"
            )
        if scores.min() < -SUM_TOLERANCE:
            raise BadVote(f"found the probability {scores.min():.3g}, expected none below 0")
        self._put(member, scores)

    def enter_all(self, columns: Mapping[int, NDArray[Any]]) -> dict[int, str]:
        """Enter the columns of several members, checked in one go. Those that are no votes are left out: why, by member."""
        shape = (self.open_rows, self._scores.shape[2])
        if columns and all(scores.shape == shape for scores in columns.values()):
            table = np.array(list(columns.values()))
            if _all_probabilities(table):
                for member, scores in zip(columns, table, strict=True):
                    self._put(member, scores)
                return {}
        return {member: fault for member, scores in columns.items() if (fault := self._refusal(member, scores))}

    def _refusal(self, member: int, scores: NDArray[Any]) -> str:
        try:
            self.enter(member, scores)
        except BadVote as fault:
            return str(fault)
        return ""

    def _put(self, member: int, scores: NDArray[Any]) -> None:
        self._scores[slice(None) if self._open is None else self._open, member] = scores
        self._voted[member] = True

    def leave(self, score: Score | None = None, threshold: float = 0.0) -> Mask:
        """Let open rows go that need no more votes: which of them, [open rows].

        Without a `score`, those whose label no member that may still vote can change; with one, those that reach the threshold.
        """
        if not self._voted.any():
            return np.zeros(self.open_rows, np.bool_)
        scores = self._scores if self._open is None else self._scores[self._open]
        if score is None:
            leaves = self._decided(scores)
        else:
            leaves = leaving(vote(scores, self._ballot, self._everywhere(len(scores))), score, threshold)
        if leaves.any():
            self._close(leaves, self._surely(scores[leaves]))
        return leaves

    def _decided(self, scores: NDArray[np.float32]) -> Mask:
        if self._members is None:
            return decided(scores, self._voted, self._ballot)
        some = np.flatnonzero(self._members)
        return decided(scores[:, some], self._voted[some], part(self._ballot, some))

    def _surely(self, scores: NDArray[np.float32]) -> Mask:
        """Which of these rows have, with the votes so far, the label of the full ensemble, whatever the others would say."""
        if self._ballot is not self._full:
            return np.zeros(len(scores), np.bool_)
        return decided(scores, self._voted, self._full)

    def _close(self, leaves: Mask, exact: Mask) -> None:
        if self._open is None or self._present is None:
            self._open, self._present = np.arange(len(self._scores)), np.zeros(self._scores.shape[:2], np.bool_)
        gone = self._open[leaves]
        self._present[gone] = self._voted
        self._exact[gone] = exact
        self._open = self._open[~leaves]

    def _everywhere(self, rows: int) -> Mask:
        return np.broadcast_to(self._voted, (rows, len(self._voted)))

    def answer(self) -> tuple[Result, Mask]:
        """Count the votes that are there: the result, and which labels are provably the full ensemble's, [n].

        Raises ValueError when a row has no vote.
        """
        if self.complete:
            return vote(self._scores, self._ballot), np.full(len(self._scores), self._ballot is self._full)
        if self._open is None or self._present is None:
            return vote(self._scores, self._ballot, self._everywhere(len(self._scores))), self._surely(self._scores)
        if len(self._open):
            self._present[self._open] = self._voted
            self._exact[self._open] = self._surely(self._scores[self._open])
        return vote(self._scores, self._ballot, self._present), self._exact


def _all_probabilities(table: NDArray[Any]) -> bool:
    """Whether every row [m, n, :] is one of probabilities; false for NaN and infinity too."""
    with np.errstate(all="ignore"):
        sums = np.add.reduce(table, axis=2, dtype=np.float64)
        return bool(
            sums.max() <= 1 + SUM_TOLERANCE and sums.min() >= 1 - SUM_TOLERANCE and table.min() >= -SUM_TOLERANCE
        )
