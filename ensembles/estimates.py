"""What was counted or averaged over rows, with its 95% interval. Pure."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from ensembles.votes import Mask

CONFIDENCE = 0.95
Z = float(ndtri((1 + CONFIDENCE) / 2))
"""How many standard errors lie on either side: 1.96."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value measured on `n` rows and the 95% interval around it; `low` and `high` are infinite where nothing is known."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float | int | None]:
        """As it stands in the tools' files. JSON has no infinity and no NaN: they become null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: each if math.isfinite(each) else None for name, each in numbers.items()}, "n": self.n}


def proportion(right: Mask) -> Estimate:
    """The share of rows that are true, with Wilson's score interval. Raises ValueError for no rows.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    return share(int(np.count_nonzero(right)), len(right))


def share(count: float, n: int) -> Estimate:
    """The same from the count, for those who added it up over chunks; a row may count in part."""
    _some(n)
    value = count / n
    shrink = 1 + Z**2 / n
    middle = (value + Z**2 / (2 * n)) / shrink
    half = Z / shrink * math.sqrt(value * (1 - value) / n + (Z / (2 * n)) ** 2)
    low = middle - half if count else 0.0
    high = middle + half if count < n else 1.0
    return Estimate(value, low, high, n)


def mean(values: NDArray[np.floating]) -> Estimate:
    """The mean of per-row numbers [n], with Student's t interval; summed in double precision. Raises ValueError for no rows.

    By the central limit theorem, whatever the numbers' distribution; one row has no spread and an infinite interval.
    """
    n = len(values)
    _some(n)
    value = float(values.mean(dtype=np.float64))
    if n == 1:
        return Estimate(value, -math.inf, math.inf, n)
    error = float(values.std(dtype=np.float64, ddof=1)) / math.sqrt(n)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(value, value - half, value + half, n)


def _some(n: int) -> None:
    if n < 1:
        raise ValueError("found no rows, expected at least 1")
