"""A shadow is asked and counted, never votes, and does no harm whatever it does.

The real batcher and scripted members: `a`, `b` and `c` name each row's own class, and so does every answer.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Self

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ensembles.members.scripted import ScriptedMember, Step, always
from ensembles.repository import Repository
from ensembles.spec import from_mapping
from serving.batch import Entry
from serving.batcher import Batcher
from serving.books import Books
from serving.ledger import Ledger
from serving.sanity import SanityError
from serving.shadows import Shadow
from serving.spare_time import KEPT_ROWS, SpareTime
from serving.statistics import Statistics
from serving.telemetry import Telemetry

CLASSES = 10
SHADOW = {
    "name": "s",
    "model": "s/1/model.onnx",
    "sha256": "0" * 64,
    "emits": "probabilities",
    "share": 1.0,
    "budget": 1e6,
}


class Sampled(Repository):
    """A repository whose samples are the ten classes."""

    def samples(self) -> Any:
        classes = np.arange(CLASSES)
        return classes[:, None], classes


def own(rows: Any) -> Any:
    """Nine tenths for each row's own class."""
    return np.where(np.eye(CLASSES, dtype=bool)[rows[:, 0]], 0.91, 0.01).astype(np.float32)


def following(rows: Any) -> Any:
    """The same for the next class."""
    return own((rows + 1) % CLASSES)


class TrialMember(ScriptedMember):
    """Passes the replay of its samples, which takes seven runs, and then follows its steps."""

    def __init__(self, *steps: Step) -> None:
        super().__init__("s", [*[Step(own)] * 7, *steps])
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Scene:
    """A batcher with one shadow beside it."""

    def __init__(self, member: ScriptedMember | Exception, policies: Any = None, **shadow: Any) -> None:
        self.spec = from_mapping(
            {
                "name": "e",
                "labels": [str(label) for label in range(CLASSES)],
                "input": {"name": "x", "datatype": "INT64", "shape": [1]},
                "members": [
                    {"name": name, "model": f"{name}/1/model.onnx", "sha256": "0" * 64, "emits": "probabilities"}
                    for name in "abc"
                ],
                "vote": {"rule": "majority"},
                "policies": policies or {},
                "shadows": [{**SHADOW, **shadow}],
            }
        )
        ledger = Ledger(1.0)
        self.telemetry = Telemetry(ledger)
        self.members = [ScriptedMember(name, [Step(own)]) for name in "abc"]
        repository = Sampled(Path("e"), self.spec, "0" * 64)

        def load() -> ScriptedMember:
            if isinstance(member, Exception):
                raise member
            return member

        self.shadow = Shadow(repository, self.spec.shadows[0], load, self.telemetry, Random(0))
        self.spare_time = SpareTime([self.shadow])
        books = Books(ledger, self.telemetry, Statistics())
        self.batcher = Batcher(self.spec, self.members, books, watchers=[self.spare_time.watch])

    async def __aenter__(self) -> Self:
        self.spare_time.start(self.batcher)
        await self.until(lambda: not self.shadow.due)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.spare_time.stop()

    async def ask(self, values: Sequence[int], policy: str = "full") -> list[int]:
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

    def ran(self, **labels: str) -> float:
        return self.value("ensemble_shadow_rows_total", ensemble="e", member="s", **labels)

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.001)


# -------------------------------------------------------------------------------------------------------------- what it shows


async def test_a_light_vote_that_dissents_changes_nothing() -> None:
    async with Scene(TrialMember(Step(following))) as scene:
        assert await scene.ask([1, 2, 3]) == [1, 2, 3]
        await scene.until(lambda: scene.ran() == 3)

        assert scene.ran(changed="true") == 0
        assert scene.value("ensemble_shadow_dissents_total", ensemble="e", member="s") == 3


async def test_a_heavy_one_would_have_changed_the_answer_and_has_not() -> None:
    async with Scene(TrialMember(Step(following)), weight=4) as scene:
        assert await scene.ask([1, 2, 3]) == [1, 2, 3]
        await scene.until(lambda: scene.ran() == 3)

        assert scene.ran(changed="true") == 3


async def test_one_that_agrees_dissents_and_changes_nothing() -> None:
    async with Scene(TrialMember(Step(own)), weight=4) as scene:
        await scene.ask([1, 2, 3])
        await scene.until(lambda: scene.ran(changed="false") == 3)

        assert scene.value("ensemble_shadow_dissents_total") == 0


