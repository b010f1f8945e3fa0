"""Members: ONNX graphs in this process, the shipped script, and what they learn of their own time."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ensembles.member_spec import MemberSpec, RunOn
from ensembles.members import MemberError
from ensembles.members.cores import cores
from ensembles.members.onnx import OnnxMember
from ensembles.members.scripted import ScriptedMember, Step, always
from ensembles.members.timing import TimeByRows
from ensembles.repository import Repository
from ensembles.tally import BadVote, Tally
from ensembles.votes import Ballot, Rule


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2, thread_name_prefix="member") as pool:
        yield pool


def spec(emits: str = "probabilities", device: str = "auto") -> MemberSpec:
    return MemberSpec(name="m", model="m/1/model.onnx", sha256="0" * 64, emits=emits, run_on=RunOn(device=device))


def graph(*nodes: Any, shape: tuple[int, ...] = (3,), element: int = TensorProto.FLOAT) -> bytes:
    """An ONNX model from `x` to `y`, as bytes."""
    given = helper.make_tensor_value_info("x", element, ["batch", *shape])
    produced = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])
    body = helper.make_graph(list(nodes), "g", [given], [produced])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


IDENTITY = graph(helper.make_node("Identity", ["x"], ["y"]))


class Seat:
    """An occupation that remembers who sat in it, on which thread, and whether it was left."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.taken = 0

    @contextmanager
    def occupation(self) -> Iterator[None]:
        self.threads.append(threading.current_thread().name)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


# -------------------------------------------------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
async def test_the_members_that_ship_answer_like_onnx_runtime_in_any_batch(
    digits: Repository, samples: Any, scores: Any, executor: Executor, rows: int
) -> None:
    for index, entry in enumerate(digits.spec.members):
        member = OnnxMember(entry, digits.model(entry), executor)
        found = await member.run(samples[0][:rows], nullcontext())

        assert (found.shape, found.dtype) == ((rows, 10), np.float32)
        assert found == pytest.approx(scores[:rows, index], abs=1e-5)
        assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert member.name == entry.name
        member.close()


async def test_a_member_answers_the_same_each_time_and_in_any_order(
    digits: Repository, samples: Any, executor: Executor
) -> None:
    entry = digits.spec.members[0]
    member = OnnxMember(entry, digits.model(entry), executor)
    first = await member.run(samples[0][:7], nullcontext())

    for rows in (1, 7, 2, 7):
        assert await member.run(samples[0][:rows], nullcontext()) == pytest.approx(first[:rows], abs=1e-6)
    both = await asyncio.gather(*(member.run(samples[0][:7], nullcontext()) for _ in range(4)))
    assert all(np.array_equal(each, both[0]) for each in both)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),
        ([1.0, 2.0, 3.0], [0.090031, 0.244728, 0.665241]),
        ([1000.0, 1001.0, 1002.0], [0.090031, 0.244728, 0.665241]),
        ([-1e38, 0.0, -1e38], [0.0, 1.0, 0.0]),
    ],
)
async def test_logits_become_probabilities(executor: Executor, logits: list[float], expected: list[float]) -> None:
    member = OnnxMember(spec("logits"), IDENTITY, executor)
    found = await member.run(np.array([logits], np.float32), nullcontext())

    assert found.dtype == np.float32
    assert found[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("logits", [[np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0], [-np.inf] * 3])
async def test_logits_that_are_no_numbers_become_no_vote(executor: Executor, logits: list[float]) -> None:
    member = OnnxMember(spec("logits"), IDENTITY, executor)
    tally = Tally(Ballot(Rule.MAJORITY, np.ones(1), np.arange(1)), rows=1, classes=3)

    with pytest.raises(BadVote, match="sum to .*nan"):
        tally.enter(0, await member.run(np.array([logits], np.float32), nullcontext()))


@pytest.mark.parametrize("emits", ["probabilities", "logits"])
async def test_scores_without_a_row_for_each_sample_are_a_fault_of_the_member(executor: Executor, emits: str) -> None:
    """What a graph declares of its output binds nobody."""
    member = OnnxMember(spec(emits), graph(helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=0)), executor)
    tally = Tally(Ballot(Rule.MAJORITY, np.ones(1), np.arange(1)), rows=2, classes=3)

    with pytest.raises((MemberError, BadVote)):
        tally.enter(0, await member.run(np.eye(3, dtype=np.float32)[:2], nullcontext()))


async def test_probabilities_are_left_as_they_are(executor: Executor) -> None:
    member = OnnxMember(spec(), IDENTITY, executor)

    assert (await member.run(np.array([[1, 2, 3]], np.float32), nullcontext())).tolist() == [[1, 2, 3]]


