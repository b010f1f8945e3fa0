"""What a policy means for the batches that run under it: which members in which order, when rows leave, and the quorum. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ensembles.policies import Exit, PolicySpec
from ensembles.spec import EnsembleSpec
from ensembles.stopping import Score
from ensembles.votes import Mask, Rule


@dataclass(frozen=True, slots=True)
class Course:
    """`stages`: members by index. `size`: how many they are. `members` [M]: which, None for all of the ensemble.

    Between stages, rows leave whose `score` reaches the threshold; without a score, those that are decided.
    `quorum`: the fewest members that must not have failed. `rule`: another voting rule than the ensemble's.
    """

    policy: str
    stages: tuple[tuple[int, ...], ...]
    quorum: int
    members: Mask | None = None
    score: Score | None = None
    threshold: float = 0.0
    rule: Rule | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.stages))

    @property
    def leaves_midway(self) -> bool:
        """Whether a row may leave while members of its stage are still at work: once it is decided, nothing depends on them."""
        return self.score is None and self.size > 1 and self.policy != "full"


def courses(spec: EnsembleSpec) -> dict[str, Course]:
    """The course of every policy, by its name."""
    return {course.policy: course for course in _all(spec)}


def _all(spec: EnsembleSpec) -> Iterator[Course]:
    count = len(spec.members)
    yield Course("full", (tuple(range(count)),), spec.vote.quorum)
    for name, policy in spec.policies.named.items():
        yield _named(spec, name, policy)
    for index, member in enumerate(spec.members):
        yield Course(spec.MEMBER_PREFIX + member.name, ((index,),), 1, _among([index], count))


def _named(spec: EnsembleSpec, name: str, policy: PolicySpec) -> Course:
    """A policy with fewer members than the quorum needs all of them."""
    index = {member.name: number for number, member in enumerate(spec.members)}
    stages = tuple(tuple(index[member] for member in stage) for stage in policy.stages)
    some = [number for stage in stages for number in stage]
    threshold = policy.exit if isinstance(policy.exit, Exit) else None
    return Course(
        name,
        stages,
        min(spec.vote.quorum, len(some)),
        None if len(some) == len(index) else _among(some, len(index)),
        Score(threshold.score) if threshold else None,
        threshold.threshold if threshold else 0.0,
        policy.rule,
    )


def _among(some: list[int], count: int) -> Mask:
    """Whether each of `count` members is one of those, [M]."""
    return np.isin(np.arange(count), some)
