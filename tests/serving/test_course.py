"""Policies under way: rows leave once they need no more votes, and each answer says what was run and paid for it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ensembles.members.scripted import ScriptedMember, Step
from ensembles.spec import EnsembleSpec, from_mapping
from ensembles.tally import Tally
from serving.aggregator import Answer
from serving.batch import Entry
from serving.batcher import Batcher
from serving.books import Books
from serving.course import courses
from serving.errors import BelowQuorum
from serving.ledger import Ledger
from serving.records import Outcome
from serving.statistics import Statistics
from serving.telemetry import Telemetry

CLASSES = 4
EXACT = {"stages": [["a", "b"], ["c"]], "exit": "decided"}


def spec(policies: dict[str, Any], members: str = "abc", **vote: Any) -> EnsembleSpec:
    return from_mapping(
        {
            "name": "e",
            "labels": [str(label) for label in range(CLASSES)],
            "input": {"name": "x", "datatype": "INT64", "shape": [len(members)]},
            "members": [
                {"name": name, "model": f"{name}/1/model.onnx", "sha256": "0" * 64, "emits": "probabilities"}
                for name in members
            ],
            "vote": {"rule": "majority", **vote},
            "policies": policies,
        }
    )


def says(index: int) -> Any:
    """A member that says what stands at its place in the row, quite sure of it."""
    return lambda rows: 0.7 * np.eye(CLASSES, dtype=np.float32)[rows[:, index]] + np.float32(0.3 / CLASSES)


class Under:
    """A batcher with members that vote as the rows tell them to, and its books."""

    def __init__(self, made: EnsembleSpec, delay: float = 0.0, **steps: Step) -> None:
        names = [member.name for member in made.members]
        ledger = Ledger(3600.0)
        self.books = Books(ledger, Telemetry(ledger), Statistics())
        self.members = [
            ScriptedMember(name, [steps.get(name, Step(says(index), delay))]) for index, name in enumerate(names)
        ]
        self.batcher = Batcher(made, self.members, self.books)

    async def ask(self, policy: str, *votes: Sequence[int]) -> Answer:
        now = time.perf_counter()
        entry = Entry(np.array(votes), policy, now, now + 60)
        self.batcher.submit(entry)
        counted, start = await entry.future
        return Answer(None, counted, start, start + len(votes), 0.0, 0.0)  # type: ignore[arg-type]

    def metric(self, line: str) -> float:
        text = self.books.telemetry.exposition().decode()
        return float(next(found for found in text.splitlines() if found.startswith(line)).split()[-1])

    @property
    def ran(self) -> list[list[int]]:
        """The rows of each member's runs."""
        return [member.ran for member in self.members]


# -------------------------------------------------------------------------------------------------------------- exact exits


@pytest.mark.parametrize("delay", [0.0, 0.001], ids=["on the loop", "at once"])
async def test_rows_that_are_decided_leave_and_the_rest_goes_on(delay: float) -> None:
    under = Under(spec({"early_exit": EXACT}), delay)
    answer = await under.ask("early_exit", [1, 1, 2], [1, 2, 2], [3, 3, 3], [0, 2, 1])

    assert under.ran == [[4], [4], [2]]
    assert answer.label_index.tolist() == [1, 2, 3, 0]
    assert answer.votes.tolist() == [[1, 1, -1], [1, 2, 2], [3, 3, -1], [0, 2, 1]]
    assert answer.exact.tolist() == [True] * 4
    assert answer.agreement.tolist() == pytest.approx([1, 2 / 3, 1, 1 / 3])
    assert not answer.partial


async def test_when_all_are_decided_the_last_stage_does_not_run() -> None:
    under = Under(spec({"early_exit": EXACT}))
    answer = await under.ask("early_exit", [1, 1, 2], [3, 3, 0])

    assert under.ran == [[2], [2], []]
    assert [run.outcome for run in answer.members] == [Outcome.OK, Outcome.OK, Outcome.SKIPPED]
    assert answer.exact.all()


async def test_counting_the_rows_that_leave_is_told_as_counting_and_not_as_the_members_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave = Tally.leave

    def slowly(*given: Any) -> Any:
        time.sleep(0.02)
        return leave(*given)

    monkeypatch.setattr(Tally, "leave", slowly)
    under = Under(spec({"early_exit": EXACT}))
    early, late = await under.ask("early_exit", [1, 1, 2]), await under.ask("early_exit", [1, 2, 2])

    assert early.counted.vote_seconds >= 0.02
    assert late.counted.compute_seconds >= 0.02, "a test that lets nobody leave is on the way to the answer"
    assert late.counted.vote_seconds < early.counted.vote_seconds


