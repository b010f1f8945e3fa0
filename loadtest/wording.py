"""Numbers as people read them: with their unit, and with as many digits as their interval bears out. Pure."""

import math
from collections.abc import Callable

from ensembles.estimates import Estimate
from ensembles.verdict import count, dollars, percent, seconds

__all__ = ["LOTS", "amount", "change", "count", "interval", "percent", "points", "rate", "seconds", "span", "usd"]

Show = Callable[[float], str]


def usd(value: float) -> str:
    """An amount of either sign; small ones in powers of ten."""
    if not math.isfinite(value):
        return "unbounded"
    return f"−{dollars(-value)}" if value < 0 else dollars(value)


def points(gain: Estimate) -> str:
    """A difference of shares, in percentage points: `+1.9 points (95% interval +0.6 to +3.2)`."""
    return _points(gain, signed)


def by(gain: Estimate) -> str:
    """The same of one that is above 0 for sure: `1.9 points (95% interval 0.6 to 3.2)`."""
    return _points(gain, lambda value, digits: f"{value:.{digits}f}")


def _points(gain: Estimate, shown: Callable[[float, int], str]) -> str:
    """With more digits where more rows bear them out."""
    value, low, high = (shown(100 * each, 2 if gain.n >= 5000 else 1) for each in (gain.value, gain.low, gain.high))
    return f"{value} points (95% interval {low} to {high})"


def signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text.replace("−", "±").replace("+", "±") if float(f"{value:.{digits}f}") == 0 else text


def change(value: float) -> str:
    """A relative change: 0.1 is `+10.0%`."""
    return "unbounded" if not math.isfinite(value) else f"{signed(100 * value, 1)}%"


def rate(value: float) -> str:
    """Per second."""
    return f"{value:,.0f}/s" if value >= 100 else f"{value:.3g}/s"


def interval(of: Estimate, shown: Show) -> str:
    """`12.3 ms (95% interval 11.9 to 12.8 ms)`, with a function that shows one number."""
    return f"{shown(of.value)} (95% interval {span(of.low, of.high, shown)})"


def span(low: float | None, high: float | None, shown: Show) -> str:
    """`11.9 to 12.8 ms`, the unit once; an end that is unknown (None or infinite) says so."""
    ends = [shown(end) if end is not None and math.isfinite(end) else "" for end in (low, high)]
    if all(ends):
        return f"{without_unit(*ends)} to {ends[1]}"
    return f"at least {ends[0]}" if ends[0] else f"at most {ends[1]}" if ends[1] else "unknown"


def without_unit(text: str, other: str) -> str:
    """The text without its unit, if the other has the same."""
    unit = _unit(text)
    return text.removesuffix(unit) if unit == _unit(other) else text


def _unit(text: str) -> str:
    """What stands behind the last digit."""
    last = max((place for place, letter in enumerate(text) if letter.isdigit()), default=-1)
    return text[last + 1 :]


def amount(value: float | None) -> str:
    """A duration, in the unit that suits; a dash for none."""
    return "–" if value is None or not math.isfinite(value) else seconds(value)


LOTS = {1: "one", 1_000: "1,000", 1_000_000: "a million", 1_000_000_000: "a billion"}
"""How many rows or answers a price is said for."""

LEAST_PRICE = 5e-4
"""USD; what is less is said for a larger lot, as nobody reads powers of ten."""


def lot(each: float, least: int = 1) -> int:
    """For how many the price is said, of something that costs `each` USD."""
    return next((n for n in LOTS if n >= least and n * abs(each) >= LEAST_PRICE), max(LOTS) if each else 1_000)
