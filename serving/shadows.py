"""Would this member be worth its place? It runs on a share of the rows in the background, and its vote is counted in a copy.

A shadow never votes in an answer, and nobody waits for it: it is loaded once the ensemble is served, and one that cannot be
loaded, whose samples are not what it promises, or that fails again and again is left out with a warning.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from ensembles.members import Member, Rows, Scores
from ensembles.repository import Repository, RepositoryError
from ensembles.spec import EnsembleSpec
from ensembles.trials import ShadowSpec
from ensembles.votes import Ballot, Mask, vote
from serving.batcher import Batcher
from serving.records import Counted
from serving.rotation import FAULTS
from serving.sanity import SanityError, replay_shadow
from serving.spare_time import Quota, observed, until_idle
from serving.telemetry import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answered:
    """One row [*shape], the votes that it got, and what they made of it."""

    row: Rows
    policy: str
    label: int
    scores: NDArray[np.float32]  # [M, K]
    present: Mask  # [M]


class Shadow:
    """One of an ensemble's. `load`: raises RepositoryError or SanityError. `random`: draws the share of the rows."""

    def __init__(
        self,
        repository: Repository,
        shadow: ShadowSpec,
        load: Callable[[], Member],
        telemetry: Telemetry,
        random: Random | None = None,
    ) -> None:
        self._repository = repository
        self._spec = repository.spec
        self._shadow = shadow
        self._name = f"{self._spec.name}.{shadow.name}"
        self._load = load
        self._telemetry = telemetry
        self._ballots = _ballots(self._spec, shadow)
        self._quota: Quota[_Answered] = Quota(shadow.share, shadow.budget, self._spec.input.row_bytes, random)
        self._member: Member | None = None
        self._faults = 0
        self._left_out = False

    def watch(self, rows: Rows, counted: Counted) -> None:
        if self._member is None:
            return
        self._quota.earn(counted)
        for row in self._quota.draw(counted.rows):
            answered = _Answered(
                rows[row].copy(),
                counted.policy,
                int(counted.result.label_index[row]),
                counted.scores[row].copy(),
                counted.present[row].copy(),
            )
            if not self._quota.keep(answered):
                self._drop("no_room", 1)

    @property
    def due(self) -> bool:
        return not self._left_out and (self._member is None or self._quota.due)

    async def step(self, batcher: Batcher) -> None:
        if self._member is None:
            await self._begin(batcher)
        else:
            await self._vote(batcher, self._member)

    async def _begin(self, batcher: Batcher) -> None:
        """Load it and prove it on the samples."""
        try:
            member = await asyncio.to_thread(self._load)
        except (RepositoryError, SanityError) as fault:
            self._leave_out(str(fault))
            return
        try:
            await replay_shadow(self._repository, self._shadow, lambda rows: self._sample_votes(batcher, member, rows))
        except (RepositoryError, SanityError) as fault:
            member.close()
            self._leave_out(str(fault))
        except BaseException:
            member.close()
            raise
        else:
            self._member = member
            log.info("shadow %s runs on %g%% of the rows", self._name, 100 * self._shadow.share)

    async def _sample_votes(self, batcher: Batcher, member: Member, rows: Rows) -> Scores:
        """What it says of samples, which is no part of its budget. Raises SanityError."""
        await until_idle(batcher)
        _, columns = await observed(batcher, rows, [member], "shadow")
        if columns is None:
            raise SanityError(f"{self._spec.name}: shadow {self._shadow.name}: it failed on its samples")
        return columns[0]

    async def _vote(self, batcher: Batcher, member: Member) -> None:
        answered = self._quota.take()
        rows = np.stack([each.row for each in answered])
        device_seconds, columns = await observed(batcher, rows, [member], "shadow")
        self._quota.spend(device_seconds)
        if columns is None:
            self._failed(len(rows))
            return
        self._faults = 0
        for policy in sorted({each.policy for each in answered}):
            some = [number for number, each in enumerate(answered) if each.policy == policy]
            self._count(self._ballots[policy], [answered[number] for number in some], columns[0][some])

    def _count(self, ballot: Ballot, answered: list[_Answered], scores: Scores) -> None:
        """Count the votes of the answers once more, the shadow's beside them; scores [n, K] are its own."""
        table = np.concatenate([np.stack([each.scores for each in answered]), scores[:, None]], axis=1)
        here = np.ones((len(answered), 1), np.bool_)
        present = np.concatenate([np.stack([each.present for each in answered]), here], axis=1)
        labels = np.array([each.label for each in answered])
        result = vote(table, ballot, present)
        changed = int(np.count_nonzero(result.label_index != labels))
        dissents = int(np.count_nonzero(result.votes[:, -1] != labels))
        self._telemetry.shadowed(self._spec.name, self._shadow.name, len(answered) - changed, changed, dissents)

    def _failed(self, rows: int) -> None:
        self._drop("failed", rows)
        self._faults += 1
        if self._faults == FAULTS:
            self.close()
            self._leave_out(f"it failed {FAULTS} times in a row")

    def _drop(self, reason: str, rows: int) -> None:
        self._telemetry.shadow_dropped(self._spec.name, self._shadow.name, reason, rows)

    def _leave_out(self, why: str) -> None:
        self._left_out = True
        log.warning("shadow %s is left out: %s", self._name, why)

    def close(self) -> None:
        self._left_out = True
        if self._member is not None:
            self._member.close()
            self._member = None


def _ballots(spec: EnsembleSpec, shadow: ShadowSpec) -> dict[str, Ballot]:
    """How the votes of an answer are counted with the shadow's beside them, by policy."""
    ballot = spec.ballot_with(shadow)
    own = {name: policy.rule for name, policy in spec.policies.named.items() if policy.rule}
    return {policy: replace(ballot, rule=own.get(policy, ballot.rule)) for policy in spec.policy_names}
