"""What votes promise before anyone has voted: independent members, correlated ones, and whatever the dependence. Pure.

Everything here counts wrong votes against right ones, which is exact for two classes. With more, wrong votes can split, and the
error of a vote is at most what is said here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc

from ensembles.bracket import bracket
from ensembles.votes import TIE, Floats

MOST_SUMS = 1 << 20
"""Different sums of weights that are told apart: 20 members with any weights, hundreds with whole ones."""

ROUNDING = 1e-9

CORRELATIONS = (0.05, 0.2, 0.5)
"""Of errors: unlike members at their best, unlike members as they are, the same recipe with another seed."""


def independent_majority_error(errors: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """The error of a majority vote of members that err independently, `errors[i]` of the time and with `weights[i]`, else alike.

    The weight of the wrong votes is Poisson-binomial: the convolution of the members' two-point distributions. A tie of an even
    number counts half. Exact for two classes; with more, wrong votes can split, and this is an upper bound.
    Raises ValueError for an error outside 0 to 1, for none, for a weight that is not above 0, or for more members with
    unlike weights than can be told apart (about 20).
    """
    _check_errors(errors)
    weights = _checked_weights(weights, len(errors))
    if min(weights) == max(weights):
        return float(_wrong_votes(errors) @ _lost(np.arange(len(errors) + 1.0), len(errors)))
    sums, chances = np.zeros(1), np.ones(1)
    for error, weight in zip(errors, weights, strict=True):
        wrong = np.concatenate([sums, sums + weight])
        sums, chances = _merged(wrong, np.concatenate([chances * (1 - error), chances * error]))
    return float(chances @ _lost(sums, sum(weights)))


def _wrong_votes(errors: Sequence[float]) -> Floats:
    """The chance that k members err, k = 0…M. [M + 1]"""
    chances = np.ones(1)
    for error in errors:
        chances = np.convolve(chances, [1 - error, error])
    return chances


def _merged(sums: Floats, chances: Floats) -> tuple[Floats, Floats]:
    """Equal sums, up to the order in which they were added, become one."""
    order = np.argsort(sums, kind="stable")
    sums, chances = sums[order], chances[order]
    first = np.append(True, np.diff(sums) > ROUNDING * sums[-1])
    if np.count_nonzero(first) > MOST_SUMS:
        raise ValueError(f"found more than {MOST_SUMS} different sums of weights, expected fewer or simpler weights")
    return sums[first], np.add.reduceat(chances, np.flatnonzero(first))


def _lost(wrong: Floats, total: float) -> Floats:
    """1 where the wrong votes weigh more than half, 1/2 where just half, else 0."""
    over = wrong / total - 0.5
    return np.where(np.abs(over) <= TIE, 0.5, over > 0)


def beta_binomial_error(
    error: float, members: int, correlation: float, weights: Sequence[float] | None = None
) -> float:
    """The error of a majority vote of members that all err equally often and each two with the same correlation.

    How hard a sample is, is beta-distributed; given it, members err independently. `correlation` 0 is independence, 1 copies. A
    tie counts half. Raises ValueError for an error or a correlation outside 0 to 1, for no members, or for weights as
    `independent_majority_error` does.
    """
    _check_errors([error])
    _check_correlation(correlation)
    if members < 1:
        raise ValueError(f"found {members} members, expected at least 1")
    lost = _lost_by_count(_checked_weights(weights, members))
    return float(_beta_binomial(error, members, correlation) @ lost)


def _beta_binomial(error: float, members: int, correlation: float) -> Floats:
    """The chance that k of the members err, k = 0…M: by the ratio of neighbours, which knows no cancellation. [M + 1]"""
    if correlation == 1 or error in (0, 1):
        ends = np.zeros(members + 1)
        ends[0], ends[-1] = 1 - error, error
        return ends
    k = np.arange(members)
    rising = (members - k) * (k * correlation + error * (1 - correlation))
    falling = (k + 1) * ((members - k - 1) * correlation + (1 - error) * (1 - correlation))
    logs = np.append(0, np.cumsum(np.log(rising) - np.log(falling)))
    chances = np.exp(logs - logs.max())
    shares: Floats = chances / chances.sum()
    return shares


def _lost_by_count(weights: Sequence[float]) -> Floats:
    """The share of the ways in which k of the members can be wrong that lose the vote, k = 0…M. [M + 1]"""
    members, total = len(weights), sum(weights)
    if min(weights) == max(weights):
        return _lost(np.arange(members + 1.0), members)
    ways = [(np.zeros(1), np.ones(1))]
    for weight in weights:
        ways = _with_one_more(ways, weight)
    return np.array([chances @ _lost(sums, total) / chances.sum() for sums, chances in ways])


def _with_one_more(ways: list[tuple[Floats, Floats]], weight: float) -> list[tuple[Floats, Floats]]:
    nobody = (np.zeros(0), np.zeros(0))
    right, wrong = [*ways, nobody], [nobody, *((sums + weight, chances) for sums, chances in ways)]
    return [
        _merged(np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])) for a, b in zip(right, wrong, strict=True)
    ]


def beta_binomial_limit(error: float, correlation: float) -> float:
    """What `beta_binomial_error` tends to with ever more members: the chance that a sample is wrong more often than not."""
    _check_errors([error])
    _check_correlation(correlation)
    if correlation == 1 or error in (0, 1):
        return error
    if correlation == 0:
        return 0.5 if error == 0.5 else float(error > 0.5)
    concentration = 1 / correlation - 1
    return float(betainc((1 - error) * concentration, error * concentration, 0.5))


def break_even_error(best: float) -> float:
    """How often the second and third member may err at most, each, for a majority of the three to err no more than the best.

    All three err independently, the best one `best` of the time: (sqrt(e(1 - e)) - e) / (1 - 2e), written so that it
    stands at 1/2 too. Raises ValueError outside 0 to 1.
    """
    _check_errors([best])
    return best / (math.sqrt(best * (1 - best)) + best) if best else 0.0


def break_even_third_error(best: float, second: float) -> float:
    """The same for the third member, when the second errs `second` of the time: e(1 - s) / (e + s - 2es), at most 1."""
    _check_errors([best, second])
    apart = best + second - 2 * best * second
    return min(1.0, best * (1 - second) / apart) if apart else 1.0


def efficiency(best: float, vote: float, promised: float) -> float | None:
    """How much of the promised gain came true: (best - vote) / (best - promised), all of them errors.

    1 is as if independent, 0 as the best member alone, below 0 worse than it. None where independence promises nothing either.
    """
    return (best - vote) / (best - promised) if best > promised else None


@dataclass(frozen=True, slots=True)
class Correlated:
    """What members that all err at the mean error promise when their errors correlate. `limit`: with ever more of them."""

    correlation: float
    error: float
    limit: float


@dataclass(frozen=True, slots=True)
class Promise:
    """All that can be said of a vote from its members' errors.

    `bracket`: least and most, None for unlike weights, of which it knows nothing. `others_below`: what both a second and a third
    member must stay below to help the best one. `third_below`: the same for a third, given the two best; None for one member.
    """

    errors: tuple[float, ...]
    weights: tuple[float, ...]
    mean_error: float
    double_fault: float | None
    best_error: float
    independent_error: float
    correlated: tuple[Correlated, ...]
    bracket: tuple[float, float] | None
    others_below: float
    third_below: float | None


def promise(
    errors: Sequence[float],
    weights: Sequence[float] | None = None,
    correlations: Sequence[float] = CORRELATIONS,
    double_fault: float | None = None,
) -> Promise:
    """Everything in this file at once, for members with these errors. Raises ValueError as its parts do."""
    independent = independent_majority_error(errors, weights)
    counted = _checked_weights(weights, len(errors))
    mean = math.fsum(errors) / len(errors)
    ranked = sorted(errors)
    alike = min(counted) == max(counted)
    within = bracket(mean, double_fault, len(errors))
    return Promise(
        errors=tuple(errors),
        weights=tuple(counted),
        mean_error=mean,
        double_fault=double_fault,
        best_error=ranked[0],
        independent_error=independent,
        correlated=tuple(
            Correlated(each, beta_binomial_error(mean, len(errors), each, weights), beta_binomial_limit(mean, each))
            for each in correlations
        ),
        bracket=within if alike else None,
        others_below=break_even_error(ranked[0]),
        third_below=break_even_third_error(ranked[0], ranked[1]) if len(errors) > 1 else None,
    )


def _check_errors(errors: Sequence[float]) -> None:
    if not errors or not all(0 <= error <= 1 for error in errors):
        raise ValueError(f"found errors {list(errors)}, expected at least one, each from 0 to 1")


def _check_correlation(correlation: float) -> None:
    if not 0 <= correlation <= 1:
        raise ValueError(f"found correlation {correlation}, expected 0 to 1")


def _checked_weights(weights: Sequence[float] | None, members: int) -> Sequence[float]:
    if weights is None:
        return [1.0] * members
    if len(weights) != members or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"found weights {list(weights)}, expected {members}, each above 0")
    return weights
