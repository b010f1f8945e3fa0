"""How good answers are: losses row by row, calibration, paired comparison, selective accuracy. Pure.

Per-row results are arrays of n numbers, so that data in chunks is judged chunk by chunk and joined afterwards.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv, ndtri

from ensembles.estimates import CONFIDENCE, Estimate, Z
from ensembles.votes import LEAST_PROBABILITY, Floats, Ints, Mask

BINS = 15
"""Equal-width bins of confidence, the convention since Guo et al., "On calibration of modern neural networks", ICML 2017."""

CURVE_POINTS = 200


def right(label_index: Ints, y: Ints) -> Mask:
    """Where the answer is the true class, [n]. An abstention, -1, is wrong."""
    found: Mask = label_index == y
    return found


def nll_rows(probabilities: NDArray[np.floating], y: Ints) -> Floats:
    """The negative logarithm of the true class's probability, [n] float64, in nats.

    `probabilities` [n, K], rows summing to one. Below 1e-12 they count as 1e-12 (27.6 nats), so that one zero, which hard votes
    give often, does not make the mean infinite.
    """
    chosen = probabilities[np.arange(len(y)), y].astype(np.float64)
    return -np.log(np.maximum(chosen, LEAST_PROBABILITY))


def brier_rows(probabilities: NDArray[np.floating], y: Ints) -> Floats:
    """The squared distance to the truth, sum over c of (p_c - [y = c])^2, [n] float64: 0 at best, 2 at worst."""
    squares: Floats = np.einsum("nk,nk->n", probabilities, probabilities, dtype=np.float64)
    chosen = probabilities[np.arange(len(y)), y].astype(np.float64)
    return squares - 2 * chosen + 1


@dataclass(frozen=True, slots=True)
class Reliability:
    """How confidence compares with accuracy, in `BINS` equal-width bins. Chunks add up: `Reliability.of(…) + Reliability.of(…)`.

    `count` [BINS] int64: rows whose confidence lies in the bin. `confidence` [BINS]: the sum of theirs.
    `right` [BINS] int64: how many of them are right. `squares` [BINS]: the sum of (confidence - right)^2, for the interval.
    """

    count: Ints
    confidence: Floats
    right: Ints
    squares: Floats

    @classmethod
    def of(cls, confidence: NDArray[np.floating], right: Mask) -> Self:
        """`confidence` [n], 0 to 1: the probability of the answer. `right` [n]."""
        bins = np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)
        squares = np.square(confidence - right, dtype=np.float64)
        return cls(
            count=np.bincount(bins, minlength=BINS),
            confidence=np.bincount(bins, confidence, BINS).astype(np.float64),
            right=np.bincount(bins[right], minlength=BINS),
            squares=np.bincount(bins, squares, BINS).astype(np.float64),
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.count + other.count,
            self.confidence + other.confidence,
            self.right + other.right,
            self.squares + other.squares,
        )

    def ece(self, draws: int = 2000, seed: int = 0) -> Estimate:
        """The expected calibration error: sum over bins of share of rows x |mean confidence - accuracy|.

        The interval comes from the multivariate normal distribution of the bins' gaps (a parametric bootstrap that needs the
        sums only, `draws` times with a fixed seed). Noise alone makes the value larger than 0; so the low end allows for all
        noise there can be: by the triangle inequality the error's error is at most the sum of the gaps' errors. It is exact for
        calibrated probabilities and cautious for others. Raises ValueError for no rows.
        """
        n = int(self.count.sum())
        if n < 1:
            raise ValueError("found no rows, expected at least 1")
        gaps = (self.confidence - self.right) / n
        noise = self._noise(gaps, n, draws, seed)
        value = float(np.abs(gaps).sum())
        tail = (1 + CONFIDENCE) / 2
        low = value - float(np.quantile(np.abs(noise).sum(axis=0), tail))
        high = float(np.quantile(np.abs(gaps[:, None] + noise).sum(axis=0), tail))
        return Estimate(value, max(0.0, low), min(1.0, max(value, high)), n)

    def _noise(self, gaps: Floats, n: int, draws: int, seed: int) -> Floats:
        """Draws from the sampling distribution of the gaps, centred. [BINS, draws]"""
        covariance = (np.diag(self.squares / n) - np.outer(gaps, gaps)) / n
        axes, variances, _ = np.linalg.svd(covariance)
        noise: Floats = (axes * np.sqrt(variances)) @ _normals(draws, seed).T
        return noise


@lru_cache(maxsize=1)
def _normals(draws: int, seed: int) -> Floats:
    """Standard normal numbers [draws, BINS], the same for every error's interval."""
    return np.random.default_rng(seed).standard_normal((draws, BINS))


