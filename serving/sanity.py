"""Is the ensemble what its manifest says? Replays `samples.npz` through every member and the vote before any traffic.

A member may be wrong on a row; that is what the others are for. What no honest member does is fall far short of the accuracy
that its calibration found, or of the mean of all members once they vote: that is another class list, another preprocessing,
or another file. Replaying also warms every member up and teaches it its own timing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np

from ensembles.member_spec import MemberSpec
from ensembles.members import Member, MemberError, Rows, Scores
from ensembles.repository import Repository
from ensembles.spec import EnsembleSpec
from ensembles.tally import BadVote, Tally, no_votes
from ensembles.trials import ShadowSpec
from ensembles.votes import Ints

DEVIATIONS = 5.0
"""How many standard errors below what was promised is no accident: one in three million replays by chance."""

ROWS = 4096
"""Rows replayed at the most: enough to see a point of accuracy, and a second of work for small members."""

SHADOW_ROWS = 8
"""Rows of a shadow's run: the traffic that it is loaded beside finds the cores busy for no longer than that takes."""

Progress = Callable[[int], None]


class SanityError(RuntimeError):
    """The ensemble is not fit for traffic. One line: which member, and how."""


async def replay(repository: Repository, members: Sequence[Member], progress: Progress = lambda rows: None) -> None:
    """Raises SanityError at the first fault. `progress` is told the rows of each batch that passed."""
    spec = repository.spec
    x, y = await asyncio.to_thread(_samples, repository)
    right = np.zeros((len(members) + 1, len(y)), np.bool_)
    for start, rows in _batches(x, spec.limits.max_batch_size):
        span = slice(start, start + len(rows))
        right[:, span] = await _right(spec, members, rows, y[span])
        progress(len(rows))
    for member, row in zip(spec.members, right[:-1], strict=True):
        _check_member(spec, member, row)
    _check_vote(spec, right)


async def replay_shadow(repository: Repository, shadow: ShadowSpec, run: Callable[[Rows], Awaitable[Scores]]) -> None:
    """The same for a member that does not vote, a few rows at a time. `run` gives its votes, and may raise SanityError too."""
    spec = repository.spec
    x, y = await asyncio.to_thread(_samples, repository)
    right = np.zeros(len(y), np.bool_)
    for start, rows in _batches(x, SHADOW_ROWS):
        scores = await run(rows)
        fault = no_votes(scores, (len(rows), len(spec.labels)))
        if fault:
            raise SanityError(f"{spec.name}: shadow {shadow.name}: {fault}")
        span = slice(start, start + len(rows))
        right[span] = scores.argmax(axis=1) == y[span]
    _check_member(spec, shadow, right)


def _samples(repository: Repository) -> tuple[Rows, Ints]:
    """Evenly spread over the file, since files are often sorted by class."""
    x, y = repository.samples()
    if len(y) <= ROWS:
        return x, y
    spread = np.linspace(0, len(y) - 1, ROWS).astype(np.int64)
    return x[spread], y[spread]


def _batches(x: Rows, size: int) -> Iterator[tuple[int, Rows]]:
    """All rows in full batches; and first single rows and small batches, since every size has its own timing."""
    for rows in (1, 1, 2, 4, 8):
        yield 0, x[: min(rows, size)]
    for start in range(0, len(x), size):
        yield start, x[start : start + size]


async def _right(spec: EnsembleSpec, members: Sequence[Member], rows: Rows, labels: Rows) -> Rows:
    """Which answers are right, [M + 1, n]; the last row is the vote's."""
    tally = Tally(spec.ballot, len(rows), len(spec.labels))
    for index, member in enumerate(members):
        try:
            tally.enter(index, await member.run(rows, nullcontext()))
        except (MemberError, BadVote) as error:
            raise SanityError(f"{spec.name}: member {member.name}: {error}") from None
        await asyncio.sleep(0)
    result, _ = tally.answer()
    return np.vstack([labels == result.votes.T, result.label_index == labels])


def _check_member(spec: EnsembleSpec, member: MemberSpec, right: Rows) -> None:
    found = float(right.mean())
    promised, n = 1 / len(spec.labels), float("inf")
    basis = f"better than chance, {promised:.1%}"
    if member.calibration:
        promised, n = member.calibration.accuracy, member.calibration.n
        basis = f"about its calibration's {promised:.1%} of {n}"
    spread = _standard_error(promised, 1 / len(right) + 1 / n)
    kind = "shadow" if isinstance(member, ShadowSpec) else "member"
    if found < promised - DEVIATIONS * spread:
        raise SanityError(
            f"{spec.name}: {kind} {member.name}: wrong labels: right on {found:.1%} of {len(right)} samples, expected {basis}"
        )


def _check_vote(spec: EnsembleSpec, right: Rows) -> None:
    found, mean = float(right[-1].mean()), float(right[:-1].mean())
    if found < mean - DEVIATIONS * _standard_error(mean, 1 / right.shape[1]):
        raise SanityError(
            f"{spec.name}: the vote ({spec.vote.rule}): wrong labels: right on {found:.1%} of {right.shape[1]} samples, "
            f"expected no less than the mean of its members, {mean:.1%}"
        )


def _standard_error(accuracy: float, inverse_n: float) -> float:
    """Of a share, or of the difference of two shares; kept off zero, where the normal approximation claims certainty."""
    accuracy = min(max(accuracy, 0.01), 0.99)
    return float(np.sqrt(accuracy * (1 - accuracy) * inverse_n))
