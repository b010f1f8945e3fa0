"""One stage after the other, or all at once: by how long rows wait in either case."""

import pytest

from serving.staging import Reach, Remaining, at_once, makespan


def stages(*seconds: list[float], goes_on: float = 0.5) -> list[Remaining]:
    return [Remaining(times, goes_on**number) for number, times in enumerate(seconds)]


def test_the_longest_run_and_the_cores_bound_the_time_of_many() -> None:
    assert makespan([0.003, 0.001], 2) == 0.003
    assert makespan([0.001] * 5, 2) == 0.0025
    assert makespan([0.001] * 5, 1) == 0.005


def test_idle_cores_run_everything_at_once() -> None:
    assert at_once(stages([1.0], [1.0], goes_on=1.0), rows=1, waiting=0, cores=2)
    assert at_once(stages([1.0], [1.0], goes_on=0.3), rows=1, waiting=0, cores=2)


def test_a_queue_makes_it_one_after_the_other() -> None:
    choices = [at_once(stages([1.0], [1.0]), rows=16, waiting=waiting, cores=2) for waiting in (0, 4, 64, 1000)]

    assert choices == sorted(choices, reverse=True), "the longer the queue, the less is done in vain"
    assert choices[0]
    assert not choices[-1]


def test_one_core_gains_nothing_from_running_all_at_once() -> None:
    assert not at_once(stages([1.0], [1.0]), rows=1, waiting=0, cores=1)


def test_where_nobody_leaves_early_nothing_is_saved_by_waiting() -> None:
    assert at_once(stages([1.0], [1.0], goes_on=1.0), rows=1, waiting=10, cores=2)


def test_where_all_leave_at_once_the_rest_is_waste() -> None:
    assert not at_once(stages([1.0], [1.0], goes_on=0.0), rows=1, waiting=1, cores=2)


def test_the_share_that_goes_on_is_learned() -> None:
    reach = Reach(3)
    assert reach.after(0) == [1, 1, 1]
    for _ in range(100):
        reach.observe(0, rows=100, left=75)
        reach.observe(1, rows=25, left=5)

    assert reach.after(0) == pytest.approx([1, 0.25, 0.2], rel=1e-3)
    assert reach.after(1) == pytest.approx([1, 0.8], rel=1e-3)
    assert reach.after(2) == [1]
