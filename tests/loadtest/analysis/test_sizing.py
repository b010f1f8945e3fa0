"""Replicas for a rate, from what one carries."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.estimates import Estimate
from loadtest.sizing import SizingError, Terms, fleet, replicas

rates = st.floats(0.1, 1e7)
capacities = st.floats(1, 1e5)
terms = st.builds(Terms, st.floats(0, 0.9), st.integers(0, 3), st.integers(1, 5), st.floats(0, 100), st.floats(0.01, 1))


@pytest.mark.parametrize(
    ("rate", "capacity", "wanted", "expected"),
    [
        (700, 1000, Terms(headroom=0.3, spare=0), 1),
        (701, 1000, Terms(headroom=0.3, spare=0), 2),
        (700, 1000, Terms(headroom=0.3, spare=1), 2),
        (5000, 1200, Terms(headroom=0.3, spare=1), 7),
        (5000, 1200, Terms(headroom=0.3, spare=1, zones=3), 9),
        (5000, 1200, Terms(headroom=0.3, spare=1, zones=2), 12),
        (1, 1000, Terms(headroom=0.3, spare=1, zones=3), 3),
        (1, 1000, Terms(headroom=0.3, spare=3, zones=2), 4),
    ],
)
def test_replicas_of_small_sums(rate: float, capacity: float, wanted: Terms, expected: int) -> None:
    assert replicas(rate, capacity, wanted) == expected


def left(number: int, wanted: Terms) -> int:
    """Replicas that are up at the worst moment that is planned for."""
    zones_up = number - number // wanted.zones if wanted.zones > 1 else number
    return min(zones_up, number - wanted.spare)


@given(rates, capacities, terms)
def test_what_is_left_has_its_headroom(rate: float, capacity: float, wanted: Terms) -> None:
    number = replicas(rate, capacity, wanted)

    assert number % wanted.zones == 0
    assert rate <= left(number, wanted) * capacity * (1 - wanted.headroom) * (1 + 1e-6)


@given(rates, capacities, terms)
def test_one_fewer_in_each_zone_would_not_do(rate: float, capacity: float, wanted: Terms) -> None:
    too_few = left(replicas(rate, capacity, wanted) - wanted.zones, wanted)

    assert too_few < 1 or too_few * capacity * (1 - wanted.headroom) * (1 - 1e-6) < rate


@given(rates, capacities, terms, st.floats(1, 10))
def test_more_traffic_or_slower_replicas_never_need_fewer(
    rate: float, capacity: float, wanted: Terms, times: float
) -> None:
    assert replicas(rate * times, capacity, wanted) >= replicas(rate, capacity, wanted)
    assert replicas(rate, capacity / times, wanted) >= replicas(rate, capacity, wanted)


@given(rates, capacities, terms)
def test_costs_are_replicas_times_price_over_requests(rate: float, capacity: float, wanted: Terms) -> None:
    found = fleet(rate, Estimate(capacity, 0.9 * capacity, 1.2 * capacity, 9), wanted)
    requests_an_hour = 3600 * rate * wanted.mean

    assert found.replicas.low <= found.replicas.value <= found.replicas.high
    assert found.cost_usd_per_hour.value == pytest.approx(found.replicas.value * wanted.price_per_hour)
    assert found.cost_usd_per_1000.high * requests_an_hour / 1000 == pytest.approx(found.cost_usd_per_hour.high)
    assert found.utilisation * found.replicas.value * capacity == pytest.approx(rate)
    assert found.degraded <= 1 - wanted.headroom + 1e-6


def test_a_capacity_without_a_bound_may_need_as_few_as_there_can_be() -> None:
    found = fleet(5000, Estimate(1200, 1100, math.inf, 9), Terms(zones=3)).replicas

    assert (found.low, found.value, found.high) == (3, 9, 12)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"headroom": 1.0}, "headroom: found 1, expected a share from 0 to below 1"),
        ({"spare": -1}, "spare: found -1, expected at least 0"),
        ({"zones": 0}, "zones: found 0, expected at least 1"),
        ({"price_per_hour": math.inf}, "price: found inf, expected at least 0 USD an hour"),
        ({"mean": 0.0}, "mean: found 0, expected a share of the peak above 0, up to 1"),
    ],
)
def test_terms_that_cannot_be_are_told_in_a_line(given: dict, told: str) -> None:
    with pytest.raises(SizingError, match=told):
        Terms(**given)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_that_is_none_is_told(rate: float) -> None:
    with pytest.raises(SizingError, match="expected requests/s above 0"):
        fleet(rate, Estimate(1, 1, 1, 1), Terms())


def test_a_capacity_that_is_none_is_told() -> None:
    with pytest.raises(SizingError, match=r"capacity: found 5 \(from 0\), expected requests/s above 0"):
        fleet(1.0, Estimate(5, 0, 9, 3), Terms())


def test_more_replicas_than_can_be_counted_are_refused() -> None:
    with pytest.raises(SizingError, match="times what a replica carries, expected at most 1e"):
        fleet(1e300, Estimate(1e-300, 1e-300, 1e-300, 1), Terms())
