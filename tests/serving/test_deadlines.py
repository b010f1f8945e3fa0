"""Members that are late, stuck or broken: answers come in time from those who voted, and say who did not."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ensembles.members import SHORT_SECONDS
from ensembles.members.scripted import ScriptedMember, Step
from ensembles.spec import EnsembleSpec, from_mapping
from serving.aggregator import Answer
from serving.batch import Entry
from serving.batcher import Batcher
from serving.books import Books
from serving.errors import BelowQuorum, DeadlinePassed
from serving.ledger import Ledger
from serving.records import Outcome
from serving.rotation import FAULTS, FIRST_PAUSE
from serving.statistics import Statistics
from serving.telemetry import Telemetry

CLASSES = 3
NEVER = 60.0


def spec(members: str = "abc", policies: dict[str, Any] | None = None, quorum: int = 2) -> EnsembleSpec:
    return from_mapping(
        {
            "name": "e",
            "labels": [str(label) for label in range(CLASSES)],
            "input": {"name": "x", "datatype": "INT64", "shape": [len(members)]},
            "members": [
                {"name": name, "model": f"{name}/1/model.onnx", "sha256": "0" * 64, "emits": "probabilities"}
                for name in members
            ],
            "vote": {"rule": "majority", "quorum": quorum},
            "policies": policies or {},
        }
    )


def says(index: int, **how: Any) -> Step:
    """A member that says what stands at its place in the row."""
    return Step(lambda rows: np.eye(CLASSES, dtype=np.float32)[rows[:, index]], **how)


class Under:
    """A batcher whose members do what their steps say, and else vote after a millisecond as the rows tell them to."""

    def __init__(self, made: EnsembleSpec | None = None, cores: int | None = None, **steps: list[Step]) -> None:
        made = made or spec()
        ledger = Ledger(3600.0)
        self.books = Books(ledger, Telemetry(ledger), Statistics())
        self.members = [
            ScriptedMember(member.name, steps.get(member.name, [says(index, delay=0.001)]), predicted=0.001)
            for index, member in enumerate(made.members)
        ]
        self.batcher = Batcher(made, self.members, self.books, executors=2, cores=cores)

    async def ask(self, *votes: int, policy: str = "full", seconds: float = 5.0) -> Answer:
        now = time.perf_counter()
        entry = Entry(np.array([votes]), policy, now, now + seconds)
        self.batcher.submit(entry)
        counted, start = await entry.future
        return Answer(None, counted, start, start + 1, 0.0, 0.0)  # type: ignore[arg-type]

    def metric(self, *lines: str) -> float:
        found = [text for text in self.books.telemetry.exposition().decode().splitlines() if text.startswith(lines)]
        return sum(float(text.split()[-1]) for text in found)


def fared(answer: Answer) -> dict[str, str]:
    return {run.member: run.outcome.value for run in answer.members}


# --------------------------------------------------------------------------------------------------------------- deadlines


async def test_at_the_deadline_those_who_voted_answer_and_the_late_one_is_named() -> None:
    under = Under(c=[says(2, delay=NEVER)])
    answer = await under.ask(1, 1, 2, seconds=0.1)

    assert answer.label_index.tolist() == [1]
    assert answer.partial
    assert fared(answer) == {"a": "ok", "b": "ok", "c": "late"}
    assert answer.votes.tolist() == [[1, 1, -1]]
    assert answer.exact.tolist() == [True], "two of three agree, whatever the third would say"


async def test_without_a_quorum_at_the_deadline_it_is_said_who_was_missing() -> None:
    under = Under(b=[says(1, delay=NEVER)], c=[says(2, delay=NEVER)])

    with pytest.raises(
        DeadlinePassed, match=r"^the deadline passed: 1 of 3 members voted, the quorum is 2; late: b, c$"
    ):
        await under.ask(1, 1, 1, seconds=0.1)


async def test_who_failed_and_who_is_late_are_told_apart() -> None:
    under = Under(b=[says(1, delay=0.001, fault="no")], c=[says(2, delay=NEVER)])

    with pytest.raises(DeadlinePassed, match="late: c$") as refused:
        await under.ask(1, 1, 1, seconds=0.1)
    assert "failed: b; " in str(refused.value)


async def test_a_vote_after_the_cutoff_that_makes_the_quorum_still_makes_the_answer() -> None:
    under = Under(b=[says(1, delay=0.19)], c=[says(2, delay=NEVER)])
    now = time.perf_counter()
    entry = Entry(np.array([[1, 1, 1]]), "full", now, now + 0.5)
    entry.cutoff = now + 0.1
    under.batcher.submit(entry)
    counted, _ = await entry.future

    assert counted.present.tolist() == [[True, True, False]]


async def test_each_request_of_a_batch_has_a_deadline_of_its_own() -> None:
    under = Under(c=[says(2, delay=0.3), says(2)])
    first = asyncio.ensure_future(under.ask(0, 0, 0))
    await asyncio.sleep(0)
    hasty, patient = await asyncio.gather(under.ask(1, 2, 2, seconds=0.1), under.ask(2, 1, 1))

    assert (hasty.label_index.tolist(), fared(hasty)["c"]) != (patient.label_index.tolist(), "late") or hasty.partial
    assert fared(patient)["c"] == "ok"
    assert patient.label_index.tolist() == [1]
    await first


async def test_a_stage_waits_for_a_stuck_member_only_as_long_as_the_next_stages_can_still_run() -> None:
    two_stages = {"early_exit": {"stages": [["a", "b"], ["c"]]}}
    under = Under(spec(policies=two_stages), cores=1, a=[says(0)], b=[says(1, delay=NEVER)])
    answer = await under.ask(1, 2, 1, policy="early_exit", seconds=0.3)

    assert fared(answer) == {"a": "ok", "b": "late", "c": "ok"}
    assert (answer.label_index.tolist(), answer.partial) == ([1], True)


async def test_who_has_time_waits_on_for_a_member_that_others_of_its_batch_cannot_wait_for() -> None:
    two_stages = {"early_exit": {"stages": [["a", "b"], ["c"]]}}
    slow = [says(1, delay=0.002), says(1, delay=0.15)]
    under = Under(spec(policies=two_stages), cores=1, a=[says(0, delay=0.002)], b=slow)
    first = asyncio.ensure_future(under.ask(0, 0, 0, policy="early_exit"))
    await asyncio.sleep(0)
    hasty, patient = await asyncio.gather(
        under.ask(1, 2, 1, policy="early_exit", seconds=0.1), under.ask(1, 2, 1, policy="early_exit")
    )
    await first

    assert (fared(hasty)["b"], hasty.partial) == ("late", True)
    assert (fared(patient)["b"], patient.partial) == ("ok", False)


@pytest.mark.parametrize("exits", ["decided", {"margin": 0.9}], ids=["decided", "margin"])
async def test_with_all_stages_at_once_the_votes_of_later_stages_count_for_what_is_late(exits: Any) -> None:
    policies = {"staged": {"stages": [["a", "b"], ["c"]], "exit": exits}}
    under = Under(spec(policies=policies), b=[says(1, delay=NEVER)])
    answer = await under.ask(1, 2, 1, policy="staged", seconds=0.2)

    assert answer.label_index.tolist() == [1]
    assert answer.votes.tolist() == [[1, -1, 1]]
    assert fared(answer)["b"] == ("skipped" if exits == "decided" else "late")


async def test_at_the_deadline_who_is_out_of_rotation_has_failed_though_its_stage_never_began() -> None:
    def at_length(rows: Any) -> Any:
        time.sleep(0.1)  # on the event loop, beyond the deadline
        return np.eye(CLASSES, dtype=np.float32)[rows[:, 1]]

    policies = {"staged": {"stages": [["a"], ["b"], ["c"]], "exit": "decided"}}
    steps = {"a": [says(0)], "b": [Step(at_length)], "c": [says(2, fault="broken")]}
    under = Under(spec(policies=policies, quorum=1), cores=1, **steps)
    for _ in range(FAULTS):
        with pytest.raises(BelowQuorum):
            await under.ask(1, 1, 1, policy="member:c")
    answer = await under.ask(1, 2, 1, policy="staged", seconds=0.1)

    assert fared(answer) == {"a": "ok", "b": "ok", "c": "failed"}
    assert answer.members[2].fault == f"out of rotation after {FAULTS} faults"
    under.batcher.close()


async def test_a_request_that_nobody_waits_for_stops_its_members() -> None:
    under = Under(a=[says(0, delay=NEVER)], b=[says(1, delay=NEVER)], c=[says(2, delay=NEVER)])
    asking = asyncio.ensure_future(under.ask(1, 1, 1, seconds=60))
    while not all(member.ran for member in under.members):
        await asyncio.sleep(0.001)
    asking.cancel()
    await asyncio.sleep(0.01)

    assert under.batcher.idle
    assert under.metric("ensemble_wasted_device_seconds_total{") > 0
    assert len(asyncio.all_tasks()) == 1, "only this one"


# -------------------------------------------------------------------------------------------------------------- early exits


ONE_STAGE = {"early_exit": {"stages": [["a", "b", "c"]]}}


async def test_with_members_side_by_side_an_answer_comes_the_moment_it_is_decided() -> None:
    under = Under(spec(policies=ONE_STAGE), c=[says(2, delay=NEVER)])
    answer = await under.ask(1, 1, 2, policy="early_exit", seconds=60)

    assert answer.label_index.tolist() == [1]
    assert answer.exact.all()
    assert not answer.partial
    assert fared(answer) == {"a": "ok", "b": "ok", "c": "skipped"}
    await asyncio.sleep(0)
    assert under.metric('ensemble_member_rows_total{ensemble="e",member="c",outcome="skipped"}') == 1


async def test_what_others_still_need_is_left_to_them() -> None:
    gate = [says(0, delay=0.02), says(0, delay=0.001)]
    under = Under(spec(policies=ONE_STAGE), a=gate, c=[says(2, delay=0.05)])
    first = asyncio.ensure_future(under.ask(0, 0, 0, policy="early_exit"))
    await asyncio.sleep(0)
    easy = asyncio.ensure_future(under.ask(1, 1, 2, policy="early_exit"))
    hard = asyncio.ensure_future(under.ask(1, 2, 2, policy="early_exit"))
    answers = [await easy, await hard]

    assert [answer.label_index.tolist() for answer in answers] == [[1], [2]]
    assert [fared(answer)["c"] for answer in answers] == ["skipped", "ok"]
    await first


async def test_an_ensemble_that_runs_in_full_waits_for_everybody() -> None:
    under = Under(c=[says(2, delay=0.05)])

    assert fared(await under.ask(1, 1, 1)) == {"a": "ok", "b": "ok", "c": "ok"}


async def test_a_member_that_is_stuck_does_not_keep_others_from_being_answered() -> None:
    under = Under(spec(policies=ONE_STAGE), cores=1, c=[says(2, delay=1.0), says(2, delay=0.001)])
    undecided = asyncio.ensure_future(under.ask(0, 1, 2, policy="early_exit"))
    await asyncio.sleep(0.1)
    answer = await under.ask(1, 1, 2, policy="early_exit")

    assert not undecided.done(), "the stuck run has not ended"
    assert answer.label_index.tolist() == [1]
    assert fared(await undecided)["c"] == "ok"


# ----------------------------------------------------------------------------------------------------------------- rotation


async def test_a_member_leaves_the_rotation_after_repeated_faults_and_costs_nothing_then() -> None:
    under = Under(c=[says(2, fault="broken")])
    for _ in range(FAULTS):
        assert fared(await under.ask(1, 1, 1))["c"] == "failed"
    await asyncio.sleep(0.02)
    answer = await under.ask(1, 1, 1)

    assert fared(answer) == {"a": "ok", "b": "ok", "c": "failed"}
    assert answer.members[2].fault == f"out of rotation after {FAULTS} faults"
    assert len(under.members[2].ran) == FAULTS + 1, "one trial, and no request"
    under.batcher.close()


async def test_rows_that_a_member_cannot_read_do_not_take_it_from_others() -> None:
    def picky(rows: Any) -> Any:
        votes = np.eye(CLASSES, dtype=np.float32)[rows[:, 2]]
        votes[rows[:, 0] == 0] = np.nan
        return votes

    under = Under(c=[Step(picky, 0.001)])
    under.batcher.try_with(np.array([[1, 1, 1]]))
    for _ in range(2 * FAULTS):
        assert fared(await under.ask(0, 1, 1))["c"] == "failed"
        await asyncio.sleep(0.02)
        assert fared(await under.ask(1, 1, 1))["c"] == "ok"
    for _ in range(FAULTS):
        await under.ask(0, 1, 1)
    await asyncio.sleep(0.05)

    assert fared(await under.ask(1, 1, 1))["c"] == "ok"


async def test_a_member_that_votes_again_comes_back_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.rotation.FIRST_PAUSE", 0.01)
    told: list[bool] = []
    under = Under(spec(quorum=3), c=[*[says(2, fault="broken")] * (FAULTS + 1), says(2)])
    under.batcher.on_rotation(lambda: told.append(under.batcher.quorate))
    for seat in under.batcher._stages._seats:
        seat.rotation._pause = 0.01
    for _ in range(FAULTS):
        with pytest.raises(BelowQuorum):
            await under.ask(1, 1, 1)
    assert told == [False]
    while not under.batcher.quorate:
        await asyncio.sleep(0.005)

    assert told == [False, True]
    assert fared(await under.ask(1, 1, 1))["c"] == "ok"
    assert under.metric('ensemble_device_seconds_total{device="cpu",ensemble="e",member="c",policy="probe"}') >= 0


@pytest.mark.parametrize(
    "lie",
    [
        lambda rows: np.full((len(rows), CLASSES), np.nan, np.float32),
        lambda rows: np.full((len(rows), CLASSES), 0.9, np.float32),
        lambda rows: np.eye(CLASSES, dtype=np.float32)[:1].repeat(len(rows) + 1, axis=0),
        lambda rows: np.zeros(len(rows), np.float32),
        lambda rows: np.zeros((0, CLASSES), np.float32),
    ],
    ids=["NaN", "no probabilities", "a row too many", "no classes", "no rows"],
)
@pytest.mark.parametrize("delay", [0.0, 0.001], ids=["on the loop", "side by side"])
async def test_a_member_that_lies_is_not_counted(lie: Any, delay: float) -> None:
    under = Under(c=[Step(lie, delay)])
    answer = await under.ask(1, 1, 2)

    assert fared(answer) == {"a": "ok", "b": "ok", "c": "failed"}
    assert answer.votes.tolist() == [[1, 1, -1]]
    assert answer.members[2].fault is not None

    for _ in range(FAULTS):
        answer = await under.ask(1, 1, 2)
    assert answer.members[2].fault == f"out of rotation after {FAULTS} faults"
    under.batcher.close()


async def test_a_stuck_member_counts_as_faulty_and_its_runs_do_not_pile_up() -> None:
    under = Under(c=[says(2, delay=NEVER)])
    for _ in range(FAULTS + 1):
        answer = await under.ask(1, 1, 1, seconds=0.7)
        assert answer.partial

    assert fared(answer)["c"] == "failed"
    assert "rotation" in (answer.members[2].fault or "")
    assert len(under.members[2].ran) == FAULTS + 1, "with the trial"
    under.batcher.close()


class Stubborn(ScriptedMember):
    """Ends its runs when they are done, whoever waits for them."""

    async def run(self, rows: Any, occupation: Any, at_most: float = SHORT_SECONDS) -> Any:
        working = asyncio.ensure_future(super().run(rows, occupation, at_most))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.gather(working, return_exceptions=True)
            raise


async def test_a_run_that_never_ends_takes_its_member_out_of_rotation_whatever_the_deadlines() -> None:
    under = Under()
    under.members[2] = Stubborn("c", [says(2, delay=NEVER)], predicted=0.001)
    under.batcher = Batcher(spec(), under.members, under.books, executors=2)
    for _ in range(3 + FAULTS):
        answer = await under.ask(1, 1, 1, seconds=0.2)

    assert answer.members[2].fault == f"out of rotation after {FAULTS} faults"
    assert under.members[2].ran == [1]
    under.batcher.close()


async def test_a_run_that_waits_for_a_core_does_not_begin_once_another_of_its_member_is_overdue() -> None:
    """Two slow members keep the only core until the first batch is taken to be stuck, and the second waits behind its last run."""
    slow = {name: [says(index, delay=0.02), says(index, delay=0.001)] for index, name in enumerate("ab")}
    under = Under(**slow)
    under.members[2] = Stubborn("c", [says(2, delay=NEVER)], predicted=0.001)
    batcher = Batcher(spec(), under.members, under.books, cores=1)
    entries = []
    for _ in range(2):
        now = time.perf_counter()
        entries.append(Entry(np.array([[1, 1, 1]]), "full", now, now + 0.3))
        batcher.submit(entries[-1])
        await asyncio.sleep(0.01)
    for entry in entries:
        counted, _ = await entry.future
        assert counted.present.tolist() == [[True, True, False]]

    assert under.members[2].ran == [1]


async def test_the_vote_that_completes_the_quorum_after_the_cutoff_makes_the_answer_where_members_are_brief() -> None:
    def through_the_cutoff(rows: Any) -> Any:
        time.sleep(0.005)
        return says(0).answer(rows)

    stages = {"staged": {"stages": [["a"], ["b"], ["c"]]}}
    under = Under(spec(policies=stages), cores=1, a=[Step(through_the_cutoff)], b=[says(1)], c=[says(2, delay=NEVER)])
    now = time.perf_counter()
    entry = Entry(np.array([[1, 2, 1]]), "staged", now, now + 0.5)
    entry.cutoff = now
    under.batcher.submit(entry)
    counted, _ = await entry.future

    assert counted.present.tolist() == [[True, True, False]]
    assert under.members[2].ran == [], "nothing is begun for a request that has its answer"


async def test_runs_that_were_under_way_when_their_member_left_do_not_put_off_its_trial() -> None:
    under = Under(c=[says(2, delay=0.02, fault="broken")])
    batcher = Batcher(spec(), under.members, under.books, executors=8, cores=64)
    for _ in range(8):
        now = time.perf_counter()
        batcher.submit(Entry(np.array([[1, 1, 1]]), "full", now, now + 5.0))
        await asyncio.sleep(0.001)
    while not batcher.idle:
        await asyncio.sleep(0.001)
    tried_at = batcher._stages._seats[2].rotation.tried_at

    assert len(under.members[2].ran) > FAULTS
    assert tried_at is not None
    assert tried_at - time.perf_counter() < FIRST_PAUSE
    batcher.close()


@pytest.mark.parametrize("cores", [1, 3], ids=["one after the other", "all at once"])
async def test_who_fails_in_a_stage_that_a_row_does_not_need_is_not_missing_there(cores: int) -> None:
    two_stages = {"early_exit": {"stages": [["a", "b"], ["c"]]}}
    slow = {"a": [says(0, delay=0.01)], "b": [says(1, delay=0.01)]}
    under = Under(spec(policies=two_stages, quorum=3), cores=cores, **slow, c=[says(2, delay=0.001, fault="no")])
    answer = await under.ask(1, 1, 2, policy="early_exit")

    assert (answer.label_index.tolist(), answer.exact.tolist(), answer.partial) == ([1], [True], False)
    assert fared(answer) == {"a": "ok", "b": "ok", "c": "skipped"}


async def test_votes_that_come_in_when_everybody_has_left_are_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    """A member that said it would be brief and is not."""
    under = Under(a=[says(0, delay=0.05)], b=[says(1)], c=[says(2)])
    under.members[0].brief = lambda rows, at_most=SHORT_SECONDS: True  # type: ignore[method-assign]
    asking = asyncio.ensure_future(under.ask(1, 1, 1, seconds=0.02))
    with pytest.raises(DeadlinePassed):
        await asking
    while not under.batcher.idle:
        await asyncio.sleep(0.001)

    assert "bug" not in caplog.text


# -------------------------------------------------------------------------------------------------------------------- laws


async def test_whatever_members_do_nothing_is_lost_and_the_bill_adds_up() -> None:
    """Random delays, faults and deadlines: every request ends, every label is the vote of those who are said to have voted."""
    rng = np.random.default_rng(0)
    policies = {
        "early_exit": {"stages": [["a"], ["b", "c"], ["d"]]},
        "cascade": {"stages": [["a", "b"], ["c", "d"]], "exit": {"margin": 0.4}},
    }
    made = spec("abcd", policies)

    def steps(index: int) -> list[Step]:
        faults = rng.random(4000) < 0.02
        delays = rng.choice([0.0, 0.0, 0.0005, 0.001, 0.02], 4000)
        return [
            says(index, delay=float(delay), fault="no" if fault else None)
            for delay, fault in zip(delays, faults, strict=True)
        ]

    begun = time.perf_counter()
    under = Under(made, cores=2, **{name: steps(index) for index, name in enumerate("abcd")})
    opened = time.perf_counter()

    async def one(number: int) -> str:
        votes = np.random.default_rng(number).integers(0, CLASSES, 4).tolist()
        policy = ("full", "early_exit", "cascade", "member:b")[number % 4]
        await asyncio.sleep(float(np.random.default_rng(number).random()) * 0.5)
        asking = asyncio.ensure_future(under.ask(*votes, policy=policy, seconds=(5.0, 0.03)[number % 7 == 0]))
        if number % 11 == 0:
            await asyncio.sleep(0.002)
            asking.cancel()
        try:
            answer = await asking
        except (DeadlinePassed, BelowQuorum, asyncio.CancelledError) as error:
            return type(error).__name__
        seen = answer.votes[0].tolist()
        said = [run.outcome for run in answer.members]
        for vote, truth, outcome in zip(seen, votes, said, strict=True):
            assert vote in (-1, truth)
            assert (vote >= 0) == (outcome is Outcome.OK)
        assert answer.partial == any(outcome in (Outcome.FAILED, Outcome.LATE) for outcome in said)
        if answer.exact[0]:
            counts = np.bincount(votes, minlength=CLASSES)
            assert counts[answer.label_index[0]] == counts.max()
        return "answered"

    ends = await asyncio.gather(*(one(number) for number in range(600)))
    await asyncio.sleep(0.05)

    assert ends.count("answered") > 400
    assert under.batcher.idle
    under.batcher.close()
    await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) == 1
    asked = time.perf_counter()
    spent = under.metric("ensemble_cost_usd_total{", "ensemble_idle_cost_usd_total{")
    assert asked - opened < spent < time.perf_counter() - begun, "a USD a second"


async def test_onnx_runtime_stops_a_run_that_nobody_needs(tmp_path: Any) -> None:
    """A graph of hundreds of matrix products, stopped between two of them."""
    from onnx import TensorProto, helper

    from ensembles.members.onnx import OnnxMember
    from ensembles.spec import MemberSpec

    size, steps = 256, 300
    weight = helper.make_tensor(
        "w", TensorProto.FLOAT, [size, size], np.zeros((size, size), np.float32).tobytes(), raw=True
    )
    nodes = [helper.make_node("MatMul", [f"x{n}", "w"], [f"x{n + 1}"]) for n in range(steps)]
    nodes += [helper.make_node("Identity", ["x"], ["x0"]), helper.make_node("Softmax", [f"x{steps}"], ["y"])]
    graph = helper.make_graph(
        [nodes[-2], *nodes[:-2], nodes[-1]],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size])],
        [weight],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    entry = MemberSpec(name="m", model="m/1/model.onnx", sha256="0" * 64, emits="probabilities")
    with ThreadPoolExecutor(1) as executor:
        member = OnnxMember(entry, content, executor)
        rows = np.zeros((1024, size), np.float32)
        device = Ledger(1.0).device("cpu")
        whole, stopped = device.occupation(), device.occupation()
        await member.run(rows, whole)
        run = asyncio.ensure_future(member.run(rows, stopped))
        await asyncio.sleep(whole.seconds / 20)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

        assert 0 < stopped.seconds < whole.seconds / 2, "it ended when its device was free"
        assert len(await member.run(rows[:2], device.occupation())) == 2, "the member is still usable"
