"""Are cheap answers still those of the full ensemble? A sample of them is given to it afterwards, whatever was answered.

Two questions are asked of each row. Is its label that of the full ensemble? And, where the policy has a certificate: did it
leave early with another label than all of the policy's members give, which is what the certificate limits?
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from ensembles.auditing import RateTest
from ensembles.members import Rows
from ensembles.policies import Certificate
from ensembles.spec import EnsembleSpec
from ensembles.tally import Tally
from ensembles.votes import Ballot, Ints, Result, part, vote
from serving.batcher import Batcher
from serving.records import FAILED, SKIPPED, Counted
from serving.spare_time import Quota, observed
from serving.telemetry import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answered:
    row: Rows
    policy: str
    label: int


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a certificate says: of the policy's `members`, by index, counted by `ballot`."""

    members: Ints
    ballot: Ballot
    certificate: Certificate
    stale: bool
    test: RateTest

    @property
    def standing(self) -> str:
        if self.test.violated:
            return "violated"
        return "stale" if self.stale else "valid"


class Audits:
    """Those of one ensemble. `random`: draws the sample."""

    def __init__(self, spec: EnsembleSpec, telemetry: Telemetry, random: Random | None = None) -> None:
        self._spec = spec
        self._telemetry = telemetry
        self._ballot = spec.ballot
        self._quota: Quota[_Answered] = Quota(spec.audit.share, spec.audit.budget, spec.input.row_bytes, random)
        self._claims = dict(_claims(spec))

    def certificate(self, policy: str) -> str:
        """ "valid", "stale" where it was made for another manifest, "violated" where audits say so; "" where there is none."""
        claim = self._claims.get(policy)
        return claim.standing if claim else ""

    @property
    def certificates(self) -> Iterator[tuple[str, bool, bool]]:
        """Each policy that has one, whether it is stale, and whether it is violated."""
        return ((policy, claim.stale, claim.test.violated) for policy, claim in self._claims.items())

    def watch(self, rows: Rows, counted: Counted) -> None:
        self._quota.earn(counted)
        if counted.policy == "full":
            return
        for row in self._quota.draw(counted.rows):
            self._keep(rows, counted, row)

    def _keep(self, rows: Rows, counted: Counted, row: int) -> None:
        """Let it wait for its audit. Of an answer without all of the votes that it should have had, nothing is claimed.

        Left aside, though, it would leave more weight to the rows that left early and needed no such vote; having come to the
        last stage, it did not leave early.
        """
        outcome = np.array(counted.spent.outcomes(row))
        claim = self._claims.get(counted.policy)
        if not (outcome >= FAILED).any():
            if not self._quota.keep(_Answered(rows[row].copy(), counted.policy, int(counted.result.label_index[row]))):
                self._telemetry.audit_dropped(self._spec.name, "no_room", 1)
        elif claim is not None and not (outcome[claim.members] == SKIPPED).any():
            claim.test.observe(1, 0)

    @property
    def due(self) -> bool:
        return self._quota.due

    async def step(self, batcher: Batcher) -> None:
        answered = self._quota.take()
        rows = np.stack([each.row for each in answered])
        device_seconds, columns = await observed(batcher, rows, batcher.members, "audit")
        self._quota.spend(device_seconds)
        tally = Tally(self._ballot, len(rows), len(self._spec.labels))
        if columns is None or tally.enter_all(dict(enumerate(columns))):
            self._telemetry.audit_dropped(self._spec.name, "failed", len(rows))
            return
        result, _ = tally.answer()
        labels = np.array([each.label for each in answered])
        for policy in sorted({each.policy for each in answered}):
            some = np.flatnonzero([each.policy == policy for each in answered])
            self._compare(policy, labels[some], result, tally, some)

    def _compare(self, policy: str, labels: Ints, full: Result, tally: Tally, some: Ints) -> None:
        differing = int(np.count_nonzero(labels != full.label_index[some]))
        self._telemetry.audited(self._spec.name, policy, len(some) - differing, differing)
        claim = self._claims.get(policy)
        if claim is not None:
            whole = vote(tally.scores[np.ix_(some, claim.members)], claim.ballot)
            self._judge(policy, claim, len(some), int(np.count_nonzero(labels != whole.label_index)))

    def _judge(self, policy: str, claim: _Claim, rows: int, differing: int) -> None:
        test, before = claim.test, claim.test.violated
        test.observe(rows, differing)
        if test.violated and not before:
            log.error(
                "%s: policy %s: certificate violated: %d of %d audited rows (%.2g%%, at least %.2g%% with %g%% confidence) "
                "left early with another label than all of its members give, certified were at most %g%%; run `ensembles plan`",
                self._spec.name,
                policy,
                test.differing,
                test.rows,
                100 * test.rate,
                100 * test.at_least,
                100 * claim.certificate.confidence,
                100 * claim.certificate.disagreement,
            )

    def close(self) -> None:
        """It holds nothing."""


def _claims(spec: EnsembleSpec) -> Iterator[tuple[str, _Claim]]:
    """What is certified, by policy. The chance of a false alarm is what the certificate leaves to chance itself."""
    for name, policy in spec.policies.named.items():
        certificate = policy.certificate
        if certificate is not None:
            members = np.flatnonzero(np.isin([member.name for member in spec.members], policy.members))
            ballot = part(replace(spec.ballot, rule=policy.rule or spec.vote.rule), members)
            test = RateTest(certificate.disagreement, 1.0 - certificate.confidence)
            yield name, _Claim(members, ballot, certificate, spec.stale(policy), test)