def test_auto_runs_on_what_there_is_and_says_so(executor: Executor) -> None:
    member = OnnxMember(spec(device="auto"), IDENTITY, executor)

    assert (member.device, member.provider) in [("cpu", "CPUExecutionProvider"), ("cuda:0", "CUDAExecutionProvider")]


def test_the_cpu_is_the_cpu_also_where_there_is_a_gpu(executor: Executor) -> None:
    member = OnnxMember(spec(device="cpu"), IDENTITY, executor)

    assert (member.device, member.provider) == ("cpu", "CPUExecutionProvider")


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_gpu_that_is_not_there_is_refused_with_what_there_is(executor: Executor) -> None:
    with pytest.raises(MemberError) as fault:
        OnnxMember(spec(device="cuda:0"), IDENTITY, executor)

    providers = ", ".join(ort.get_available_providers())
    assert str(fault.value) == (f"run_on.device: found cuda:0, expected cpu or auto: this ONNX Runtime has {providers}")


@pytest.mark.parametrize("content", [b"", b"hello", IDENTITY[:20], IDENTITY.replace(b"Identity", b"Identitz")])
def test_what_onnx_runtime_cannot_load_is_refused_in_one_line(executor: Executor, content: bytes) -> None:
    with pytest.raises(MemberError, match="^ONNX Runtime cannot load the model: ") as fault:
        OnnxMember(spec(), content, executor)

    assert len(str(fault.value).splitlines()) == 1


def test_a_custom_operator_does_not_load(executor: Executor) -> None:
    content = graph(helper.make_node("Identity", ["x"], ["y"])).replace(b"Identity", b"Sorcery!")
    with pytest.raises(MemberError, match="^ONNX Runtime cannot load the model: "):
        OnnxMember(spec(), content, executor)


@pytest.mark.parametrize(
    "rows", [np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float64), np.zeros(3, np.float32)], ids=str
)
@pytest.mark.parametrize("brief", [True, False])
async def test_a_run_that_fails_is_a_member_error_and_leaves_the_device_and_the_member_free(
    executor: Executor, rows: Any, brief: bool
) -> None:
    member, seat = OnnxMember(spec(), IDENTITY, executor), Seat()
    member.timing.observe(1, 1e-6 if brief else 60.0)

    with pytest.raises(MemberError, match="in ONNX Runtime") as fault:
        await member.run(rows, seat.occupation())
    assert len(str(fault.value).splitlines()) == 1
    assert (len(seat.threads), seat.taken) == (1, 0)

    good = np.array([[0.5, 0.25, 0.25]], np.float32)
    assert np.array_equal(await member.run(good, seat.occupation()), good)


async def test_runs_that_were_short_stay_on_the_loop_and_long_ones_leave_it(executor: Executor) -> None:
    member, seat, rows = OnnxMember(spec(), IDENTITY, executor), Seat(), np.zeros((1, 3), np.float32)

    assert not member.brief(1), "nothing is known before the first run"
    await member.run(rows, seat.occupation())
    member.timing = TimeByRows()
    member.timing.observe(1, 1e-6)
    assert member.brief(1)
    await member.run(rows, seat.occupation())
    member.timing = TimeByRows()
    member.timing.observe(1, 60.0)
    assert not member.brief(1)
    assert member.brief(1, at_most=61.0)
    await member.run(rows, seat.occupation())

    assert [name.startswith("member") for name in seat.threads] == [True, False, True]


async def test_a_member_learns_its_time_by_rows(executor: Executor) -> None:
    member = OnnxMember(spec(), IDENTITY, executor)
    assert member.timing.predict(4) is None
    await member.run(np.zeros((4, 3), np.float32), nullcontext())

    assert member.timing.predict(4) > 0


def test_what_a_bad_moment_said_of_a_size_is_corrected_by_runs_of_smaller_ones() -> None:
    timing = TimeByRows()
    for rows, seconds in ((8, 0.001), (16, 0.002), (32, 0.004), (64, 0.008)):
        timing.observe(rows, seconds)
    for rows in (16, 32, 64):
        timing.observe(rows, 1.0)
    assert timing.predict(64) > timing.predict(32) > 0.1

    for _ in range(50):
        timing.observe(16, 0.002)

    assert timing.predict(8) == 0.001, "smaller ones are not touched"
    assert timing.predict(32) == pytest.approx(0.004, rel=0.01)
    assert timing.predict(64) == pytest.approx(0.008, rel=0.01)


