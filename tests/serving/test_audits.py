"""Cheap answers are compared with the full ensemble's afterwards, and a certificate that does not hold is found out.

The real batcher and scripted members: `b` and `c` name each row's own class, `a`, which the cheap policies ask first, is wrong on
odd ones. So `full` is always right, and a cheap answer differs from it just where the row is odd.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Self

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ensembles.members.scripted import ScriptedMember, Step
from ensembles.spec import EnsembleSpec, from_mapping
from serving.audits import Audits
from serving.batch import Entry
from serving.batcher import Batcher
from serving.books import Books
from serving.ledger import Ledger
from serving.spare_time import KEPT_ROWS, Quota, SpareTime
from serving.statistics import Statistics
from serving.telemetry import Telemetry

CLASSES = 10
CERTIFICATE = {"disagreement": 0.05, "confidence": 0.95, "n": 90}
POLICIES: dict[str, Any] = {
    "early_exit": {"stages": [["b", "c"], ["a"]], "exit": "decided"},
    "cascade": {"stages": [["a"], ["b", "c"]], "exit": {"agreement": 1.0}, "certificate": CERTIFICATE},
    "strict": {"stages": [["a", "c"], ["b"]], "exit": {"margin": 1.0}, "certificate": CERTIFICATE},
    "alone": {"stages": [["a"]], "exit": "decided", "certificate": CERTIFICATE},
}


def described(policies: dict[str, Any], audit: dict[str, Any]) -> EnsembleSpec:
    return from_mapping(
        {
            "name": "e",
            "labels": [str(label) for label in range(CLASSES)],
            "input": {"name": "x", "datatype": "INT64", "shape": [1]},
            "members": [
                {"name": name, "model": f"{name}/1/model.onnx", "sha256": "0" * 64, "emits": "probabilities"}
                for name in "abc"
            ],
            "vote": {"rule": "majority"},
            "policies": policies,
            "audit": audit,
        }
    )


def certified(audit: dict[str, Any]) -> EnsembleSpec:
    """With the digests that the certificates would have been given."""
    bare = described(POLICIES, audit)
    policies = {
        name: {**policy, "certificate": {**CERTIFICATE, "digest": bare.certified_digest(bare.policies.named[name])}}
        if "certificate" in policy
        else policy
        for name, policy in POLICIES.items()
    }
    return described(policies, audit)


def own(rows: Any) -> Any:
    """Nine tenths for each row's own class."""
    return np.where(np.eye(CLASSES, dtype=bool)[rows[:, 0]], 0.91, 0.01).astype(np.float32)


def even(rows: Any) -> Any:
    """The same, but the next class where the row is odd."""
    return own((rows + rows % 2) % CLASSES)


class Scene:
    """A batcher whose answers are audited, all of them unless told otherwise."""

    def __init__(
        self,
        spec: EnsembleSpec | None = None,
        steps: dict[str, list[Step]] | None = None,
        seed: int = 0,
        **audit: float,
    ) -> None:
        self.spec = spec or certified({"share": 1.0, "budget": 1e6, **audit})
        ledger = Ledger(1.0)
        self.telemetry = Telemetry(ledger)
        usual = {"a": [Step(even)], "b": [Step(own)], "c": [Step(own)]}
        self.members = {name: ScriptedMember(name, {**usual, **(steps or {})}[name]) for name in "abc"}
        self.audits = Audits(self.spec, self.telemetry, Random(seed))
        self.spare_time = SpareTime([self.audits])
        books = Books(ledger, self.telemetry, Statistics())
        members = list(self.members.values())
        self.batcher = Batcher(self.spec, members, books, watchers=[self.spare_time.watch])

    async def __aenter__(self) -> Self:
        self.spare_time.start(self.batcher)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.spare_time.stop()

    async def ask(self, values: Sequence[int], policy: str) -> list[int]:
        now = time.perf_counter()
        entry = Entry(np.array(values, np.int64)[:, None], policy, now, now + 60)
        self.batcher.submit(entry)
        counted, start = await entry.future
        labels: list[int] = counted.result.label_index[start : start + len(values)].tolist()
        return labels

    def value(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.telemetry.exposition().decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def audited(self, **labels: str) -> float:
        return self.value("ensemble_audited_rows_total", **labels)

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.001)


