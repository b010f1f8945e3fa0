"""How many replicas a rate needs, and what they cost, from what one of them carries. Pure.

A replica is planned to carry a share of its capacity, as near to it the tail of latency rises without bound and no balancer deals
evenly. So many replicas must be left when a whole zone has failed, or, within one zone, when some are missing (N+1).
"""

import math
from dataclasses import dataclass

from ensembles.estimates import Estimate

SECONDS_PER_HOUR = 3600


class SizingError(ValueError):
    """No such sizing. One line."""


MOST_REPLICAS = 1e9


@dataclass(frozen=True, slots=True)
class Terms:
    """What is wanted of all sizings. Raises SizingError for what cannot be.

    `headroom`: the share of a replica's capacity that stays free, [0, 1). `spare`: replicas that may be missing. `zones`: of which one
    may fail, where there are two or more. `price_per_hour`: USD of one replica. `mean`: the mean rate as a share of the peak, (0, 1].
    """

    headroom: float = 0.3
    spare: int = 1
    zones: int = 1
    price_per_hour: float = 0.0
    mean: float = 1.0

    def __post_init__(self) -> None:
        for name, value, fine, expected in (
            ("headroom", self.headroom, 0 <= self.headroom < 1, "a share from 0 to below 1"),
            ("spare", self.spare, self.spare >= 0, "at least 0"),
            ("zones", self.zones, self.zones >= 1, "at least 1"),
            ("price", self.price_per_hour, 0 <= self.price_per_hour < math.inf, "at least 0 USD an hour"),
            ("mean", self.mean, 0 < self.mean <= 1, "a share of the peak above 0, up to 1"),
        ):
            if not fine:
                raise SizingError(f"{name}: found {value:g}, expected {expected}")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas for one rate, in requests/s. Intervals are those of the capacity, carried over.

    `utilisation`: of the replicas' capacity at the peak, all of them up; `degraded`: with a zone, or the spare ones, gone.
    `cost_usd_per_1000`: requests at the mean rate, idle time included.
    """

    rate: float
    replicas: Estimate
    utilisation: float
    degraded: float
    cost_usd_per_hour: Estimate
    cost_usd_per_1000: Estimate


def replicas(rate: float, capacity: float, terms: Terms) -> int:
    """For `rate` requests/s, of which a replica carries `capacity`. A multiple of the zones. Raises SizingError for beyond counting."""
    wanted = rate / (capacity * (1 - terms.headroom))
    if wanted > MOST_REPLICAS:
        raise SizingError(
            f"rate: found {rate:g} requests/s, {wanted:.3g} times what a replica carries, expected at most {MOST_REPLICAS:g} times"
        )
    needed = max(1, math.ceil(wanted - 1e-9))
    if terms.zones == 1:
        return needed + terms.spare
    a_zone = max(math.ceil(needed / (terms.zones - 1)), math.ceil((needed + terms.spare) / terms.zones))
    return a_zone * terms.zones


def fleet(rate: float, capacity: Estimate, terms: Terms) -> Fleet:
    """Raises SizingError for a rate that is none, or a capacity that is not above 0."""
    if not 0 < rate < math.inf:
        raise SizingError(f"rate: found {rate:g}, expected requests/s above 0")
    if not 0 < capacity.low <= capacity.value < math.inf:
        raise SizingError(f"capacity: found {capacity.value:g} (from {capacity.low:g}), expected requests/s above 0")
    number, fewest, most = (replicas(rate, each, terms) for each in (capacity.value, capacity.high, capacity.low))
    left = number - (number // terms.zones if terms.zones > 1 else terms.spare)
    counted = Estimate(number, fewest, most, capacity.n)
    an_hour = _scaled(counted, terms.price_per_hour)
    return Fleet(
        rate,
        counted,
        rate / (number * capacity.value),
        rate / (left * capacity.value),
        an_hour,
        _scaled(an_hour, 1000 / (SECONDS_PER_HOUR * terms.mean * rate)),
    )


def _scaled(of: Estimate, by: float) -> Estimate:
    return Estimate(of.value * by, of.low * by, of.high * by, of.n)
