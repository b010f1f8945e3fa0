"""How many rows of a run go through a model at a time: found by trying, and right whatever the machine's mood."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensembles.members import MemberError
from ensembles.members.microbatch import EVERY, LEAST_ROWS, MicroBatchSize
from ensembles.members.onnx import OnnxMember
from ensembles.members.parts import joined
from ensembles.repository import Repository

RUNS = 400
A_MODEL = {8: 100e-6, 16: 101e-6, 32: 110e-6, 64: 125e-6}
"""Seconds of a row by how many go through at a time."""

Mood = Callable[[int], float]


def after(micro_batch: MicroBatchSize, rows: int, model: dict[int, float], mood: Mood = lambda run: 1.0) -> list[int]:
    """The sizes of so many runs on a machine that takes `mood` times as long."""
    sizes = []
    for run in range(RUNS):
        sizes.append(micro_batch.choose(rows))
        micro_batch.observe(rows, sizes[-1], rows * model[sizes[-1]] * mood(run))
    return sizes


def usual(sizes: list[int]) -> int:
    """The size of most of the last runs."""
    return max(set(sizes), key=sizes[-EVERY + 1 :].count)


def test_runs_are_cut_where_the_caches_hold_less_than_all_their_rows() -> None:
    sizes = after(MicroBatchSize(), 64, A_MODEL)

    assert sizes[0] == 64
    assert usual(sizes) in (8, 16)


def test_runs_stay_whole_where_calls_cost_more_than_they_save() -> None:
    sizes = after(MicroBatchSize(), 64, {8: 4e-6, 16: 2.2e-6, 32: 1.4e-6, 64: 1e-6})

    assert usual(sizes) == 64
    assert sizes.count(64) > 0.9 * RUNS, "to try what is worse is rare"


def test_another_size_must_be_better_by_more_than_a_little() -> None:
    assert usual(after(MicroBatchSize(), 64, {8: 0.99, 16: 0.98, 32: 0.985, 64: 1.0})) == 64


def test_the_sizes_of_smaller_runs_are_found_by_themselves() -> None:
    micro_batch = MicroBatchSize()
    after(micro_batch, 64, A_MODEL)

    assert usual(after(micro_batch, 30, {8: 1.2, 16: 1.1, 32: 1.0})) == 32
    assert usual(after(micro_batch, 64, A_MODEL)) in (8, 16)


@pytest.mark.parametrize(
    "mood",
    [
        lambda run: 3.0 if run % 200 < 100 else 1.0,
        lambda run: 1.0 + run / 100,
        lambda run: 50.0 if run % 37 == 0 else 1.0,
    ],
    ids=["slow for a while", "slower and slower", "a spike now and then"],
)
def test_the_moods_of_a_machine_are_not_taken_for_those_of_a_size(mood: Mood) -> None:
    assert usual(after(MicroBatchSize(), 64, A_MODEL, mood)) in (8, 16)


def test_noise_that_is_larger_than_the_difference_does_not_hide_it() -> None:
    noise = np.random.default_rng(5).lognormal(0, 0.2, RUNS)

    assert usual(after(MicroBatchSize(), 64, A_MODEL, lambda run: float(noise[run]))) in (8, 16)


def test_what_was_best_is_found_anew_where_it_no_longer_is() -> None:
    micro_batch = MicroBatchSize()
    assert usual(after(micro_batch, 64, A_MODEL)) in (8, 16)
    now = {8: 2.0, 16: 1.9, 32: 1.4, 64: 1.0}

    assert usual([size for _ in range(5) for size in after(micro_batch, 64, now)]) == 64


@given(rows=st.integers(1, 5000), runs=st.integers(1, 100))
def test_a_size_is_a_power_of_two_that_is_not_too_small_and_covers_no_more_than_all(rows: int, runs: int) -> None:
    micro_batch = MicroBatchSize()
    for _ in range(runs):
        size = micro_batch.choose(rows)
        micro_batch.observe(rows, size, 1.0)

        assert size & (size - 1) == 0
        assert LEAST_ROWS <= size < max(2 * rows, LEAST_ROWS + 1)


# ----------------------------------------------------------------------------------------------------------------- on a model


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Always(MicroBatchSize):
    """So many, come what may."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._always = size

    def choose(self, rows: int) -> int:
        return self._always


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("rows", [1, 8, 9, 50, 64])
def test_scores_are_those_of_the_whole_run(
    digits: Repository, samples: tuple[NDArray[np.uint8], object], executor: Executor, size: int, rows: int
) -> None:
    for entry in digits.spec.members:
        whole = OnnxMember(entry, digits.model(entry), executor).compute(samples[0][:rows], nullcontext())
        parts = OnnxMember(entry, digits.model(entry), executor, Always(size)).compute(samples[0][:rows], nullcontext())

        assert (parts.shape, parts.dtype) == (whole.shape, whole.dtype)
        assert parts == pytest.approx(whole, abs=1e-6)


def test_a_part_without_a_row_for_each_of_its_own_is_a_fault_even_where_their_number_is_right() -> None:
    parts = [np.zeros((7, 3), np.float32), np.zeros((9, 3), np.float32)]

    with pytest.raises(MemberError, match=r"^found scores of shape \[7, 3\] for 8 rows$"):
        joined(parts, 16, 8)
    with pytest.raises(MemberError, match=r"^found scores of shape \[8, 4\] for 8 rows$"):
        joined([np.zeros((8, 3), np.float32), np.zeros((8, 4), np.float32)], 16, 8)
    assert joined([np.ones((8, 3), np.float32), np.ones((2, 3), np.float32)], 10, 8).shape == (10, 3)