async def test_labels_are_those_of_the_full_ensemble_whatever_the_votes() -> None:
    votes = np.random.default_rng(0).integers(0, CLASSES, (64, 5))
    stages = [["c"], ["a", "e"], ["b"], ["d"]]
    for tie_break in ("probability", "priority", "first_class", "abstain"):
        for rule in ("majority", "probability_average", "borda"):
            made = spec({"early_exit": {"stages": stages}}, "abcde", rule=rule, tie_break=tie_break)
            under = Under(made)
            early, full = await under.ask("early_exit", *votes), await under.ask("full", *votes)

            assert early.label_index.tolist() == full.label_index.tolist()
            assert early.exact.all()
            assert min(map(sum, under.ran)) < 2 * len(votes), "something was saved"


async def test_requests_of_one_batch_are_told_what_was_run_for_them_and_pay_for_that() -> None:
    under = Under(spec({"early_exit": EXACT}), delay=0.002)
    first = asyncio.ensure_future(under.ask("early_exit", [0, 0, 0]))
    await asyncio.sleep(0)
    easy, hard = await asyncio.gather(under.ask("early_exit", [1, 1, 1], [2, 2, 2]), under.ask("early_exit", [1, 2, 3]))
    await first

    assert under.ran[0] == [1, 3], "one batch"
    assert [run.outcome for run in easy.members] == [Outcome.OK, Outcome.OK, Outcome.SKIPPED]
    assert [run.outcome for run in hard.members] == [Outcome.OK, Outcome.OK, Outcome.OK]
    assert easy.members[2].cost_usd == 0.0 < hard.members[2].cost_usd
    assert easy.members[0].cost_usd == pytest.approx(2 * hard.members[0].cost_usd)
    assert easy.device_seconds + hard.device_seconds + (await first).device_seconds == pytest.approx(
        sum(
            under.metric(f'ensemble_device_seconds_total{{device="cpu",ensemble="e",member="{name}"') for name in "abc"
        ),
        abs=1e-9,
    )


async def test_rows_are_counted_by_the_stage_after_which_they_left() -> None:
    stages = {"stages": [["a", "b"], ["c"], ["d", "e"]]}
    under = Under(spec({"early_exit": stages}, "abcde"))
    await under.ask("early_exit", [1, 1, 1, 0, 0], [1, 1, 0, 1, 1], [1, 1, 1, 2, 2])

    exits = 'ensemble_early_exits_total{ensemble="e",policy="early_exit",stage="%d"}'
    assert [under.metric(exits % stage) for stage in (1, 2)] == [0, 2]
    rows = 'ensemble_member_rows_total{ensemble="e",member="%s",outcome="%s"}'
    assert [under.metric(rows % ("d", outcome)) for outcome in ("ok", "skipped")] == [1, 2]
    assert under.metric('ensemble_dissents_total{ensemble="e",member="d"}') == 0
    assert under.metric('ensemble_dissents_total{ensemble="e",member="c"}') == 1


# ------------------------------------------------------------------------------------------------- thresholds, parts, rules


async def test_a_cascade_leaves_where_the_threshold_is_reached_and_says_that_this_is_not_exact() -> None:
    made = spec({"cascade": {"stages": [["a", "b"], ["c", "d"]], "exit": {"agreement": 1.0}}}, "abcd")
    under = Under(made)
    answer = await under.ask("cascade", [1, 1, 2, 2], [0, 3, 3, 3])

    assert under.ran == [[2], [2], [1], [1]]
    assert answer.label_index.tolist() == [1, 3]
    assert answer.exact.tolist() == [False, True], "the two who did not vote could have made it a tie"


async def test_a_margin_that_nobody_reaches_runs_everybody() -> None:
    under = Under(
        spec({"cascade": {"stages": [["a"], ["b", "c"]], "exit": {"margin": 1.0}}}, rule="probability_average")
    )
    answer = await under.ask("cascade", [1, 1, 1])

    assert under.ran == [[1], [1], [1]]
    assert answer.exact.all()


async def test_a_policy_may_leave_members_out_and_is_then_not_exact_where_they_could_change_the_label() -> None:
    under = Under(spec({"pair": {"stages": [["b", "a"]]}}, "abcd"))
    answer = await under.ask("pair", [1, 1, 2, 2], [3, 3, 3, 3])

    assert under.ran == [[2], [2], [], []]
    assert answer.votes.tolist() == [[1, 1, -1, -1], [3, 3, -1, -1]]
    assert answer.exact.tolist() == [False, False]
    assert not answer.partial


async def test_members_that_are_left_out_do_not_keep_decided_rows_from_leaving() -> None:
    under = Under(spec({"some": {"stages": [["a", "b"], ["c"]]}}, "abcde"))
    answer = await under.ask("some", [1, 1, 0, 0, 0])

    assert under.ran == [[1], [1], [], [], []]
    assert answer.exact.tolist() == [False]


