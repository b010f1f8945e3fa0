"""Is the ensemble what its manifest says? Real digits in which one thing is wrong never become ready, and the line says which."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from ensembles.member_spec import MemberSpec
from ensembles.members import SHORT_SECONDS, Member, MemberError
from ensembles.members.onnx import OnnxMember
from ensembles.members.scripted import ScriptedMember, Step, always
from ensembles.repository import Repository
from serving import catalog, sanity
from serving.books import Books
from serving.catalog import Live
from serving.ledger import Ledger
from serving.sanity import SanityError
from serving.statistics import Statistics
from serving.telemetry import Telemetry

Answer = Callable[[Any], Any]


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def truth(samples: Any) -> dict[bytes, int]:
    """The label of each sample."""
    return {row.tobytes(): int(label) for row, label in zip(*samples, strict=True)}


def books() -> Books:
    ledger = Ledger(1.0)
    return Books(ledger, Telemetry(ledger), Statistics())


async def load(repository: Repository, executor: Executor, **wrong: Member | MemberError) -> Live:
    """The ensemble as the server would have it, with some of its members exchanged."""

    def load_member(spec: MemberSpec, content: bytes) -> Member:
        given = wrong.get(spec.name)
        if isinstance(given, MemberError):
            raise given
        return given or OnnxMember(spec, content, executor)

    live = Live(repository)
    await catalog.Loader(load_member, books(), cores=1).load_first(live)
    return live


def doing(
    repository: Repository, executor: Executor, name: str, *, given: Answer | None = None, found: Answer | None = None
) -> Member:
    """The real member `name`, with something done to its rows or to its scores."""
    (spec,) = (member for member in repository.spec.members if member.name == name)
    real = OnnxMember(spec, repository.model(spec), executor)

    class Wrong(ScriptedMember):
        async def run(self, rows: Any, occupation: Any, at_most: float = SHORT_SECONDS) -> Any:
            scores = await real.run(given(rows) if given else rows, occupation)
            return found(scores) if found else scores

    return Wrong(name, [Step(always(0, 10))])


def changed(repository: Repository, **members: dict[str, Any]) -> Repository:
    """With other entries for some members in the manifest."""
    entries = [member.model_copy(update=members.get(member.name, {})) for member in repository.spec.members]
    return dataclasses.replace(repository, spec=repository.spec.model_copy(update={"members": tuple(entries)}))


# ------------------------------------------------------------------------------------------------------------ what is ready


async def test_what_ships_becomes_ready(digits: Repository, executor: Executor) -> None:
    live = await load(digits, executor)

    assert live.ready, live.reason
    assert [member.name for member in live.members] == ["mlp", "cnn", "forest", "logistic", "bayes"]
    assert live.serving() is live.batcher


async def test_of_many_samples_those_replayed_are_spread_over_the_file(
    digits: Repository, samples: Any, executor: Executor
) -> None:
    """As where rows are sorted by class, and a member is weak on the first of them: here all that it errs on come first."""
    x, y = samples
    load_member = catalog.onnx_loader(executor)
    mlp = load_member(digits.spec.members[0], digits.model(digits.spec.members[0]))
    right = (await mlp.run(x, nullcontext())).argmax(axis=1) == y
    order = np.argsort(np.tile(right, 16), kind="stable")

    class Sorted(Repository):
        def samples(self) -> Any:
            return np.tile(x, (16, 1, 1))[order], np.tile(y, 16)[order]

    assert len(await catalog.loaded(Sorted(digits.path, digits.spec, digits.digest), load_member)) == 5


async def test_the_replay_tells_its_progress_and_warms_every_member_up(digits: Repository, executor: Executor) -> None:
    members = [OnnxMember(spec, digits.model(spec), executor) for spec in digits.spec.members]
    told: list[int] = []
    await sanity.replay(digits, members, told.append)

    assert told == [1, 1, 2, 4, 8, *[64] * 9, 24]
    assert all(member.timing.predict(rows) for member in members for rows in (1, 2, 4, 8, 64))


async def test_a_member_may_be_wrong_on_rows_that_is_what_the_others_are_for(
    digits: Repository, executor: Executor
) -> None:
    def forget(scores: Any) -> Any:
        """Now and then no idea at all."""
        return np.where(np.arange(len(scores))[:, None] % 20 == 19, np.float32(0.1), scores)

    live = await load(digits, executor, cnn=doing(digits, executor, "cnn", found=forget))
    assert live.ready, live.reason


# ------------------------------------------------------------------------------------------------------- whose labels are wrong


def swapped(scores: Any) -> Any:
    """Threes and eights exchanged, the mistake of another class list."""
    order = np.arange(10)
    order[[3, 8]] = order[[8, 3]]
    return scores[:, order]


WRONG: list[tuple[str, dict[str, Answer]]] = [
    ("another order of classes", {"found": lambda scores: scores[:, ::-1]}),
    ("classes off by one", {"found": lambda scores: np.roll(scores, 1, axis=1)}),
    ("two classes exchanged", {"found": swapped}),
    ("always the same", {"found": lambda scores: always(3, 10)(scores)}),
    ("probabilities upside down", {"found": lambda scores: (1 - scores) / 9}),
    ("pictures inverted", {"given": lambda rows: 16 - rows}),
    ("pictures mirrored", {"given": lambda rows: np.ascontiguousarray(rows[:, :, ::-1])}),
    ("pictures transposed", {"given": lambda rows: np.ascontiguousarray(rows.transpose(0, 2, 1))}),
    ("the batch in reverse", {"found": lambda scores: scores[::-1]}),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
@pytest.mark.parametrize("member", ["mlp", "forest", "bayes"])
async def test_a_member_whose_labels_are_wrong_keeps_the_ensemble_from_becoming_ready(
    digits: Repository,
    executor: Executor,
    name: str,
    wrong: dict[str, Answer],
    member: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = await load(digits, executor, **{member: doing(digits, executor, member, **wrong)})
    (spec,) = (each for each in digits.spec.members if each.name == member)
    assert spec.calibration is not None

    assert not live.ready and live.batcher is None
    assert live.reason.startswith(f"digits: member {member}: wrong labels: right on ")
    assert live.reason.endswith(
        f" of 600 samples, expected about its calibration's {spec.calibration.accuracy:.1%} of {spec.calibration.n}"
    )
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, f"not ready: {live.reason}")
    ]


async def test_a_member_without_calibration_has_to_be_better_than_chance(
    digits: Repository, executor: Executor
) -> None:
    repository = changed(digits, cnn={"calibration": None})
    reversed_classes = doing(digits, executor, "cnn", found=lambda scores: scores[:, ::-1])
    live = await load(repository, executor, cnn=reversed_classes)

    assert live.reason.startswith("digits: member cnn: wrong labels: right on ")
    assert live.reason.endswith(" of 600 samples, expected better than chance, 10.0%")
    assert (await load(repository, executor)).ready


async def test_samples_with_other_labels_are_found_too(digits: Repository, executor: Executor, tmp_path: Path) -> None:
    folder = copytree(digits.path, tmp_path / "digits")
    x, y = digits.samples()
    np.savez(folder / "samples.npz", x=x, y=(y + 1) % 10)
    live = await load(dataclasses.replace(digits, path=folder), executor)

    assert live.reason.startswith("digits: member mlp: wrong labels: right on ")


async def test_a_vote_that_is_worse_than_its_members_is_found(digits: Repository, executor: Executor) -> None:
    """A member that is no better than chance, promised nothing, and outweighs all others."""
    repository = changed(digits, cnn={"calibration": None, "weight": 1e6})
    weak = await load(repository, executor, cnn=ScriptedMember("cnn", [Step(always(3, 10))]))

    assert weak.reason.startswith("digits: the vote (probability_average): wrong labels: right on ")
    assert "of 600 samples, expected no less than the mean of its members, " in weak.reason


@pytest.mark.parametrize(
    ("right", "calibrated", "ready"),
    [
        (600, True, True),
        (552, True, True),
        (510, True, True),  # 85% is within five standard errors of what the calibration promised, 91% and 93%
        (480, True, False),
        (60, True, False),
        (0, True, False),
        (600, False, True),
        (60, False, True),  # no better than chance, but so may chance have it
        (36, False, True),
        (6, False, False),
        (0, False, False),
    ],
)
async def test_how_far_short_of_its_promise_a_member_may_fall(
    digits: Repository, executor: Executor, truth: dict[bytes, int], right: int, calibrated: bool, ready: bool
) -> None:
    """All members say the same: the truth of the first so many samples, and another class for the rest."""
    order = {row: at for at, row in enumerate(truth)}
    assert len(order) == 600

    def know(rows: Any) -> Any:
        labels = [(truth[key] + (order[key] >= right)) % 10 for key in (row.tobytes() for row in rows)]
        return np.eye(10, dtype=np.float32)[labels]

    members = {member.name: ScriptedMember(member.name, [Step(know)]) for member in digits.spec.members}
    repository = digits if calibrated else changed(digits, **{name: {"calibration": None} for name in members})

    assert (await load(repository, executor, **members)).ready is ready


# ---------------------------------------------------------------------------------------------------------- who does not vote


def saying(scores: Any) -> Step:
    return Step(lambda rows: np.tile(np.array(scores, np.float32), (len(rows), 1)))


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (Step(always(0, 10), fault="out of memory"), "out of memory"),
        (saying([np.nan] * 10), "found probabilities that sum to "),
        (saying([3.0, -1.0] + [0.5] * 8), "found probabilities that sum to "),
        (saying([0.01] * 10), "found probabilities that sum to "),
        (saying([2.0, -1.0] + [0.0] * 8), "found the probability -1, expected none below 0"),
        (saying([0.1] * 11), "found scores of shape [1, 11], expected [1, 10]"),
        (saying([0.5] * 2), "found scores of shape [1, 2], expected [1, 10]"),
        (Step(lambda rows: always(0, 10)(rows)[0]), "found scores of shape [10], expected [1, 10]"),
        (Step(lambda rows: always(0, 10)(np.zeros(2))), "found scores of shape [2, 10], expected [1, 10]"),
    ],
)
@pytest.mark.parametrize("member", ["mlp", "bayes"])
async def test_a_member_that_casts_no_vote_keeps_the_ensemble_from_becoming_ready(
    digits: Repository, executor: Executor, step: Step, line: str, member: str
) -> None:
    live = await load(digits, executor, **{member: ScriptedMember(member, [step])})

    assert not live.ready
    assert live.reason.startswith(f"digits: member {member}: {line}")
    assert len(live.reason.splitlines()) == 1


async def test_a_fault_that_shows_only_in_full_batches_is_found(digits: Repository, executor: Executor) -> None:
    def small(scores: Any) -> Any:
        return scores if len(scores) < 64 else scores[:, ::-1]

    live = await load(digits, executor, cnn=doing(digits, executor, "cnn", found=small))
    assert live.reason.startswith("digits: member cnn: wrong labels: ")


async def test_a_member_that_cannot_be_loaded_keeps_the_ensemble_from_becoming_ready(
    digits: Repository, executor: Executor
) -> None:
    live = await load(digits, executor, forest=MemberError("no such device"))

    assert (live.ready, live.reason) == (False, "digits: member forest: no such device")


async def test_a_model_that_has_changed_since_keeps_the_ensemble_from_becoming_ready(
    digits: Repository, executor: Executor, tmp_path: Path
) -> None:
    folder = copytree(digits.path, tmp_path / "digits")
    (folder / "cnn/1/model.onnx").write_bytes(b"something else")
    live = await load(dataclasses.replace(digits, path=folder), executor)

    assert live.reason.startswith(f"{folder}/cnn/1/model.onnx: members.cnn.sha256: found ")


async def test_whatever_was_loaded_is_freed_when_another_member_is_wrong(
    digits: Repository, executor: Executor
) -> None:
    class Counted(OnnxMember):
        open: list[str] = []

        def close(self) -> None:
            self.open.remove(self.name)
            super().close()

    def load_member(spec: MemberSpec, content: bytes) -> Member:
        if spec.name == "bayes":
            return ScriptedMember("bayes", [Step(always(0, 10))])
        Counted.open.append(spec.name)
        return Counted(spec, content, executor)

    with pytest.raises(SanityError, match="^digits: member bayes: wrong labels: "):
        await catalog.loaded(digits, load_member)
    assert Counted.open == []
