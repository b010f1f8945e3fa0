"""When each request is to be sent, for which policy and with which rows: all computed before the run, from the seed. Pure."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from loadtest import stages
from loadtest.stages import Floats, Stage

Ints = NDArray[np.int64]

NANOSECONDS = 1_000_000_000
MOST = 100_000_000
"""Requests in one schedule: 2.4 GB of instants, policies and turns."""

BURSTINESS = 2.0
"""The coefficient of variation of gamma gaps where none is given; 1 would be Poisson."""


class ScheduleError(ValueError):
    """No such schedule. One line."""


class Arrivals(Enum):
    CONSTANT = "constant"
    """Evenly."""
    POISSON = "poisson"
    """Independent of each other, as from many users."""
    GAMMA = "gamma"
    """In bursts: gaps of a gamma distribution, with a coefficient of variation above 1."""
    TRACE = "trace"
    """As recorded."""


@dataclass(frozen=True)
class Schedule:
    """n requests in order of time.

    `nanoseconds` [n] int64: planned instants since the start. `arm` [n] int64: which of the policies. `turn` [n] int64: how many
    requests of the same policy come before, so that all policies walk the data's rows in the same order.
    """

    nanoseconds: Ints
    arm: Ints
    turn: Ints

    def __len__(self) -> int:
        return len(self.nanoseconds)

    @property
    def instants(self) -> Floats:
        """[n], in seconds."""
        return self.nanoseconds / NANOSECONDS

    @cached_property
    def sha256(self) -> str:
        """Of instants and policies, as little-endian int64: equal where, and only where, the schedules are equal."""
        return hashlib.sha256(self.nanoseconds.astype("<i8").tobytes() + self.arm.astype("<i8").tobytes()).hexdigest()

    def part(self, shard: int, of: int) -> "Schedule":
        """What shard `shard` (from 1) of `of` sends: every of-th request. All parts together are the whole. Raises ScheduleError."""
        if not 1 <= shard <= of:
            raise ScheduleError(f"found shard {shard}/{of}, expected 1/{of} to {of}/{of}")
        mine = slice(shard - 1, None, of)
        return Schedule(self.nanoseconds[mine], self.arm[mine], self.turn[mine])

    def rows(self, rows_per_request: int, order: Ints) -> Ints:
        """[n, rows_per_request]: the data's rows that each request sends; `order` [m] is a permutation of them (`row_order`)."""
        starts = self.turn[:, None] * rows_per_request + np.arange(rows_per_request)
        return np.asarray(order[starts % len(order)], np.int64)


def steady(rate: float, seconds: float) -> tuple[Stage, ...]:
    """The stages of one rate. Raises ScheduleError."""
    if not (math.isfinite(rate) and rate > 0):
        raise ScheduleError(f"found a rate of {rate:g} requests/s, expected one above 0")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ScheduleError(f"found a duration of {seconds:g} s, expected one above 0")
    return (Stage(rate, rate, seconds),)


def planned(
    kind: Arrivals, course: Sequence[Stage], seed: int, arms: int = 1, burstiness: float = BURSTINESS
) -> Schedule:
    """Arrivals of these stages. The same arguments give the same bytes. Raises ScheduleError.

    Gaps are drawn at rate 1 and carried over by a change of time, so that a ramp of any kind of arrivals is that kind throughout.
    `burstiness`: the gaps' coefficient of variation, for gamma only.
    """
    if kind is Arrivals.TRACE:
        raise ScheduleError("found a trace, expected its file: it has instants of its own")
    expected = stages.total(course)[1]
    if expected > MOST:
        raise ScheduleError(f"found {expected:,.0f} requests, expected at most {MOST:,}: a lower rate or a shorter run")
    rng = np.random.default_rng([seed, 0])
    variation = 1.0 if kind is Arrivals.POISSON else burstiness
    counts = _even(expected) if kind is Arrivals.CONSTANT else _renewals(rng, variation, expected)
    if not len(counts):
        raise ScheduleError(
            f"found {expected:.2g} requests to expect, expected at least one: a longer run or a higher rate"
        )
    return _shared(stages.instants(course, counts), seed, arms)


def _even(until: float) -> Floats:
    return np.arange(math.ceil(until - 1e-9), dtype=np.float64)


def _renewals(rng: np.random.Generator, variation: float, until: float) -> Floats:
    """Instants below `until` of a process with gaps of mean 1 and this coefficient of variation; exponential ones for 1."""
    if not (math.isfinite(variation) and variation > 0):
        raise ScheduleError(f"found burstiness {variation:g}, expected a coefficient of variation above 0, such as 2")
    found: list[Floats] = []
    reached = 0.0
    while reached < until:
        size = int(until - reached + 6 * variation * math.sqrt(until) + 16)
        gaps = rng.standard_exponential(size) if variation == 1 else rng.gamma(variation**-2, variation**2, size)
        found.append(reached + np.cumsum(gaps))
        reached = float(found[-1][-1])
    instants = np.concatenate(found) if found else np.empty(0)
    return instants[instants < until]


def recorded(text: str, seed: int, arms: int = 1, name: str = "the trace") -> Schedule:
    """Arrivals of a trace: one instant a line, in seconds, in order; more columns, blank lines and lines with # are ignored.

    Counted from the first instant. Raises ScheduleError with the line.
    """
    instants: list[float] = []
    for number, line in enumerate(text.splitlines(), 1):
        cell = line.split("#")[0].replace(",", " ").split()
        if cell:
            instants.append(_instant(cell[0], f"{name}, line {number}", instants))
    if not instants:
        raise ScheduleError(f"{name}: found no instants, expected one a line, in seconds")
    return _shared(np.array(instants) - instants[0], seed, arms)


def _instant(cell: str, where: str, before: Sequence[float]) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ScheduleError(f"{where}: found {cell[:40]!r}, expected an instant in seconds")
    if before and value < before[-1]:
        raise ScheduleError(f"{where}: found {value:g} after {before[-1]:g}, expected instants in order")
    return value


def _shared(instants: Floats, seed: int, arms: int) -> Schedule:
    """Share the requests among the policies in blocks of one each, every block in an order of its own (Fisher's randomised blocks).

    So a noisy moment meets all policies alike, and no policy always follows the same other one.
    """
    nanoseconds = np.rint(instants * NANOSECONDS).astype(np.int64)
    n = len(nanoseconds)
    blocks = -(-n // arms)
    rng = np.random.default_rng([seed, 1])
    arm = rng.permuted(np.tile(np.arange(arms, dtype=np.int64), (blocks, 1)), axis=1).ravel()[:n]
    turn = np.repeat(np.arange(blocks, dtype=np.int64), arms)[:n]
    return Schedule(nanoseconds, arm, turn)


def row_order(rows: int, seed: int) -> Ints:
    """The order in which the data's rows are sent, [rows]: shuffled, as files are often sorted by class."""
    return np.random.default_rng([seed, 2]).permutation(rows).astype(np.int64)
