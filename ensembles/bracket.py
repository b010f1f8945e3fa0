"""What the error of a majority vote can be, whatever the members' dependence, from two moments of how many err. Pure."""

import math

import numpy as np

from ensembles.votes import Floats, Ints, Mask

ROUNDING = 1e-9


def bracket(mean_error: float, double_fault: float | None, members: int, classes: int = 2) -> tuple[float, float]:
    """Between what the error of an unweighted majority vote lies, whatever the dependence.

    `double_fault`: how often two members are wrong together, the mean over all pairs; None where it is unknown. The least and
    the most that any distribution of the number of wrong votes with these two moments allows: a linear programme with three
    equations. For three members it is max(d, 6e - 3d - 2) to min(3d, 2e - d). The low end takes ties as won and the wrong votes as
    split over all wrong classes, the high end takes ties as lost and the wrong votes as one; so it holds for every tie rule.
    Raises ValueError for numbers outside 0 to 1 or that no members can have together.
    """
    if not 0 <= mean_error <= 1:
        raise ValueError(f"found errors {[mean_error]}, expected at least one, each from 0 to 1")
    least, most = double_fault_range(mean_error, members)
    wrong = np.arange(members + 1)
    square = None
    if double_fault is not None and members > 1:
        if not least - ROUNDING <= double_fault <= most + ROUNDING:
            raise ValueError(
                f"found double fault {double_fault:g}, expected {least:.4g} to {most:.4g}, which is what "
                f"{members} members with mean error {mean_error:g} can have"
            )
        square = min(max(double_fault, least), most) * members * (members - 1) + mean_error * members
    surely, possibly = -(-wrong // (classes - 1)) > members - wrong, wrong >= members - wrong
    mean = mean_error * members
    return _least(surely, mean, square), 1 - _least(~possibly, mean, square)


def _least(counted: Mask, mean: float, square: float | None) -> float:
    """The least chance of the counted numbers of wrong votes, those from or up to some number, over all distributions on 0…M.

    `mean`, `square`: of the number of wrong votes and its square; the square is None where anything goes. The optimum of a
    linear programme with so few equations lies on as many numbers.
    """
    edge = int(np.argmax(counted != counted[0]))
    if not edge:
        return float(counted[0])
    supports = _pairs(len(counted)) if square is None else _touching(edge, len(counted))
    chances = _chances(supports.astype(np.float64), mean, square)
    possible = (chances >= -ROUNDING).all(axis=1)
    least = (chances * counted[supports]).sum(axis=1)[possible].min()
    return float(np.clip(least, 0, 1))


def _pairs(numbers: int) -> Ints:
    """All pairs of numbers below `numbers`. [pairs, 2]"""
    return np.stack(np.triu_indices(numbers, 1), axis=1)


def _touching(edge: int, numbers: int) -> Ints:
    """Threes of numbers below `numbers` of which one must be the optimum's, for what is counted on one side of the edge. [s, 3]

    By duality, where a parabola touches a step from below: at two neighbours, or at both ends of a side of the step, and once more.
    """
    first = np.arange(numbers - 1)
    twos = np.concatenate([np.stack([first, first + 1], axis=1), [[0, edge - 1], [edge, numbers - 1]]])
    third = np.tile(np.arange(numbers), len(twos))
    threes = np.column_stack([np.repeat(twos, numbers, axis=0), third])
    distinct = (threes[:, 0] != threes[:, 1]) & (threes[:, :2] != third[:, None]).all(axis=1)
    kept: Ints = threes[distinct]
    return kept


def _chances(numbers: Floats, mean: float, square: float | None) -> Floats:
    """How probable each of the two or three numbers [s, k] must be, negative where they cannot have these moments."""

    def chance(column: int) -> Floats:
        others = np.delete(numbers, column, axis=1)
        apart = mean - others[:, 0] if square is None else square - others.sum(axis=1) * mean + others.prod(axis=1)
        chances: Floats = apart / (numbers[:, [column]] - others).prod(axis=1)
        return chances

    return np.stack([chance(column) for column in range(numbers.shape[1])], axis=1)


def double_fault_range(mean_error: float, members: int) -> tuple[float, float]:
    """The least and the most that the mean double fault can be: errors as evenly spread as can be, and copies."""
    if members < 2:
        return mean_error, mean_error
    wrong = mean_error * members
    whole = math.floor(wrong + ROUNDING)
    together = whole * (whole - 1) + 2 * whole * (wrong - whole)
    return max(0.0, together / (members * (members - 1))), mean_error
