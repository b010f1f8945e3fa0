"""The search for the capacity, against a simulated server whose capacity is known."""

import math

import pytest

from loadtest import capacity, judging, slo
from loadtest.capacity import MOST_PROBES, Heard, Search

SERVICE_RATE, LIMIT = 1000.0, 0.050
CAPACITY = SERVICE_RATE - math.log(100) / LIMIT
"""The rate at which p99 of an M/M/1 queue reaches the limit: 908 requests/s."""

OBJECTIVES = slo.parse_all(["p99<50ms"])


def run_search(probe, start: float, most: int = MOST_PROBES) -> capacity.Found:
    search = Search(start, most)
    while (rate := search.next_probe()) is not None:
        search.observe(rate, *probe(rate))
    return search.found()


def known(limit: float):
    return lambda rate: (Heard.KEPT if rate <= limit else Heard.MISSED, True)


@pytest.mark.parametrize("start", [100.0, 300.0, 700.0, 1500.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_capacity_of_a_simulated_server_is_found_within_5_percent_in_12_probes(simulated, seed, start) -> None:
    """Each probe is 20 s of random arrivals and services, judged by its measured p99."""
    seeds = iter(range(1000 * seed, 1000 * seed + 99))

    def probe(rate: float) -> tuple[Heard, bool]:
        run = simulated(next(seeds), rate=rate, service_rate=SERVICE_RATE, seconds=20.0)
        (outcome,) = judging.judged(run, run.arms[0], OBJECTIVES)
        return (Heard.KEPT if outcome.met else Heard.MISSED), outcome.sure

    found = run_search(probe, start)

    assert len(found.probes) <= 12
    assert found.rate.value == pytest.approx(CAPACITY, rel=0.05)
    assert found.rate.low < found.rate.value < found.rate.high < 1.25 * found.rate.low


@pytest.mark.parametrize("limit", [10.0, 90.0, 101.0, 333.3, 799.0])
def test_a_limit_without_chance_is_found_within_2_percent(limit: float) -> None:
    found = run_search(known(limit), start=100.0)

    assert found.rate.value == pytest.approx(limit, rel=0.02)
    assert found.rate.low <= limit <= found.rate.high


def test_probes_around_the_answer_are_repeated() -> None:
    found = run_search(known(500.0), start=100.0)

    assert sum(abs(probe.rate / found.rate.value - 1) < 0.05 for probe in found.probes) >= 3


def test_one_probe_beside_a_burst_does_not_lead_astray() -> None:
    heard = {3: Heard.MISSED}
    count = iter(range(99))

    def probe(rate: float) -> tuple[Heard, bool]:
        return heard.get(next(count), Heard.KEPT if rate < 1000 else Heard.MISSED), False

    assert run_search(probe, start=200.0).rate.value == pytest.approx(1000, rel=0.08)


def test_the_rate_grows_by_no_more_than_double() -> None:
    rates = []

    def probe(rate: float) -> tuple[Heard, bool]:
        rates.append(rate)
        return known(5000.0)(rate)

    run_search(probe, start=100.0)
    assert all(later <= 2 * max(rates[:place]) for place, later in enumerate(rates) if place)


def test_a_generator_that_cannot_go_on_bounds_the_search_from_above_only() -> None:
    found = run_search(lambda rate: (Heard.KEPT if rate < 400 else Heard.INVALID, True), start=100.0)

    assert found.limited
    assert found.rate.high == math.inf
    assert found.rate.low == pytest.approx(400, rel=0.1)


def test_a_server_that_keeps_nothing_has_no_capacity() -> None:
    found = run_search(lambda rate: (Heard.MISSED, True), start=100.0)

    assert found.rate is None and not found.limited
    assert len(found.probes) == 12


def test_how_many_times_the_traffic_has_its_interval() -> None:
    first, other = (run_search(known(limit), start=100.0) for limit in (500.0, 700.0))
    found = capacity.times(first, other)

    assert found.low < found.value < found.high
    assert found.value == pytest.approx(1.4, rel=0.04)
    assert capacity.times(run_search(lambda rate: (Heard.MISSED, True), 100.0), other) is None
