"""The search for the highest arrival rate that keeps its objectives: what to try next, and what the tries together say. Pure.

Each probe runs the server for a while at one rate and says whether the objectives were kept; near the capacity that is partly
chance. So all probes together are one likelihood over rates, and the next probe is at its median: probabilistic bisection
(Horstein, "Sequential transmission using noiseless feedback", 1963; Waeber, Frazier and Henderson, "Bisection search with noisy
responses", SIAM Journal on Control and Optimization 2013). Probes so gather around the capacity and repeat each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from scipy.special import ndtr

from ensembles.estimates import CONFIDENCE, Estimate
from loadtest import differences
from loadtest.stages import Floats

MOST_PROBES = 12
GROWTH = 2.0
"""By how much the rate rises until objectives are missed; more would overload a server badly before anything is known."""

PRECISION = 0.02
"""Half the interval's relative width at which no further probe is needed …"""
REPEATS = 3
"""… if so many probes were within 5% of the answer."""
NEAR = 0.05

CHANCE = 0.05
"""The spread, in relative rate, of where a probe turns from kept to missed, for probes whose interval holds the limit."""
SURE_CHANCE = 0.02
"""The same for probes whose whole interval lies on one side."""
LAPSE = 0.02
"""The share of probes that say nothing about the rate, such as one beside another process's burst."""
GRID = 4001


class Heard(Enum):
    """What a probe said."""

    KEPT = "kept"
    MISSED = "missed"
    INVALID = "invalid"
    """The load generator could not send at this rate: the server's capacity cannot be found above it."""


@dataclass(frozen=True, slots=True)
class Probe:
    rate: float
    """Requests/s."""
    heard: Heard
    sure: bool = True
    """Whether the whole interval of every objective (kept), or of one that was missed, says so."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found. `rate` is None where no rate that was tried kept the objectives.

    `limited`: the generator, not the server, was the limit; then the capacity is at least the interval's low end.
    """

    rate: Estimate | None
    probes: tuple[Probe, ...]
    limited: bool


@dataclass(slots=True)
class Search:
    """`next_probe` says which rate to try, `observe` takes what it gave, until `next_probe` is None."""

    start: float
    """The first rate, in requests/s: within a factor of 8 of the capacity, better below it."""
    most: int = MOST_PROBES
    probes: list[Probe] = field(default_factory=list)

    def next_probe(self) -> float | None:
        if len(self.probes) >= self.most or self._settled():
            return None
        if not self.probes:
            return self.start
        rates = [probe.rate for probe in self.probes]
        if not self._missed():
            return GROWTH * max(rates)
        if not self._kept():
            return min(rates) / GROWTH
        return min(quantile(self.probes, 0.5), self._ceiling() / 1.02)

    def observe(self, rate: float, heard: Heard, sure: bool = True) -> None:
        self.probes.append(Probe(rate, heard, sure))

    def found(self) -> Found:
        if not self._kept():
            return Found(None, tuple(self.probes), limited=math.isfinite(self._ceiling()))
        tail = (1 - CONFIDENCE) / 2
        value, low, high = (quantile(self.probes, q) for q in (0.5, tail, 1 - tail))
        limited = self._ceiling() <= high * (1 + NEAR)
        if not self._missed():  # the search ended while the rate still grew
            high = math.inf
        return Found(Estimate(value, low, math.inf if limited else high, len(self.probes)), tuple(self.probes), limited)

    def _kept(self) -> bool:
        return any(probe.heard is Heard.KEPT for probe in self.probes)

    def _missed(self) -> bool:
        return any(probe.heard is not Heard.KEPT for probe in self.probes)

    def _ceiling(self) -> float:
        """The least rate that the generator did not manage."""
        return min((probe.rate for probe in self.probes if probe.heard is Heard.INVALID), default=math.inf)

    def _settled(self) -> bool:
        if not (self._kept() and self._missed()):
            return False
        tail = (1 - CONFIDENCE) / 2
        value, low, high = (quantile(self.probes, q) for q in (0.5, tail, 1 - tail))
        near = sum(abs(probe.rate / value - 1) <= NEAR for probe in self.probes)
        return near >= REPEATS and max(high / value, value / low) <= 1 + PRECISION


def likelihood(probes: Sequence[Probe]) -> tuple[Floats, Floats]:
    """Rates on a logarithmic grid, [k], and how likely each is to be the capacity, [k], adding up to one.

    Before any probe all rates from a quarter of the least to four times the greatest rate are alike.
    """
    rates = [probe.rate for probe in probes]
    grid = np.linspace(math.log(min(rates) / 4), math.log(max(rates) * 4), GRID)
    weights = np.ones(GRID)
    for probe in probes:
        spread = SURE_CHANCE if probe.sure else CHANCE
        kept = LAPSE / 2 + (1 - LAPSE) * ndtr((grid - math.log(probe.rate)) / spread)
        weights *= kept if probe.heard is Heard.KEPT else 1 - kept
    return np.exp(grid), weights / weights.sum()


def quantile(probes: Sequence[Probe], q: float) -> float:
    """The rate below which the capacity lies with probability `q`."""
    grid, weights = likelihood(probes)
    return float(np.exp(np.interp(q, np.cumsum(weights), np.log(grid))))


def times(first: Found, other: Found) -> Estimate | None:
    """How many times the traffic of the first the other carries; None where either carries none."""
    if first.rate is None or other.rate is None:
        return None
    more = differences.change(first.rate, other.rate)
    return Estimate(1 + more.value, 1 + more.low, 1 + more.high, more.n)