def paired_gain(right: Mask, other: Mask) -> Estimate:
    """How much more often `right` [n] is true than `other` [n] on the same rows, as a fraction (0.01 is one point).

    The interval is the hull of two. One is exact given the number of rows on which only one of both is right: Clopper and
    Pearson's for the share of them that `right` wins. It excludes 0 just when the exact McNemar test gives p < 0.05, but takes
    that number as fixed and is too narrow for large gains. The other is Bonett and Price's adjusted Wald interval ("Improved
    Wald intervals for the difference of matched proportions", 2012), which covers well and excludes 0 whenever McNemar
    does. So the hull excludes 0 exactly when `mcnemar` is below 0.05. Raises ValueError for no rows.
    """
    n = len(right)
    won, lost = _discordant(right, other)
    if n < 1:
        raise ValueError("found no rows, expected at least 1")
    exact, wald = _exact_interval(won, lost, n), _adjusted_wald_interval(won, lost, n)
    return Estimate((won - lost) / n, min(exact[0], wald[0]), max(exact[1], wald[1]), n)


def mcnemar(right: Mask, other: Mask) -> float:
    """The exact two-sided p-value that two answerers are equally often right; 1.0 where they never differ.

    Under the hypothesis each row on which only one is right falls to either like a coin: twice the smaller binomial tail.
    """
    won, lost = _discordant(right, other)
    return min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5)))


def _discordant(right: Mask, other: Mask) -> tuple[int, int]:
    return int(np.count_nonzero(right & ~other)), int(np.count_nonzero(other & ~right))


def _exact_interval(won: int, lost: int, n: int) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(won, lost + 1, tail)) if won else 0.0
    high = float(betaincinv(won + 1, lost, 1 - tail)) if lost else 1.0
    rate = (won + lost) / n
    return rate * (2 * low - 1), rate * (2 * high - 1)


def _adjusted_wald_interval(won: int, lost: int, n: int) -> tuple[float, float]:
    gains, losses = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * math.sqrt((gains + losses - (gains - losses) ** 2) / (n + 2))
    return max(-1.0, gains - losses - half), min(1.0, gains - losses + half)


def detectable_gain(discordant_rate: float, n: int, power: float = 0.5) -> float:
    """The smallest gain, as a fraction, that n rows can show at the 5% level: 1.96 sqrt(discordant_rate / n).

    `discordant_rate`: the share of rows on which only one of both is right. A true gain of just this size shows in half of all
    studies; `power=0.8` gives the size that shows in four of five (2.8 instead of 1.96).
    """
    return (Z + float(ndtri(power))) * math.sqrt(discordant_rate / n)


def rows_needed(discordant_rate: float, gain: float, power: float = 0.5) -> int:
    """How many rows show a gain of this size, as a fraction above 0: the inverse of `detectable_gain`, at least 1."""
    needed = ((Z + float(ndtri(power))) / gain) ** 2 * discordant_rate
    return max(1, math.ceil(needed - 1e-9))


@dataclass(frozen=True, slots=True)
class Selective:
    """Accuracy of the surest rows against their share.

    `coverage`, `accuracy`, `threshold` [at most 200] float64: answering where the score is at least the threshold answers this
    share of rows with this accuracy; in order of coverage, the last point being all rows.
    `aurc`: the mean error over all coverages (Geifman and El-Yaniv 2017). `augrc`: the mean share of rows that are answered
    wrongly (Traub et al., "Overcoming common flaws in the evaluation of selective classification systems", 2024). Less is better.
    """

    coverage: Floats
    accuracy: Floats
    threshold: Floats
    aurc: float
    augrc: float


def selective(score: NDArray[np.floating], right: Mask) -> Selective:
    """Accuracy against coverage. `score` [n]: how sure the answer is, larger is surer; `right` [n].

    Rows with equal scores come together: areas take the mean over all their orders. Raises ValueError for no rows.
    """
    n = len(right)
    if n < 1:
        raise ValueError("found no rows, expected at least 1")
    order = np.argsort(-score)
    ranked = score[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), n - 1)
    answered = ends + 1.0
    wrong = np.cumsum(~right[order])[ends].astype(np.float64)
    shown = _thinned(answered)
    return Selective(
        coverage=answered[shown] / n,
        accuracy=1 - wrong[shown] / answered[shown],
        threshold=ranked[ends[shown]].astype(np.float64),
        aurc=_mean_risk(answered, wrong, n),
        augrc=float(np.trapezoid(np.append(0, wrong), np.append(0, answered))) / n**2,
    )


def _mean_risk(answered: Floats, wrong: Floats, n: int) -> float:
    """The mean over k = 1…n of the error among the k surest, errors spread evenly within equal scores."""
    k = np.arange(1.0, n + 1)
    return float((np.interp(k, np.append(0, answered), np.append(0, wrong)) / k).mean())


def _thinned(answered: Floats) -> Ints:
    """At most `CURVE_POINTS` of the points, evenly spread over coverage, the last one always."""
    if len(answered) <= CURVE_POINTS:
        return np.arange(len(answered))
    wanted = np.linspace(answered[0], answered[-1], CURVE_POINTS)
    return np.unique(np.searchsorted(answered, wanted))
