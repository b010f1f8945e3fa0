"""How differently members err, and how the vote's errors came about. Pure.

`choices` [n, M] is the class that each member chose, of any integer type (int8 or int16 is enough and small; -1 for none), and
`y` [n] the truth. "Oracle" is the literature's word for what only looks at right or wrong.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ensembles.estimates import CONFIDENCE, Estimate, Z, proportion, share
from ensembles.votes import TIE, Ballot, Floats, Ints, Mask, Rule

Choices = NDArray[np.integer]

TWIN_EXCESS = 0.1
NEAR_COPY = 0.9
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
GROUPS = 50
"""Interleaved groups of rows of the jackknife."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two members side by side, each number with its 95% interval.

    `disagreement`: how often they choose different classes. `double_fault`: how often both are wrong.
    `q`: Yule's Q of being right, from -1 to 1, 0 for independence. `correlation`: of their errors (phi).
    `kappa`: Fleiss' of being right: 1 for copies, 0 for independence of equally good ones.
    Formulas: Kuncheva and Whitaker, "Measures of diversity in classifier ensembles", Machine Learning 2003.
    """

    a: str
    b: str
    disagreement: Estimate
    double_fault: Estimate
    q: Estimate
    kappa: Estimate
    correlation: Estimate


def pairs(choices: Choices, y: Ints, names: Sequence[str]) -> tuple[Pair, ...]:
    """All pairs of members, in the order of `names`.

    Intervals of q, kappa and correlation: 2,000 draws from the posterior of the pair's 2x2 table (Dirichlet, Jeffreys' prior,
    fixed seed), which also says something where a cell is empty. Where a member never errs there is nothing to
    correlate: q and correlation are 0. Members that are both always right, or both never, have kappa 1.
    """
    chosen = [np.ascontiguousarray(column) for column in choices.T]
    wrong = [column != y for column in chosen]
    return tuple(
        _pair(names[i], names[j], proportion(chosen[i] != chosen[j]), _table(wrong[i], wrong[j]))
        for i, j in combinations(range(len(chosen)), 2)
    )


def _pair(a: str, b: str, disagreement: Estimate, table: Floats) -> Pair:
    drawn = np.random.default_rng(0).dirichlet(table + 0.5, 2000)
    n = disagreement.n
    values = _measures(table / n)
    low, high = np.quantile(_measures(drawn), TAILS, axis=-1)
    ends = zip(values.tolist(), np.minimum(values, low).tolist(), np.maximum(values, high).tolist(), strict=True)
    q, kappa, correlation = (Estimate(*each, n) for each in ends)
    return Pair(a, b, disagreement, share(int(table[3]), n), q, kappa, correlation)


def _measures(table: Floats) -> Floats:
    """Q, kappa and correlation of 2x2 tables [..., 4]: [3, ...]"""
    cells = np.moveaxis(table, -1, 0)
    return np.stack([_q(cells), _kappa(cells), _correlation(cells)])


def _table(wrong: Mask, other: Mask) -> Floats:
    """How many rows both are right on, only the first, only the second, neither. [4]"""
    neither = np.count_nonzero(wrong & other)
    second, first = np.count_nonzero(wrong) - neither, np.count_nonzero(other) - neither
    return np.array([len(wrong) - first - second - neither, first, second, neither], np.float64)


def _q(table: Floats) -> Floats:
    both, first, second, neither = table
    together, apart = both * neither, first * second
    return _ratio(together - apart, together + apart)


def _correlation(table: Floats) -> Floats:
    both, first, second, neither = table
    spread = (both + first) * (second + neither) * (both + second) * (first + neither)
    return np.clip(_ratio(both * neither - first * second, np.sqrt(spread)), -1, 1)


def _kappa(table: Floats) -> Floats:
    both, first, second, _ = table
    right = both + (first + second) / 2
    return 1 - _ratio(first + second, 2 * right * (1 - right))


def _ratio(above: Floats, below: Floats) -> Floats:
    """0 where there is nothing to divide by."""
    some = below > 0
    return np.where(some, above / np.where(some, below, 1), 0.0)


def twins(found: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs whose errors go together far more than the others'.

    Twins are a pair whose correlation of errors is, at the low end of its interval, more than `TWIN_EXCESS` above the median of
    all pairs; or more than `NEAR_COPY`, however alike the others are; or whose choices never differ.
    """
    if not found:
        return ()
    typical = float(np.median([pair.correlation.value for pair in found]))
    bar = min(typical + TWIN_EXCESS, NEAR_COPY)
    return tuple(pair for pair in found if pair.correlation.low > bar or not pair.disagreement.value)


