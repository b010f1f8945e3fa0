"""The table of a batch: votes come in, is there a quorum, the answer. Pure: it runs no member and knows no time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import Ballot, Result, vote

SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from summing to one: half-precision members stay within it, logits do not."""


class BadVote(ValueError):
    """A member's scores are no votes. One line: what was found and what was expected."""


class Tally:
    """n rows x M members x K classes, empty at first. A column is entered whole or not at all."""

    def __init__(self, ballot: Ballot, rows: int, classes: int) -> None:
        self._ballot = ballot
        self._scores = np.zeros((rows, len(ballot.weights), classes), np.float32)
        self._voted = np.zeros(len(ballot.weights), np.bool_)

    @property
    def votes(self) -> int:
        """How many members have voted."""
        return int(np.count_nonzero(self._voted))

    @property
    def complete(self) -> bool:
        """Whether every member of the ensemble has voted."""
        return bool(self._voted.all())

    def enter(self, member: int, scores: NDArray[Any]) -> None:
        """Enter the probabilities [n, K] of the member at index `member`. Raises BadVote, and then enters nothing."""
        rows, _, classes = self._scores.shape
        if scores.shape != (rows, classes):
            raise BadVote(f"found scores of shape {list(scores.shape)}, expected {[rows, classes]}")
        with np.errstate(all="ignore"):
            sums = scores.sum(axis=1)
            worst = sums[np.abs(sums - 1).argmax()]
        if not abs(worst - 1) <= SUM_TOLERANCE:  # false for NaN and infinity too
            raise BadVote(
                f"found probabilities that sum to {worst:.4g} at the worst, expected 1 within {SUM_TOLERANCE}"
            )
        if scores.min() < -SUM_TOLERANCE:
            raise BadVote(f"found the probability {scores.min():.3g}, expected none below 0")
        self._scores[:, member] = scores
        self._voted[member] = True

    def answer(self) -> Result:
        """Count the votes that are there. Raises ValueError when there are none."""
        if self.complete:
            return vote(self._scores, self._ballot)
        return vote(self._scores, self._ballot, np.broadcast_to(self._voted, self._scores.shape[:2]))
