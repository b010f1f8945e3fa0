"""The simulated replica, held against what queueing theory knows."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.queueing import Replica, dealt, highest_rate, serve
from serving.batch_queue import BatchQueue

SERVICE = 1e-3
ONE_BY_ONE = Replica(SERVICE, 0.0, 0.0, max_batch_size=1)
BATCHING = Replica(request_seconds=2e-4, batch_seconds=3e-4, row_seconds=1e-4, max_batch_size=64)
N = 100_000

seconds = st.floats(0, 1e-2)
replicas = st.builds(Replica, st.floats(1e-6, 1e-2), seconds, seconds, st.integers(1, 12), st.integers(1, 3))
arrivals = st.lists(st.floats(0, 0.1), min_size=1, max_size=60).map(lambda instants: np.sort(np.array(instants)))


def poisson(rate: float, n: int = N, seed: int = 0):
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, n))


def pollaczek_khinchine(rate: float, work) -> float:
    """The mean wait of an M/G/1 queue before its service."""
    return rate * np.mean(np.square(work)) / (2 * (1 - rate * np.mean(work)))


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.7, 0.85])
def test_equal_services_one_by_one_are_the_md1_queue(utilisation: float) -> None:
    rate = utilisation / SERVICE
    done = serve(poisson(rate), ONE_BY_ONE)

    assert np.mean(done.latency) - SERVICE == pytest.approx(pollaczek_khinchine(rate, SERVICE), rel=0.05)
    assert done.busy == pytest.approx(utilisation, rel=0.02)


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.7])
def test_exponential_services_one_by_one_are_the_mm1_queue(utilisation: float) -> None:
    """Whose time in the system is exponential, with the rate at which the server gets ahead."""
    rate, work = utilisation / SERVICE, np.random.default_rng(1).exponential(SERVICE, N)
    done = serve(poisson(rate), ONE_BY_ONE, work)
    ahead = 1 / SERVICE - rate

    assert np.mean(done.latency) == pytest.approx(1 / ahead, rel=0.05)
    assert np.quantile(done.latency, 0.99) == pytest.approx(math.log(100) / ahead, rel=0.08)


def test_services_of_any_kind_wait_as_pollaczek_and_khinchine_say() -> None:
    work = np.random.default_rng(2).choice([0.2e-3, 5e-3], N, p=[0.9, 0.1])
    done = serve(poisson(600), ONE_BY_ONE, work)

    assert np.mean(done.latency - work) == pytest.approx(pollaczek_khinchine(600, work), rel=0.06)


@pytest.mark.parametrize("rate", [300, 1500, 2500])
def test_utilisation_is_the_rate_times_what_a_request_takes(rate: float) -> None:
    done = serve(poisson(rate), BATCHING)
    a_request = BATCHING.seconds(done.requests.mean()) / done.requests.mean()

    assert done.busy == pytest.approx(rate * a_request, rel=0.02)


@pytest.mark.parametrize("rate", [300, 1500, 2500])
def test_littles_law_holds_for_what_arriving_requests_see(rate: float) -> None:
    """Poisson arrivals see time averages: they find as many requests there as rate and latency multiply to."""
    done = serve(poisson(rate), BATCHING)
    found = np.arange(N) - np.searchsorted(np.sort(done.left), done.arrived, side="right")

    assert found.mean() == pytest.approx(rate * done.latency.mean(), rel=0.05)


@dataclass
class Waiting:
    """A request in the server's own queue."""

    rows: np.ndarray
    arrived: float
    policy: str = "full"
    deadline: float = math.inf
    gone: bool = False


def batches_of_the_server(instants, replica: Replica) -> list[int]:
    """How many requests its queue gives out at a time, when all that has arrived is in it whenever a batch has ended."""
    queue = BatchQueue(replica.max_batch_size, 10_000)
    coming = [Waiting(np.zeros(replica.rows_per_request), instant) for instant in instants]
    now, found = 0.0, []
    while coming or len(queue):
        now = max(now, coming[0].arrived) if not len(queue) else now
        while coming and coming[0].arrived <= now:
            queue.push(coming.pop(0))
        found.append(len(queue.take(now).batch))
        now += replica.seconds(found[-1])
    return found