def der(choices: Choices, y: Ints) -> Estimate:
    """The disagreement-error ratio: how often two members drawn with replacement disagree, over the mean error.

    Above 1 votes tend to help much, below 1 little (Theisen et al., "When are ensembles really effective?", NeurIPS 2023). The
    interval is that of a ratio of means, by linearisation. 0 where nobody errs. Raises ValueError for no rows.
    """
    n, members = choices.shape
    if n < 1:
        raise ValueError("found no rows, expected at least 1")
    disagreement = 1 - _agreeing(choices) / members**2
    error = (choices != y[:, None]).mean(axis=1)
    if not error.any():
        return Estimate(0.0, 0.0, 0.0, n)
    value = float(disagreement.mean() / error.mean())
    half = Z * float((disagreement - value * error).std()) / (float(error.mean()) * math.sqrt(n))
    return Estimate(value, max(0.0, value - half), value + half, n)


def _agreeing(choices: Choices) -> Floats:
    """How many of the M x M ordered pairs of members choose the same class, row by row. [n]"""
    columns = [np.ascontiguousarray(column) for column in choices.T]
    pairs_agreeing = np.zeros(len(choices))
    for column, other in combinations(columns, 2):
        pairs_agreeing += column == other
    return len(columns) + 2 * pairs_agreeing


def improvement_bounds(ratio: float, classes: int) -> tuple[float, float]:
    """Between what the error-improvement rate, (mean error - vote's error) / mean error, lies, given the DER.

    It holds for `competent` members under an unweighted majority vote (Theisen et al., NeurIPS 2023, theorems 1 and 2).
    """
    return 2 * (classes - 1) / classes * ratio - (3 * classes - 4) / classes, ratio