async def test_a_policy_may_count_by_another_rule() -> None:
    sure, unsure = Step(lambda rows: np.array([[0.98, 0.02, 0, 0]], np.float32)), {}
    for name in "bc":
        unsure[name] = Step(lambda rows: np.array([[0.45, 0.55, 0, 0]], np.float32))
    policies = {"average": {"stages": [["a", "b", "c"]], "rule": "probability_average"}}
    under = Under(spec(policies), a=sure, **unsure)
    majority, average = await under.ask("full", [0, 0, 0]), await under.ask("average", [0, 0, 0])

    assert (majority.label_index.tolist(), average.label_index.tolist()) == ([1], [0])
    assert (majority.exact.tolist(), average.exact.tolist()) == ([True], [False])


# -------------------------------------------------------------------------------------------------------------------- faults


def broken() -> Step:
    return Step(says(0), fault="out of order")


async def test_a_member_that_fails_in_the_first_stage_sends_its_rows_on() -> None:
    under = Under(spec({"early_exit": EXACT}, quorum=2), b=broken())
    answer = await under.ask("early_exit", [1, 1, 1], [2, 2, 0])

    assert under.ran == [[2], [2], [2]]
    assert answer.partial
    assert answer.votes.tolist() == [[1, -1, 1], [2, -1, 0]]
    assert answer.exact.tolist() == [True, False], "the one that failed could have broken the tie"


async def test_a_member_that_fails_late_makes_only_those_answers_partial_that_needed_it() -> None:
    under = Under(spec({"early_exit": EXACT}), c=broken())
    answer = await under.ask("early_exit", [1, 1, 1], [1, 2, 0])
    easy, hard = (Answer(None, answer.counted, at, at + 1, 0.0, 0.0) for at in (0, 1))  # type: ignore[arg-type]

    assert (easy.partial, hard.partial) == (False, True)
    assert (easy.members[2].fault, hard.members[2].fault) == (None, "out of order")
    assert answer.exact.tolist() == [True, False]


async def test_members_that_were_not_needed_do_not_count_as_missing_from_the_quorum() -> None:
    under = Under(spec({"early_exit": EXACT}, quorum=3))

    assert (await under.ask("early_exit", [1, 1, 2])).label_index.tolist() == [1]


async def test_rows_that_had_left_are_answered_though_the_rest_of_their_batch_is_below_the_quorum() -> None:
    under = Under(spec({"early_exit": EXACT}, quorum=3), delay=0.002, c=Step(says(0), 0.002, fault="out of order"))
    first = asyncio.ensure_future(under.ask("early_exit", [0, 0, 0]))
    await asyncio.sleep(0)
    easy, hard = await asyncio.gather(
        under.ask("early_exit", [1, 1, 2]), under.ask("early_exit", [1, 2, 0]), return_exceptions=True
    )
    await first

    assert isinstance(easy, Answer) and easy.label_index.tolist() == [1]
    assert isinstance(hard, BelowQuorum)
    assert str(hard) == "2 of 3 members voted, the quorum is 3; failed: c"


async def test_an_abstention_is_not_what_those_who_were_skipped_said() -> None:
    """Rows that tie leave a cascade at once with the threshold 0; the third member did not run, and did not agree."""
    cascade = {"stages": [["a", "b"], ["c"]], "exit": {"margin": 0.0}}
    under = Under(spec({"cascade": cascade}, tie_break="abstain"))
    answer = await under.ask("cascade", [1, 2, 2])

    assert answer.label_index.tolist() == [-1]
    assert [under.metric(f'ensemble_dissents_total{{ensemble="e",member="{name}"}}') for name in "ab"] == [1, 1]
    assert not answer.counted.result.agrees.any()


async def test_too_many_failures_are_below_the_quorum() -> None:
    under = Under(spec({"early_exit": EXACT}, quorum=2), a=broken(), b=broken())

    with pytest.raises(BelowQuorum, match="1 of 3 members voted, the quorum is 2; failed: a, b"):
        await under.ask("early_exit", [1, 1, 1])


# ------------------------------------------------------------------------------------------------------------------- courses


def test_every_policy_and_member_has_a_course() -> None:
    cascade = {"stages": [["c"], ["a"]], "exit": {"margin": 0.5}, "rule": "majority"}
    found = courses(spec({"early_exit": EXACT, "cascade": cascade}, quorum=3))

    assert list(found) == ["full", "early_exit", "cascade", "member:a", "member:b", "member:c"]
    assert [course.stages for course in found.values()] == [
        ((0, 1, 2),),
        ((0, 1), (2,)),
        ((2,), (0,)),
        ((0,),),
        ((1,),),
        ((2,),),
    ]
    assert [course.quorum for course in found.values()] == [3, 3, 2, 1, 1, 1]
    assert (found["cascade"].score, found["cascade"].threshold) == ("margin", 0.5)
    assert [course.score for course in found.values()].count(None) == 5