@given(arrivals, seconds, seconds, st.integers(1, 3), st.integers(1, 12))
def test_batches_are_those_of_the_servers_queue(instants, batch: float, row: float, rows: int, most: int) -> None:
    replica = Replica(0.0, batch, row, rows * most, rows)

    assert serve(instants, replica).requests.tolist() == batches_of_the_server(instants, replica)


@given(arrivals, replicas)
def test_it_never_rests_while_a_request_is_there(instants, replica: Replica) -> None:
    done = serve(instants, replica)
    firsts = done.arrived[np.cumsum(done.requests) - done.requests]
    ended_before = np.concatenate([[0.0], done.ended[:-1]])

    np.testing.assert_allclose(done.began, np.maximum(firsts, ended_before))


@given(arrivals, replicas)
def test_a_batch_takes_its_work_and_holds_no_more_than_it_may(instants, replica: Replica) -> None:
    done = serve(instants, replica)

    assert done.requests.sum() == len(instants)
    assert 1 <= done.requests.min() <= done.requests.max() <= max(1, replica.max_batch_size // replica.rows_per_request)
    np.testing.assert_allclose(done.ended - done.began, [replica.seconds(n) for n in done.requests], atol=1e-12)


@given(arrivals, replicas)
def test_nobody_overtakes_and_nobody_is_answered_before_the_work_is_done(instants, replica: Replica) -> None:
    done = serve(instants, replica)

    assert (np.diff(done.left) >= 0).all()
    assert (done.latency >= replica.seconds(1) - 1e-12).all()


@given(arrivals, st.integers(1, 5), st.integers(2, 3))
def test_more_replicas_make_no_request_later_where_batching_saves_nothing(instants, few: int, times: int) -> None:
    assert (dealt(instants, ONE_BY_ONE, few * times) <= dealt(instants, ONE_BY_ONE, few) + 1e-12).all()


@pytest.mark.parametrize("rate", [1000, 2500, 6000])
@pytest.mark.parametrize("quantile", [0.5, 0.99])
def test_more_replicas_are_faster_where_it_does(rate: float, quantile: float) -> None:
    """In the mean; a single request may miss a batch that it would have caught."""
    instants = poisson(rate, 20_000)
    found = [np.quantile(dealt(instants, BATCHING, replicas), quantile) for replicas in (1, 2, 4, 8)]

    assert found == sorted(found, reverse=True)


def test_batches_grow_with_the_load_and_make_requests_cheaper() -> None:
    found = [serve(poisson(rate, 20_000), BATCHING).requests.mean() for rate in (10, 1500, 2500, 3200)]

    assert found == sorted(found)
    assert found[0] == pytest.approx(1, abs=0.01)
    assert found[-1] > 10


def test_above_the_capacity_the_queue_grows_and_below_it_does_not() -> None:
    above, below = (serve(poisson(share * BATCHING.capacity, 50_000), BATCHING).latency for share in (1.05, 0.95))

    assert np.median(above[-5000:]) > 3 * np.median(above[5000:10_000])
    assert np.median(below[-5000:]) < 2 * np.median(below[5000:10_000])


def test_pauses_are_waited_for() -> None:
    instants = np.array([0.0, 1.0])
    paused = serve(instants, BATCHING, pauses=np.array([0.0, 0.25]))

    np.testing.assert_allclose(paused.latency - serve(instants, BATCHING).latency, [0.0, 0.25])


def test_the_highest_rate_is_where_the_objective_turns() -> None:
    unit = poisson(1.0, 50_000)
    rate = highest_rate(ONE_BY_ONE, 0.99, 10 * SERVICE, unit)

    assert np.quantile(serve(unit / rate, ONE_BY_ONE).latency, 0.99) <= 10 * SERVICE
    assert np.quantile(serve(unit / (1.01 * rate), ONE_BY_ONE).latency, 0.99) > 10 * SERVICE
    assert highest_rate(ONE_BY_ONE, 0.99, SERVICE / 2, unit) == 0