async def test_a_cancelled_run_leaves_the_member_usable_and_the_device_free(executor: Executor) -> None:
    member, seat = OnnxMember(spec(), IDENTITY, executor), Seat()
    rows = np.array([[0.5, 0.25, 0.25]], np.float32)
    run = asyncio.ensure_future(member.run(rows, seat.occupation()))
    await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert np.array_equal(await member.run(rows, seat.occupation()), rows)
    executor.shutdown()
    assert seat.taken == 0


def test_there_is_a_core() -> None:
    assert cores() >= 1


# ------------------------------------------------------------------------------------------------------------------ scripts


def answer(*scores: float) -> Step:
    return Step(lambda rows: np.tile(np.array(scores, np.float32), (len(rows), 1)))


async def test_a_script_is_followed_step_by_step_and_its_last_step_from_then_on() -> None:
    member = ScriptedMember("s", [answer(1, 0), Step(always(0, 2), fault="out of order"), answer(0, 1)])
    found: list[Any] = []
    for count in (1, 2, 3, 4):
        try:
            found.append((await member.run(np.zeros((count, 1)), nullcontext())).tolist())
        except MemberError as fault:
            found.append(str(fault))

    assert found == [[[1, 0]], "out of order", [[0, 1]] * 3, [[0, 1]] * 4]
    assert member.ran == [1, 2, 3, 4], "a run that fails has begun too"


async def test_a_script_sees_the_rows() -> None:
    member = ScriptedMember("s", [Step(lambda rows: np.hstack([rows, 1 - rows]))])

    assert (await member.run(np.array([[0.25], [1.0]]), nullcontext())).tolist() == [[0.25, 0.75], [1.0, 0.0]]


def test_always_is_sure_of_one_class() -> None:
    scores = always(2, classes=4, confidence=0.7)(np.zeros((3, 8)))

    assert (scores.shape, scores.dtype) == ((3, 4), np.float32)
    assert scores == pytest.approx(np.tile([0.1, 0.1, 0.7, 0.1], (3, 1)))


async def test_a_script_occupies_its_device_while_it_runs_also_when_it_fails_or_is_cancelled() -> None:
    seat = Seat()
    slow = ScriptedMember("slow", [Step(always(0, 2), delay=60)])
    run = asyncio.ensure_future(slow.run(np.zeros((1, 1)), seat.occupation()))
    await asyncio.sleep(0)
    assert (slow.ran, seat.taken, slow.brief(1)) == ([1], 1, False)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert seat.taken == 0

    broken = ScriptedMember("broken", [Step(always(0, 2), fault="no")])
    assert broken.brief(1)
    with pytest.raises(MemberError, match="^no$"):
        await broken.run(np.zeros((1, 1)), seat.occupation())
    assert (len(seat.threads), seat.taken) == (2, 0)


def test_a_script_has_a_device_and_a_provider() -> None:
    member = ScriptedMember("s", [answer(1, 0)], device="cuda:3")
    member.close()

    assert (member.name, member.device, member.provider) == ("s", "cuda:3", "Scripted")


# --------------------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("observed", "rows", "predicted"),
    [
        ([], 1, None),
        ([(1, 0.1)], 1, 0.1),
        ([(3, 0.1)], 4, 0.1),  # 3 and 4 rows are one step
        ([(1, 0.1)], 2, 0.2),  # scaled up from a smaller step
        ([(1, 0.1)], 8, 0.8),
        ([(8, 0.8)], 1, 0.8),  # never scaled down: a small batch may take as long
        ([(2, 0.2), (64, 1.0)], 4, 0.4),  # the nearest step
        ([(2, 0.2), (64, 1.0)], 60, 1.0),
        ([(2, 0.2), (64, 1.0)], 128, 2.0),
        ([(1, 1.0), (1, 0.0)], 1, 0.8),  # the newest run counts a fifth
        ([(1, 1.0), (1, 0.0), (1, 0.0)], 1, 0.64),
    ],
)
def test_time_by_rows(observed: list[tuple[int, float]], rows: int, predicted: float | None) -> None:
    timing = TimeByRows()
    for count, seconds in observed:
        timing.observe(count, seconds)

    assert timing.predict(rows) == (None if predicted is None else pytest.approx(predicted))


def test_after_ten_runs_nine_tenths_of_the_figure_are_theirs() -> None:
    timing = TimeByRows()
    timing.observe(1, 0.0)
    for _ in range(10):
        timing.observe(1, 1.0)

    assert timing.predict(1) == pytest.approx(0.9, abs=0.01)
