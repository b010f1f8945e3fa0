"""One temperature for pooled probabilities: what it makes of them, and which one fits best. Pure.

Tables here lie class by class in memory (`by_class`): what is summed over a few classes is then a sum of long columns, which
takes a tenth of the time that so many short rows take.
"""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import LEAST_PROBABILITY, Ints

COLDEST, HOTTEST = 0.05, 20.0
"""Where temperatures are sought. What lies beyond is no calibration but a member that says nothing."""

GRID = 14
GRID_ROWS = 1000
LEAST_LOG = -1e4
"""Instead of the logarithm of zero: at no temperature that is sought is anything left of it."""

MOST_NLL = -math.log(LEAST_PROBABILITY)
STEPS = 40
LAST_STEP = 1e-3
"""A step of Newton's method that is relatively this small leaves an error of about its square."""

CHUNK_VALUES = 1 << 17

Logs = NDArray[np.float32]
Real = TypeVar("Real", bound=np.floating)


def by_class(table: NDArray[Real]) -> NDArray[Real]:
    """The same [n, K], with each class's numbers side by side in memory."""
    return np.asfortranarray(table)


def logs(probabilities: NDArray[np.floating]) -> Logs:
    """Logarithms [n, K] relative to each row's largest probability."""
    found = by_class(np.maximum(probabilities, 0, dtype=np.float32))
    with np.errstate(divide="ignore"):
        np.log(found, out=found)
    found -= found.max(axis=1, keepdims=True)
    np.maximum(found, LEAST_LOG, out=found)
    return found


def tempered(found: Logs, temperature: float | NDArray[np.float32]) -> NDArray[np.float32]:
    """The probabilities [n, K] with these `logs`, at a temperature: p^(1/T), normalised, as serving does it.

    `temperature`: one for all rows, or one for each, [n, 1].
    """
    shares: NDArray[np.float32] = np.exp(found / np.asarray(temperature, np.float32))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def fit_temperature(probabilities: NDArray[np.floating], y: Ints) -> float:
    """The temperature of pooled probabilities with the least NLL on these rows, from 0.05 to 20.

    `probabilities` [n, K], pooled, as `votes.vote` gives them at temperature 1: scaling belongs after the averaging (Rahaman
    and Thiery, "Uncertainty quantification and deep ensembles", NeurIPS 2021). A temperature that gains nothing is 1. Raises
    ValueError for no rows.
    """
    return fitted(logs(probabilities), y)


def fitted(found: Logs, y: Ints) -> float:
    """The same from the `logs` of the probabilities.

    Sought on a grid over some of the rows, then by Newton's method over them and at last over all: NLL with a floor can have
    several valleys, each of them convex in 1/T but where rows come and go at the floor.
    """
    if not len(y):
        raise ValueError("found no rows, expected at least 1")
    true = found[np.arange(len(y)), y]
    some = slice(None, None, math.ceil(len(y) / GRID_ROWS))
    few, few_true = by_class(found[some]), true[some]
    grid = np.geomspace(1 / HOTTEST, 1 / COLDEST, GRID).tolist()
    best = min(range(GRID), key=lambda place: _nll(few, few_true, grid[place]))
    start = _valley(few, few_true, grid[best], grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)])
    sharpness = _valley(found, true, start, 1 / HOTTEST, 1 / COLDEST) if len(few) < len(found) else start
    return 1 / sharpness if _nll(found, true, sharpness) < _nll(found, true, 1.0) else 1.0


def _valley(found: Logs, true: Logs, sharpness: float, low: float, high: float) -> float:
    """Where the NLL is level, between low and high: as a sharpness, which is 1/T. By halves where Newton's step leads away."""
    for _ in range(STEPS):
        slope, curvature = _slope(found, true, sharpness)
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        newton = sharpness - slope / curvature if curvature > 0 else math.inf
        following = newton if low <= newton <= high else math.sqrt(low * high)
        step, sharpness = abs(following / sharpness - 1), following
        if step <= LAST_STEP:
            break
    return sharpness


def _nll(found: Logs, true: Logs, sharpness: float) -> float:
    """The mean NLL at a sharpness, with the floor of `accuracy.nll_rows`."""
    total, scale = 0.0, np.float32(sharpness)
    for rows in _chunks(found):
        losses = np.log(np.exp(found[rows] * scale).sum(axis=1)) - true[rows] * scale
        total += float(np.minimum(losses, MOST_NLL).sum(dtype=np.float64))
    return total / len(found)


def _slope(found: Logs, true: Logs, sharpness: float) -> tuple[float, float]:
    """Slope and curvature of the summed NLL: by row, mean and variance of the logs, less the true class's; none at the floor."""
    slope, curvature, scale = 0.0, 0.0, np.float32(sharpness)
    for rows in _chunks(found):
        part = found[rows]
        shares = np.exp(part * scale)
        total = shares.sum(axis=1)
        weighted = shares * part
        mean, square = weighted.sum(axis=1) / total, (weighted * part).sum(axis=1) / total
        moves = np.log(total) - true[rows] * scale < MOST_NLL
        slope += float((mean - true[rows]).sum(where=moves, dtype=np.float64))
        curvature += float((square - mean**2).sum(where=moves, dtype=np.float64))
    return slope, curvature


def _chunks(found: Logs) -> list[slice]:
    size = max(64, CHUNK_VALUES // found.shape[1])
    return [slice(start, start + size) for start in range(0, len(found), size)]
