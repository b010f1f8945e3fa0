"""Intervals for what a time line shows. Requests that come one after the other are not independent, blocks of time nearly are. Pure.

The time line's slots are joined to at most 30 blocks, as many as the method of batch means asks for (Schmeiser, "Batch size
effects in the analysis of simulation output", 1982), and the spread between blocks gives the interval.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

from ensembles.estimates import CONFIDENCE, Estimate
from loadtest.histogram import Histogram
from loadtest.stages import Floats

BLOCKS = 30


def joined(slots: Sequence[float] | NDArray[np.generic], most: int = BLOCKS) -> Floats:
    """Sums of neighbouring slots, [at most `most`], each of as many slots as the others or one more."""
    values = np.asarray(slots, np.float64)
    return np.array([part.sum() for part in np.array_split(values, min(most, len(values)))]) if len(values) else values


def share(hits: Floats, totals: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """The share of hits among all, from their numbers in each block, [d] and [d].

    Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated from survey
    data", Survey Methodology 1998: Clopper and Pearson's interval of the effective sample size, which is the number of requests
    divided by the design effect (how much more the blocks' shares spread than independent requests would) and corrected for few
    blocks. Raises ValueError for nothing counted.
    """
    n = float(totals.sum())
    if n < 1:
        raise ValueError("found nothing counted, expected at least one request")
    value = float(hits.sum()) / n
    effective = _effective(hits, totals, value, confidence)
    tail = (1 - confidence) / 2
    successes = value * effective
    low = float(betaincinv(successes, effective - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, effective - successes, 1 - tail)) if successes < effective else 1.0
    return Estimate(value, low, high, round(n))


def _effective(hits: Floats, totals: Floats, value: float, confidence: float) -> float:
    """How many independent requests would tell as much; never more than there are."""
    n = float(totals.sum())
    blocks = int(np.count_nonzero(totals))
    if blocks < 2 or not 0 < value < 1:
        return n
    spread = blocks / (blocks - 1) * float(np.square(hits - value * totals).sum()) / n**2
    independent = value * (1 - value) / n
    few = (_t(math.inf, confidence) / _t(blocks - 1, confidence)) ** 2
    return n / max(1.0, spread / independent) * few


def ratio(numerators: Floats, denominators: Floats, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """The sum of the one over the sum of the other, from both in each block, [d] and [d]; `n`: what was counted in all.

    The linearised variance of a ratio with Student's t (Cochran, "Sampling techniques", 1977, section 6.3). One block has no
    spread and an infinite interval. Raises ValueError for a denominator of 0.
    """
    below = float(denominators.sum())
    if not below:
        raise ValueError("found nothing counted, expected at least one")
    value = float(numerators.sum()) / below
    blocks = int(np.count_nonzero(denominators))
    if blocks < 2:
        return Estimate(value, -math.inf, math.inf, n)
    error = math.sqrt(blocks / (blocks - 1) * float(np.square(numerators - value * denominators).sum())) / below
    half = _t(blocks - 1, confidence) * error
    return Estimate(value, value - half, value + half, n)


def quantile(delays: Histogram, slots: Sequence[Histogram], q: float, confidence: float = CONFIDENCE) -> Estimate:
    """A quantile in seconds; `delays`: all of them, `slots`: the same by slot of the time line.

    Woodruff, "Confidence intervals for medians and other position measures", JASA 1952: the interval of the share of requests
    above the value, turned into durations by the quantiles themselves. Where too few requests lie beyond the quantile to bound
    it, the high end is infinite. Raises ValueError for nothing recorded.
    """
    value = delays.quantile(q)
    above = joined([slot.count - slot.within(value) for slot in slots])
    totals = joined([slot.count for slot in slots])
    seen = 1 - q  # the share above by definition; what the coarse slots count is about that
    found = float(above.sum()) / max(float(totals.sum()), 1.0)
    effective = _effective(above, totals, found, confidence) if 0 < found < 1 else float(delays.count)
    tail = (1 - confidence) / 2
    exceed = seen * effective
    least = float(betaincinv(exceed, effective - exceed + 1, tail)) if exceed > 0 else 0.0
    most = float(betaincinv(exceed + 1, max(effective - exceed, 1e-9), 1 - tail))
    bounded = effective * math.log(q) <= math.log(tail) if 0 < q < 1 else False
    return Estimate(value, delays.quantile(1 - most), delays.quantile(1 - least) if bounded else math.inf, delays.count)


def rate(counts: Sequence[float], seconds: float, confidence: float = CONFIDENCE) -> Estimate:
    """Per second, from what was counted in each slot of `seconds`. Raises ValueError for no slots."""
    return ratio(joined(counts), joined([seconds] * len(counts)), round(sum(counts)), confidence)


def _t(freedom: float, confidence: float) -> float:
    """How many standard errors lie on either side."""
    return float(stdtrit(min(freedom, 1e9), (1 + confidence) / 2))
