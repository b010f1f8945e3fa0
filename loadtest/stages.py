"""How the arrival rate runs over time: constant pieces and ramps. Pure."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h)?")
EXPECTED = "expected stages like 10-100:30s,100:1m (a rate or a ramp, a colon, a duration)"


class StagesError(ValueError):
    """What was written is no duration or no stages. One line."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The rate goes evenly from `start` to `end` requests/s within `seconds`."""

    start: float
    end: float
    seconds: float

    @property
    def requests(self) -> float:
        """Expected in all of it."""
        return (self.start + self.end) / 2 * self.seconds


def duration(text: str) -> float:
    """Seconds of `30`, `30s`, `1.5m`, `500ms` or `1h`. Raises StagesError."""
    found = DURATION.fullmatch(text.strip())
    if not found:
        raise StagesError(f"found {text!r}, expected a duration like 30s, 1.5m or 500ms")
    return float(found[1]) * UNITS[found[2] or "s"]


def parse(text: str) -> tuple[Stage, ...]:
    """Of `10-100:30s,100:1m`: 30 s from 10 to 100 requests/s, then a minute at 100. Raises StagesError, which shows where."""
    return tuple(_stage(part, text) for part in text.split(","))


def _stage(part: str, text: str) -> Stage:
    rates, colon, lasting = part.partition(":")
    start, dash, end = rates.partition("-")
    try:
        stage = Stage(float(start), float(end if dash else start), duration(lasting))
    except ValueError:
        raise StagesError(f"found {part.strip()!r} in {text!r}, {EXPECTED}") from None
    if not colon or not all(map(math.isfinite, (stage.start, stage.end))) or min(stage.start, stage.end) < 0:
        raise StagesError(f"found {part.strip()!r} in {text!r}, {EXPECTED}")
    if stage.seconds <= 0:
        raise StagesError(f"found {part.strip()!r} in {text!r}, expected a stage that lasts")
    return stage


def total(stages: Sequence[Stage]) -> tuple[float, float]:
    """How many seconds, and how many requests are expected in them."""
    return sum(stage.seconds for stage in stages), sum(stage.requests for stage in stages)


def instants(stages: Sequence[Stage], counts: Floats) -> Floats:
    """When, in seconds, the expected number of requests so far reaches each of `counts` [n]: the inverse of the summed rate.

    A process of rate 1 becomes one of these stages by this change of time (Çinlar, "Introduction to stochastic processes", 1975,
    section 4.7). Counts must lie within 0 and the stages' requests.
    """
    starts = np.cumsum([0.0, *(stage.requests for stage in stages)])
    times = np.cumsum([0.0, *(stage.seconds for stage in stages)])
    places = np.clip(np.searchsorted(starts, counts, side="right") - 1, 0, len(stages) - 1)
    found = np.empty(len(counts))
    for place, stage in enumerate(stages):
        mine = places == place
        found[mine] = times[place] + _within(stage, counts[mine] - starts[place])
    return found


def _within(stage: Stage, counts: Floats) -> Floats:
    """Solves start t + slope t^2 / 2 = count for t, in the form that does not cancel."""
    slope = (stage.end - stage.start) / stage.seconds
    roots = np.sqrt(np.maximum(stage.start**2 + 2 * slope * counts, 0))
    below = stage.start + roots
    return np.divide(2 * counts, below, out=np.zeros(len(counts)), where=below > 0)