async def test_it_is_counted_beside_the_votes_that_the_answer_had() -> None:
    """Of `a` alone, a weight of 1.5 is more than that of the others; of all three, it is not."""
    async with Scene(TrialMember(Step(following)), weight=1.5) as scene:
        await scene.ask([1], "member:a")
        await scene.ask([1], "full")
        await scene.until(lambda: scene.ran() == 2)

        assert (scene.ran(changed="true"), scene.ran(changed="false")) == (1, 1)


async def test_it_is_counted_by_the_rule_of_the_policy() -> None:
    """Nearly sure, it outweighs two that are not by their average, and is outvoted by majority."""
    policies = {"pair": {"stages": [["a", "b"]], "rule": "probability_average"}}

    def sure(rows: Any) -> Any:
        return np.eye(CLASSES, dtype=np.float32)[(rows[:, 0] + 1) % CLASSES]

    async with Scene(TrialMember(Step(sure)), policies, weight=1.9) as scene:
        await scene.ask([1], "pair")
        await scene.ask([1], "full")
        await scene.until(lambda: scene.ran() == 2)

        assert (scene.ran(changed="true"), scene.ran(changed="false")) == (1, 1)


async def test_it_runs_on_its_share_of_the_rows() -> None:
    async with Scene(TrialMember(Step(own)), share=0.25) as scene:
        for _ in range(10):
            await scene.ask([1] * 64)
        await scene.until(lambda: scene.ran() >= 120)
        await asyncio.sleep(0.05)

        assert scene.ran() <= 200, "160 are expected, with a standard deviation of 11"


async def test_its_device_time_has_an_account_of_its_own() -> None:
    async with Scene(TrialMember(Step(own))) as scene:
        await scene.ask([1])
        await scene.until(lambda: scene.ran() == 1)

        assert scene.value("ensemble_device_seconds_total", policy="shadow", member="s") > 0
        assert scene.value("ensemble_device_seconds_total", policy="full", member="s") == 0


# ------------------------------------------------------------------------------------------------------------------ no harm


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (SanityError("e: shadow s: no model"), "e: shadow s: no model"),
        (
            ScriptedMember("s", [Step(always(0, CLASSES))]),
            "e: shadow s: wrong labels: right on 10.0% of 10 samples, expected about its calibration's 99.0% of 1000",
        ),
        (ScriptedMember("s", [Step(own, fault="broken")]), "e: shadow s: it failed on its samples"),
        (ScriptedMember("s", [Step(lambda rows: own(rows) * 2)]), "e: shadow s: it failed on its samples"),
    ],
    ids=["no member", "wrong labels", "fails", "no votes"],
)
async def test_one_that_cannot_serve_is_left_out_with_a_warning(
    member: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Scene(member, calibration={"accuracy": 0.99, "n": 1000}) as scene:
        assert await scene.ask([1, 2]) == [1, 2]
        assert scene.ran() == 0
        assert f"shadow e.s is left out: {why}" in [record.getMessage() for record in caplog.records]


async def test_one_that_fails_again_and_again_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    member = TrialMember(Step(own, fault="broken"))
    async with Scene(member) as scene:

        def dropped() -> float:
            return scene.value("ensemble_shadow_dropped_rows_total", member="s", reason="failed")

        for value in range(5):
            assert await scene.ask([value]) == [value]
            await scene.until(lambda least=min(value + 1, 3): dropped() >= least)
        await asyncio.sleep(0.01)

        assert dropped() == 3
        assert "shadow e.s is left out: it failed 3 times in a row" in caplog.text
        assert member.closed


async def test_one_fault_is_an_accident() -> None:
    async with Scene(TrialMember(Step(own, fault="broken"), Step(own))) as scene:
        await scene.ask([1])
        await scene.until(lambda: scene.value("ensemble_shadow_dropped_rows_total", reason="failed") == 1)
        await scene.ask([2])
        await scene.until(lambda: scene.ran() == 1)


async def test_beyond_what_may_wait_the_newest_rows_are_dropped_and_counted() -> None:
    scene = Scene(TrialMember(Step(own)), budget=1e-9)
    async with scene:
        while not scene.value("ensemble_shadow_dropped_rows_total", reason="no_room"):
            await scene.ask([1] * 64)

        assert scene.ran() + scene.value("ensemble_shadow_dropped_rows_total") >= 64
        assert scene.ran() < KEPT_ROWS


async def test_it_is_freed_with_its_ensemble() -> None:
    member = TrialMember(Step(own))
    async with Scene(member):
        assert not member.closed
    assert member.closed
