"""How two independent estimates differ, from their own intervals. Pure.

The method of variance estimates recovery keeps each interval's skew (Zou and Donner, "Construction of confidence limits about
effect measures: a general approach", Statistics in Medicine 2008). Estimates that rise and fall together make it cautious.
"""

import math

import numpy as np
from scipy.special import ndtri

from ensembles.estimates import Estimate
from loadtest.stages import Floats


def difference(a: Estimate, b: Estimate) -> Estimate:
    """`b` less `a`."""
    value = b.value - a.value
    low = value - math.hypot(b.value - b.low, a.high - a.value)
    high = value + math.hypot(b.high - b.value, a.value - a.low)
    return Estimate(value, low, high, min(a.n, b.n))


def change(a: Estimate, b: Estimate) -> Estimate:
    """`b` over `a`, less one: 0.1 is 10% more. From the difference of the logarithms; infinite where `a` may be 0."""
    if min(a.value, b.value) <= 0:
        value = 0.0 if a.value == b.value else math.inf if a.value <= 0 else -1.0
        return Estimate(value, -1.0, math.inf, min(a.n, b.n))
    found = difference(_log(a), _log(b))
    return Estimate(_less_one(found.value), _less_one(found.low), _less_one(found.high), found.n)


def _log(of: Estimate) -> Estimate:
    low = math.log(of.low) if of.low > 0 else -math.inf
    return Estimate(math.log(of.value), low, math.log(of.high), of.n)


def _less_one(log: float) -> float:
    return math.expm1(log) if log < 700 else math.inf


def paired(gains: Floats, confidence: float) -> Estimate:
    """The mean of what each row gained, -1 to 1, [n]: an interval that stays honest where few rows differ, or none.

    Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", Journal of
    Educational and Behavioral Statistics 2012: as if one more row had been won and one more lost. Raises ValueError for no rows.
    """
    n = len(gains)
    if n < 1:
        raise ValueError("found no rows, expected at least 1")
    middle, spread = float(gains.sum()) / (n + 2), (float(np.square(gains).sum()) + 2) / (n + 2)
    half = float(ndtri((1 + confidence) / 2)) * math.sqrt((spread - middle**2) / (n + 2))
    return Estimate(float(gains.mean()), max(-1.0, middle - half), min(1.0, middle + half), n)


def quotient(above: Estimate, below: Estimate) -> Estimate:
    """`above` over `below`, which must be shown to differ from 0; else the interval is infinite.

    Donner and Zou, "Closed-form confidence intervals for functions of the normal mean and standard deviation", Statistical
    Methods in Medical Research 2012; Fieller's interval where both are symmetric.
    """
    if below.high < 0:
        return quotient(_negative(above), _negative(below))
    if above.value < 0:
        return _negative(quotient(_negative(above), below))
    n = min(above.n, below.n)
    value = above.value / below.value if below.value else math.nan
    if below.low <= 0:
        return Estimate(value, -math.inf, math.inf, n)
    return Estimate(
        value,
        _end(above.value, below.value, above.low, below.high, -1),
        _end(above.value, below.value, above.high, below.low, 1),
        n,
    )


def _end(above: float, below: float, limit: float, other: float, side: int) -> float:
    """One end, from the values and that limit of both which pushes to this side."""
    curve = other * (2 * below - other)
    if not math.isfinite(limit + other) or curve <= 0:  # so skewed that only the interval's own ends are sure
        return limit / other
    product = above * below
    root = math.sqrt(max(product**2 - limit * (2 * above - limit) * curve, 0.0))
    return (product + side * root) / curve


def _negative(of: Estimate) -> Estimate:
    return Estimate(-of.value, -of.high, -of.low, of.n)