def competent(choices: Choices, y: Ints) -> bool:
    """Whether rows that narrowly win outnumber those that narrowly lose, at every width.

    With W the share of members that are wrong on a row: P(t <= W < 1/2) >= P(1/2 <= W <= 1 - t) for all t from 0 to 1/2. An even
    number of members must never be half wrong.
    """
    members = choices.shape[1]
    wrong = np.bincount((choices != y[:, None]).sum(axis=1), minlength=members + 1)
    half = (members + 1) // 2
    return all(wrong[k:half].sum() >= wrong[half : members - k + 1].sum() for k in range(members // 2 + 1))


def kappa(choices: Choices, y: Ints) -> Estimate:
    """Fleiss' kappa of being right over all members: 1 for copies, 0 for independent ones that are equally good.

    1 where all are always right. Interval as for `correlation`. Raises ValueError for no rows or fewer than two members.
    """
    return _jackknife(choices, y, _pool_kappa)


def correlation(choices: Choices, y: Ints) -> Estimate:
    """The mean correlation of errors over all pairs of members; pairs with one that never errs count 0.

    The interval: Student's t on the delete-a-group jackknife over `GROUPS` interleaved groups of rows. Raises ValueError for no
    rows or fewer than two members.
    """
    return _jackknife(choices, y, _mean_correlation)


def effective_votes(mean_correlation: Estimate, members: int) -> Estimate:
    """How many independent votes M correlated ones are worth: M / (1 + (M - 1) correlation); infinite below its least value."""

    def worth(correlation: float) -> float:
        spread = 1 + (members - 1) * correlation
        return members / spread if spread > 0 else math.inf

    found = mean_correlation
    return Estimate(worth(found.value), worth(found.high), worth(found.low), found.n)


def _jackknife(choices: Choices, y: Ints, measure: Callable[[Floats], Floats]) -> Estimate:
    """A function of how often each two members are wrong together, [M, M] rates."""
    n, members = choices.shape
    if n < 1 or members < 2:
        raise ValueError(f"found {n} rows and {members} members, expected at least 1 and 2")
    wrong = choices != y[:, None]
    groups = min(GROUPS, n)
    joint = np.stack([_joint(wrong[first::groups]) for first in range(groups)])
    value = float(measure(joint.sum(axis=0) / n))
    if groups == 1:
        return Estimate(value, -math.inf, math.inf, n)
    rows = np.array([len(wrong[first::groups]) for first in range(groups)], np.float64)
    without = measure((joint.sum(axis=0) - joint) / (n - rows)[:, None, None])
    error = float(without.std()) * math.sqrt(groups - 1)
    half = float(stdtrit(groups - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(value, value - half, value + half, n)


def _joint(wrong: Mask) -> Floats:
    """How many rows each two members are both wrong on; single precision counts them exactly up to 16 million."""
    ones = wrong.astype(np.float32)
    return (ones.T @ ones).astype(np.float64)


def _mean_correlation(joint: Floats) -> Floats:
    error = np.diagonal(joint, axis1=-2, axis2=-1)
    spread = np.sqrt(error * (1 - error))
    together = joint - error[..., :, None] * error[..., None, :]
    return _mean_of_pairs(np.clip(_ratio(together, spread[..., :, None] * spread[..., None, :]), -1, 1))


def _pool_kappa(joint: Floats) -> Floats:
    error = np.diagonal(joint, axis1=-2, axis2=-1)
    apart = _mean_of_pairs(error[..., :, None] + error[..., None, :] - 2 * joint)
    mean = error.mean(axis=-1)
    return 1 - _ratio(apart, 2 * mean * (1 - mean))


def _mean_of_pairs(square: Floats) -> Floats:
    above = np.triu_indices(square.shape[-1], 1)
    mean: Floats = square[..., above[0], above[1]].mean(axis=-1)
    return mean


@dataclass(frozen=True, slots=True)
class Mistakes:
    """Where the answer's errors came from, row by row; the first three split the errors. Each [n] bool.

    `all_wrong`: no member was right, and the answer was wrong. `wrong_majority`: some member was right, but the
    others outvoted it. `lost_ties`: the right class had as many votes as any, and the tie rule lost it; hard votes only, for soft
    rules such rows are in `wrong_majority`.
    `rescued`: no error; no member was right and the answer was all the same, which soft rules can do: a class that
    is everybody's second can come first.
    """

    all_wrong: Mask
    wrong_majority: Mask
    lost_ties: Mask
    rescued: Mask

    @property
    def hopeless(self) -> Mask:
        """No member was right: the floor of all rules that answer with some member's choice, hard votes and cascades."""
        return self.all_wrong | self.rescued


def mistakes(choices: Choices, label_index: Ints, y: Ints, ballot: Ballot) -> Mistakes:
    """Split the errors of the answers `label_index` [n] (-1, an abstention, is one) that `ballot` gave to these votes."""
    wrong = label_index != y
    some_right = (choices == y[:, None]).any(axis=1)
    tied = _right_class_leads(choices, y, ballot.weights) if ballot.rule is Rule.MAJORITY else np.zeros_like(wrong)
    return Mistakes(
        all_wrong=wrong & ~some_right,
        wrong_majority=wrong & some_right & ~tied,
        lost_ties=wrong & some_right & tied,
        rescued=~wrong & ~some_right,
    )


def _right_class_leads(choices: Choices, y: Ints, weights: Floats) -> Mask:
    """Whether no class has more weight behind it than the right one."""
    columns = [np.ascontiguousarray(column) for column in choices.T]

    def behind(chosen: Choices) -> Floats:
        total = np.zeros(len(y))
        for column, weight in zip(columns, weights, strict=True):
            total += weight * (column == chosen)
        return total

    most = np.zeros(len(y))
    for column in columns:
        np.maximum(most, behind(column), out=most, where=column >= 0)
    leads: Mask = behind(y) >= most - TIE * weights.sum()
    return leads
