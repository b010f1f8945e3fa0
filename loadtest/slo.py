"""Objectives such as `p99<50ms`: read, and held against what was measured. Pure.

A latency objective is about all requests: one that failed or had no answer did not keep it, so that a server which refuses
quickly does not look fast.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ensembles.estimates import Estimate
from ensembles.wording import shown
from loadtest.stages import UNITS


class SloError(ValueError):
    """What was written is no objective. Two lines at most: what is wrong, and where."""


class Unit(Enum):
    SECONDS = "a duration such as 50ms"
    SHARE = "a share such as 0.1% or 0.001"
    RATE = "a rate such as 200/s"
    MONEY = "an amount such as 0.02usd"


@dataclass(frozen=True, slots=True)
class Quantity:
    """What an objective is about."""

    name: str
    unit: Unit
    meaning: str


QUANTITIES = {
    each.name: each
    for each in (
        Quantity("error_rate", Unit.SHARE, "requests that failed or had no answer"),
        Quantity("accuracy", Unit.SHARE, "rows answered rightly"),
        Quantity("agreement", Unit.SHARE, "rows answered as the full ensemble answers them"),
        Quantity("partial_rate", Unit.SHARE, "answers with a member missing"),
        Quantity("mean", Unit.SECONDS, "mean latency"),
        Quantity("max", Unit.SECONDS, "largest latency"),
        Quantity("rows_per_second", Unit.RATE, "rows answered"),
        Quantity("requests_per_second", Unit.RATE, "requests answered"),
        Quantity("cost_per_1k", Unit.MONEY, "cost of 1,000 rows"),
        Quantity("cost_per_1k_right", Unit.MONEY, "cost of 1,000 right answers"),
    )
}
"""Beside the quantiles of latency: `p50`, `p99`, `p99.9` and so on."""

QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")
TERM = re.compile(
    r"\s*(?P<name>[A-Za-z_][\w.]*)\s*(?P<sign><=|>=|<|>)\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>%|[A-Za-zµ/]*)\s*"
)
SCALES = {
    Unit.SECONDS: {**UNITS, "us": 1e-6, "µs": 1e-6},
    Unit.SHARE: {"": 1.0, "%": 0.01},
    Unit.RATE: {"": 1.0, "/s": 1.0},
    Unit.MONEY: {"": 1.0, "usd": 1.0, "USD": 1.0},
}


@dataclass(frozen=True, slots=True)
class Slo:
    """One objective: `quantity` `sign` `limit`, the limit in SI units, shares as fractions."""

    text: str
    quantity: str
    sign: str
    limit: float
    unit: Unit
    quantile: float | None = None
    """Of latency: 0.99 of `p99`; else None."""

    def holds(self, value: float) -> bool:
        found = {
            "<": value < self.limit,
            "<=": value <= self.limit,
            ">": value > self.limit,
            ">=": value >= self.limit,
        }[self.sign]
        return bool(found)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An objective held against a run. `found` is None where nothing was measured of it, and then it is not met."""

    slo: Slo
    met: bool
    found: Estimate | None
    sure: bool
    """Whether the whole interval says the same."""


def parse(text: str) -> Slo:
    """Of `p99<50ms`, `error_rate<0.1%`, `accuracy>=0.97`, `cost_per_1k<0.02usd`. Raises SloError, which shows where."""
    found = TERM.match(text)
    if not found:
        raise _misread(text, _stopped(text), "a quantity, one of < <= > >=, and a number with its unit, like p99<50ms")
    if found.end() != len(text):
        raise _misread(text, found.end(), "nothing more; each objective is an --slo of its own")
    quantile, unit = _quantity(found["name"], text, found.start("name"))
    scale = SCALES[unit].get(found["unit"])
    if scale is None:
        raise _misread(text, found.start("unit"), unit.value)
    if unit is Unit.SECONDS and quantile is not None and found["sign"].startswith(">"):
        raise _misread(text, found.start("sign"), "< or <=: a latency is kept below something")
    return Slo(text.strip(), found["name"], found["sign"], float(found["number"]) * scale, unit, quantile)


def parse_all(texts: Sequence[str]) -> tuple[Slo, ...]:
    """Several; what stands between commas is one each. Raises SloError."""
    return tuple(parse(part) for text in texts for part in text.split(","))


def _quantity(name: str, text: str, place: int) -> tuple[float | None, Unit]:
    quantile = QUANTILE.fullmatch(name)
    if quantile and 0 < float(quantile[1]) < 100:
        return round(float(quantile[1]) / 100, 12), Unit.SECONDS
    if name not in QUANTITIES:
        raise _misread(text, place, f"p50, p99, p99.9 … or one of {', '.join(QUANTITIES)}")
    return None, QUANTITIES[name].unit


def _stopped(text: str) -> int:
    """How far the text is an objective."""
    place = 0
    for pattern in (r"\s*[A-Za-z_][\w.]*", r"\s*(<=|>=|<|>)", r"\s*(\d+(\.\d*)?|\.\d+)"):
        found = re.compile(pattern).match(text, place)
        if not found:
            return place + len(text[place:]) - len(text[place:].lstrip())
        place = found.end()
    return place


def _misread(text: str, place: int, expected: str) -> SloError:
    rest = text[place:]
    found = shown(rest) if rest.strip() else "the end"
    return SloError(f"{shown(text)}, character {place + 1}: found {found}, expected {expected}")
