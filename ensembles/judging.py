"""What a policy would have answered on recorded votes, and what that took: on rows that did not choose it. Pure.

It is the way of a request without its server: the same votes, the same exits, one stage after the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ensembles.front import DECIDED, Candidate, Stages
from ensembles.stopping import Score, certified_threshold, decided, leaving
from ensembles.votes import Ballot, Floats, Ints, Mask, Result, Rule, part, vote

CHUNK_VALUES = 1 << 20
"""Numbers of the table of votes that are in memory at a time."""

Scores = Sequence[NDArray[np.float32]]
"""Probabilities [n, K] of each member; they may be mapped from files."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """At this confidence, at most `disagreement` of rows leave early with another label than all of the members would give.

    From `n` rows that chose nothing.
    """

    disagreement: float
    confidence: float
    n: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """Rows leave where the score reaches the value."""

    score: Score
    value: float
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Policy:
    """Stages of members, by their indices, and when a row leaves between them. `exit`: None if never."""

    rule: Rule
    stages: Stages
    exit: Threshold | str | None

    @property
    def members(self) -> Ints:
        return np.array(sorted(member for stage in self.stages for member in stage))

    def ballot(self, ballot: Ballot) -> Ballot:
        """How the votes of its members alone are counted, from the ballot of all members."""
        return part(replace(ballot, rule=self.rule), self.members)


@dataclass(frozen=True, slots=True)
class Replay:
    """`label_index` [n], -1 for an abstention; `runs` [n]: how many members ran; `seconds` [n]: what they took."""

    label_index: Ints
    runs: Ints
    seconds: Floats


def replay(policy: Policy, scores: NDArray[np.floating], ballot: Ballot, seconds: Floats) -> Replay:
    """Answer n rows. `scores` [n, M, K] and `ballot` of all members; `seconds` [M] of a row for each of them."""
    members, counted = policy.members, policy.ballot(ballot)
    columns = scores[:, members]
    done = Replay(np.full(len(scores), -1), np.zeros(len(scores), np.int64), np.zeros(len(scores)))
    voted, here = np.zeros(len(members), np.bool_), np.arange(len(scores))
    for stage in policy.stages:
        voted |= np.isin(members, stage)
        done.runs[here] += len(stage)
        done.seconds[here] += seconds[list(stage)].sum()
        result = vote(columns[here], counted, np.broadcast_to(voted, (len(here), len(voted))))
        leaves = voted.all() | _leaves(policy.exit, columns[here], voted, counted, result)
        done.label_index[here[leaves]] = result.label_index[leaves]
        here = here[~leaves]
    return done


def _leaves(
    exit_: Threshold | str | None, columns: NDArray[np.floating], voted: Mask, ballot: Ballot, result: Result
) -> Mask:
    if isinstance(exit_, Threshold):
        return leaving(result, exit_.score, exit_.value)
    return decided(columns, voted, ballot) if exit_ == DECIDED else np.zeros(len(columns), np.bool_)


def chunks(scores: Scores, rows: Ints) -> Iterator[tuple[Ints, NDArray[np.float32]]]:
    """Rows, and their votes [r, M, K], a bounded number at a time."""
    size = max(64, CHUNK_VALUES // (len(scores) * scores[0].shape[1]))
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        yield some, taken(scores, some)


def taken(scores: Scores, rows: Ints) -> NDArray[np.float32]:
    """The votes on some rows, [r, M, K]."""
    return np.stack([each[rows] for each in scores], axis=1)


def judged(policy: Policy, scores: Scores, rows: Ints, ballot: Ballot, seconds: Floats) -> Replay:
    """The same for some rows of recorded votes, of which not all need fit into memory."""
    parts = [replay(policy, votes, ballot, seconds) for _, votes in chunks(scores, rows)]
    return Replay(
        np.concatenate([each.label_index for each in parts]),
        np.concatenate([each.runs for each in parts]),
        np.concatenate([each.seconds for each in parts]),
    )


def certified(
    candidate: Candidate, scores: Scores, rows: Ints, ballot: Ballot, disagreement: float, confidence: float
) -> Policy | None:
    """The candidate with the threshold that these rows certify; None where they certify none.

    The rows must have chosen nothing. A candidate without a certified exit needs no threshold, and is a policy as it is.
    """
    if not isinstance(candidate.exit, Score):
        return Policy(candidate.rule, candidate.stages, candidate.exit)
    score, differs = _first_stage(candidate, scores, rows, ballot)
    threshold = certified_threshold(score, differs, disagreement, confidence)
    if threshold is None:
        return None
    certificate = Certificate(disagreement, confidence, len(rows))
    return Policy(candidate.rule, candidate.stages, Threshold(candidate.exit, threshold, certificate))


def _first_stage(candidate: Candidate, scores: Scores, rows: Ints, ballot: Ballot) -> tuple[NDArray[np.float32], Mask]:
    """The score of each row after the first of two stages, and whether the second would change the label."""
    policy = Policy(candidate.rule, candidate.stages, None)
    counted, early = policy.ballot(ballot), np.isin(policy.members, candidate.stages[0])
    score, differs = [], []
    for some, votes in chunks(scores, rows):
        columns = votes[:, policy.members]
        first = vote(columns, counted, np.broadcast_to(early, (len(some), len(early))))
        score.append(getattr(first, str(candidate.exit)))
        differs.append(first.label_index != vote(columns, counted).label_index)
    return np.concatenate(score), np.concatenate(differs)