async def test_cheap_answers_are_compared_with_the_full_ensembles() -> None:
    async with Scene() as scene:
        assert await scene.ask([0, 1, 2, 3, 4], "cascade") == [0, 2, 2, 4, 4]
        await scene.until(lambda: scene.audited() == 5)

        assert scene.audited(ensemble="e", policy="cascade", same="true") == 3
        assert scene.audited(ensemble="e", policy="cascade", same="false") == 2


async def test_one_member_alone_is_a_cheap_answer_too() -> None:
    async with Scene() as scene:
        assert await scene.ask([1], "member:a") == [2]
        await scene.until(lambda: scene.audited(policy="member:a", same="false") == 1)


async def test_exact_answers_are_audited_as_well_and_always_the_same() -> None:
    async with Scene() as scene:
        await scene.ask(range(10), "early_exit")
        await scene.until(lambda: scene.audited() == 10)

        assert scene.audited(policy="early_exit", same="false") == 0


async def test_what_the_full_ensemble_answered_is_not_audited() -> None:
    async with Scene() as scene:
        await scene.ask([1, 2], "full")
        await scene.ask([3], "cascade")
        await scene.until(lambda: scene.audited() == 1)

        assert scene.audited(policy="full") == 0
        assert scene.members["b"].ran == [2, 1], "two rows in full, and one audit"


async def test_an_audit_is_charged_to_its_own_account() -> None:
    async with Scene() as scene:
        await scene.ask([1], "member:a")
        await scene.until(lambda: scene.audited() == 1)

        for member in "abc":
            assert scene.value("ensemble_device_seconds_total", policy="audit", member=member) > 0
        assert scene.value("ensemble_device_seconds_total", policy="member:a", member="b") == 0


async def test_the_sample_does_not_depend_on_what_was_answered() -> None:
    """The same rows are drawn whether `a` is wrong on half of them or on none."""
    drawn = Quota[int](0.3, 1.0, 8, Random(11)).draw(60)

    async def audited(a: Step) -> list[Any]:
        seen: list[Any] = []

        def noting(rows: Any) -> Any:
            seen.extend(rows[:, 0].tolist())
            return own(rows)

        async with Scene(share=0.3, seed=11, steps={"a": [a], "c": [Step(noting)]}) as scene:
            for _ in range(3):
                await scene.ask([*range(CLASSES), *range(CLASSES)], "cascade")
            await scene.until(lambda: scene.audited() == len(drawn))
            return seen

    assert await audited(Step(even)) == await audited(Step(own)) == [row % CLASSES for row in drawn]


# ------------------------------------------------------------------------------------------------------------- certificates


async def test_a_certificate_is_valid_until_something_speaks_against_it() -> None:
    async with Scene() as scene:
        assert [scene.audits.certificate(policy) for policy in ("cascade", "early_exit", "full", "member:a")] == [
            "valid",
            "",
            "",
            "",
        ]
        await scene.ask([0, 2, 4, 6, 8] * 8, "cascade")
        await scene.until(lambda: scene.audited() == 40)

        assert scene.audits.certificate("cascade") == "valid"


async def test_a_violated_certificate_is_told_once_with_its_numbers(caplog: pytest.LogCaptureFixture) -> None:
    async with Scene() as scene:
        for _ in range(4):
            await scene.ask([0, 1, 2, 3, 4, 5, 6, 7], "cascade")
        await scene.until(lambda: scene.audited() == 32)

        assert scene.audits.certificate("cascade") == "violated"
        assert ("cascade", False, True) in list(scene.audits.certificates)
        lines = [record for record in caplog.records if record.levelno == logging.ERROR]
        (line,) = [record.getMessage() for record in lines]
        assert line == (
            "e: policy cascade: certificate violated: 4 of 8 audited rows (50%, at least 11% with 95% confidence) left early "
            "with another label than all of its members give, certified were at most 5%; run `ensembles plan`"
        )


async def test_a_violation_of_one_policy_is_none_of_another() -> None:
    async with Scene() as scene:
        await scene.ask([1] * 16, "cascade")
        await scene.until(lambda: scene.audits.certificate("cascade") == "violated")

        assert scene.audits.certificate("strict") == "valid"


async def test_a_policy_is_held_to_what_its_own_members_say() -> None:
    """`a` alone is not what `full` says, which is no business of its certificate: all of its members are asked."""
    async with Scene() as scene:
        await scene.ask([1] * 40, "alone")
        await scene.until(lambda: scene.audited(policy="alone", same="false") == 40)

        assert scene.audits.certificate("alone") == "valid"


async def test_a_policy_with_a_rule_of_its_own_is_held_to_that() -> None:
    """By the average, `a` is outvoted only where `b` and `c` are as sure as it is."""
    sure = {**POLICIES["cascade"], "rule": "probability_average"}
    spec = described({"cascade": sure}, {"share": 1.0, "budget": 1e6})

    def very_sure(rows: Any) -> Any:
        scores = np.full((len(rows), CLASSES), 0.0, np.float32)
        scores[np.arange(len(rows)), (rows[:, 0] + 1) % CLASSES] = 1.0
        return scores

    def unsure(rows: Any) -> Any:
        return np.where(np.eye(CLASSES, dtype=bool)[rows[:, 0]], 0.19, 0.09).astype(np.float32)

    async with Scene(spec, {"a": [Step(very_sure)], "b": [Step(unsure)], "c": [Step(unsure)]}) as scene:
        assert await scene.ask([1] * 40, "cascade") == [2] * 40
        await scene.until(lambda: scene.audited(same="false") == 40)

        assert scene.audits.certificate("cascade") == "stale", "of another manifest, but not violated"


async def test_a_certificate_of_another_manifest_is_stale_and_is_watched_all_the_same() -> None:
    async with Scene(described(POLICIES, {"share": 1.0, "budget": 1e6})) as scene:
        assert scene.audits.certificate("cascade") == "stale"
        assert list(scene.audits.certificates) == [
            ("cascade", True, False),
            ("strict", True, False),
            ("alone", True, False),
        ]
        await scene.ask([1] * 16, "cascade")
        await scene.until(lambda: scene.audits.certificate("cascade") == "violated")


# -------------------------------------------------------------------------------------------------------------- what is left out


async def test_answers_that_lack_votes_are_not_compared_and_count_as_not_having_left_early() -> None:
    """Else a member that fails in the last stage would leave only those rows to the test that never need it."""
    failing = [Step(own, fault="broken")]
    async with Scene(steps={"b": failing}) as scene:
        await scene.ask([1, 3, 5], "strict")
        await asyncio.sleep(0.05)

        assert scene.audited() == 0
        test = scene.audits._claims["strict"].test
        assert (test.rows, test.differing) == (3, 0)


async def test_rows_that_left_early_without_all_votes_say_nothing_of_the_certificate() -> None:
    """`c` alone decided, since `a` had failed: not what was certified."""
    async with Scene(steps={"a": [Step(even, fault="broken"), Step(even)]}) as scene:
        assert await scene.ask([1, 3, 5], "strict") == [1, 3, 5]
        await asyncio.sleep(0.05)

        assert scene.audited() == 0
        assert scene.audits._claims["strict"].test.rows == 0


async def test_rows_whose_audit_fails_are_counted_as_such() -> None:
    async with Scene(steps={"b": [Step(own, fault="broken")]}) as scene:
        await scene.ask([1, 3, 5], "cascade")
        await scene.until(lambda: scene.value("ensemble_audit_dropped_rows_total", reason="failed") == 3)

        assert scene.audited() == 0
        assert scene.audits._claims["cascade"].test.rows == 0


async def test_scores_that_are_no_votes_make_no_audit() -> None:
    async with Scene(steps={"b": [Step(lambda rows: own(rows) * 2)]}) as scene:
        await scene.ask([1], "cascade")
        await scene.until(lambda: scene.value("ensemble_audit_dropped_rows_total", reason="failed") == 1)


async def test_beyond_what_may_wait_the_newest_rows_are_dropped_and_counted() -> None:
    scene = Scene()
    for _ in range(KEPT_ROWS // 64 + 1):
        await scene.ask([1] * 64, "cascade")

    assert scene.value("ensemble_audit_dropped_rows_total", ensemble="e", reason="no_room") == 64


async def test_without_a_share_nothing_is_done() -> None:
    async with Scene(share=0.0) as scene:
        await scene.ask([1] * 64, "cascade")
        await asyncio.sleep(0.02)

        assert (scene.audited(), scene.members["b"].ran) == (0, [])


async def test_what_was_kept_is_a_copy() -> None:
    """A request's rows may be a view on a buffer that is used again."""
    scene = Scene()
    rows = np.array([[1], [2]], np.int64)
    now = time.perf_counter()
    entry = Entry(rows, "cascade", now, now + 60)
    scene.batcher.submit(entry)
    await entry.future
    rows[:] = 9
    async with scene:
        await scene.until(lambda: scene.audited() == 2)
    assert scene.audited(same="true") == 1
