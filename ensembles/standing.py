"""How one way to answer stands: how often it is right, how well its probabilities say so, what it takes. Pure, by chunks.

A way to answer is some members and a rule; a member alone is an ensemble of one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ensembles import estimates
from ensembles.accuracy import Reliability, brier_rows, nll_rows, right
from ensembles.estimates import Estimate, Z
from ensembles.temperature import Logs, by_class, fitted, logs, tempered
from ensembles.votes import Ballot, Floats, Ints, Mask, Result, Rule, part, vote

CHUNK_VALUES = 1 << 18
"""Numbers of the table that are in memory at a time."""

FIT_ROWS = 10_000
"""More rows than this say no more about a single temperature."""

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Table:
    """All members' votes on labelled rows, and how they are counted.

    `names` [M]; `scores`: probabilities, float32 [n, K] for each member, may be mapped from files; `y` [n] int64.
    `ballot`: the rule, weights and tie rule of the manifest. `runs`: rows and seconds of runs, [b, 2] for each member.
    """

    names: tuple[str, ...]
    scores: tuple[NDArray[np.float32], ...]
    y: Ints
    ballot: Ballot
    runs: tuple[Floats, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.scores) == len(self.runs) == len(self.ballot.weights) >= 1:
            raise ValueError("a bug: names, scores, runs and weights of unlike numbers of members")

    def stacked(self, members: Sequence[int], rows: slice | Ints) -> NDArray[np.float32]:
        """[r, m, K] for some rows and members."""
        return np.stack([self.scores[member][rows] for member in members], axis=1)

    def chunks(self, rows: int) -> Iterator[slice]:
        """Of so many rows, a bounded number at a time."""
        size = max(64, CHUNK_VALUES // (len(self.scores) * self.scores[0].shape[1]))
        for start in range(0, rows, size):
            yield slice(start, min(start + size, rows))


@dataclass(frozen=True, slots=True)
class Way:
    """Which members answer, and by which rule."""

    members: tuple[int, ...]
    rule: Rule

    def answer(self, table: Table, rows: slice | Ints) -> Result:
        """The answers to some rows, at temperature 1."""
        return vote(table.stacked(self.members, rows), self.ballot(table))

    def answers(self, table: Table, rows: Ints | None = None) -> Iterator[tuple[slice | Ints, Result]]:
        """The same for these rows, or for all, in pieces: which rows, and their answers."""
        for chunk in table.chunks(len(table.y) if rows is None else len(rows)):
            piece = chunk if rows is None else rows[chunk]
            yield piece, self.answer(table, piece)

    def ballot(self, table: Table) -> Ballot:
        """The manifest's ballot for these members and this rule."""
        return replace(part(table.ballot, np.array(self.members)), rule=self.rule, temperature=1.0)


def alone(member: int) -> Way:
    """A member by itself."""
    return Way((member,), Rule.PROBABILITY_AVERAGE)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the probabilities are worth: mean NLL (nats), Brier score, expected calibration error, and the bins behind it."""

    nll: Estimate
    brier: Estimate
    ece: Estimate
    reliability: Reliability


@dataclass(frozen=True, slots=True)
class Standing:
    """`right` [n], `label_index` [n] and `margin` [n] are those of each row.

    `plain` is at temperature 1; `calibrated` after a temperature fitted to the pooled probabilities of the other half of the rows.
    `temperature` is the geometric mean of the two.
    """

    way: Way
    right: Mask
    label_index: NDArray[np.int32]
    margin: NDArray[np.float32]
    accuracy: Estimate
    plain: Calibration
    calibrated: Calibration
    temperature: float
    seconds_per_1000: Estimate


def stand(table: Table, way: Way, seed: int = 0) -> Standing:
    """Judge one way to answer on all rows of the table, each row at a temperature that it did not help to fit."""
    first_half = _halves(len(table.y), seed)
    fitting = _fitting(first_half, seed)
    known = [_Piece.of(rows, result) for rows, result in way.answers(table, fitting)]
    for_first, for_second = _fitted_elsewhere(known, first_half, table.y)
    plain, calibrated = _Losses(), _Losses()
    label_index = np.empty(len(table.y), np.int32)
    margin = np.empty(len(table.y), np.float32)
    every = known if fitting is None else (_Piece.of(rows, result) for rows, result in way.answers(table))
    for piece in every:
        rows, y = piece.rows, table.y[piece.rows]
        label_index[rows], margin[rows] = piece.label_index, piece.margin
        correct = right(piece.label_index, y)
        plain.add(piece.probabilities, correct, y)
        temperature = np.where(first_half[rows], for_first, for_second).astype(np.float32)
        calibrated.add(tempered(piece.logs, temperature[:, None]), correct, y)
    correct = right(label_index.astype(np.int64), table.y)
    return Standing(
        way=way,
        right=correct,
        label_index=label_index,
        margin=margin,
        accuracy=estimates.proportion(correct),
        plain=plain.calibration(),
        calibrated=calibrated.calibration(),
        temperature=math.sqrt(for_first * for_second),
        seconds_per_1000=seconds_per_1000(table, way.members),
    )


def labels(table: Table, way: Way, rows: Ints) -> Ints:
    """The answers to some rows alone, [r]; -1 is an abstention."""
    found = [np.empty(0, np.int64), *(result.label_index for _, result in way.answers(table, rows))]
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class _Piece:
    """The answers to some rows. `probabilities`, `logs` [r, K] are those of `temperature.by_class`."""

    rows: slice | Ints
    label_index: Ints
    margin: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    logs: Logs

    @classmethod
    def of(cls, rows: slice | Ints, result: Result) -> Self:
        probabilities = by_class(result.probabilities)
        return cls(rows, result.label_index, result.margin, probabilities, logs(probabilities))


class _Losses:
    """Losses of rows, chunk by chunk."""

    def __init__(self) -> None:
        self._nll: list[Floats] = []
        self._brier: list[Floats] = []
        self._reliability: list[Reliability] = []

    def add(self, probabilities: NDArray[np.floating], correct: Mask, y: Ints) -> None:
        self._nll.append(nll_rows(probabilities, y))
        self._brier.append(brier_rows(probabilities, y))
        self._reliability.append(Reliability.of(probabilities.max(axis=1), correct))

    def calibration(self) -> Calibration:
        reliability = self._reliability[0]
        for more in self._reliability[1:]:
            reliability += more
        nll, brier = np.concatenate(self._nll), np.concatenate(self._brier)
        return Calibration(estimates.mean(nll), estimates.mean(brier), reliability.ece(), reliability)


def _halves(n: int, seed: int) -> Mask:
    """A random half of n rows."""
    half = np.zeros(n, np.bool_)
    half[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    return half


def _fitting(first_half: Mask, seed: int) -> Ints | None:
    """The rows that temperatures are fitted on, in order: at most `FIT_ROWS` of either half; None for all."""
    if len(first_half) <= 2 * FIT_ROWS:
        return None
    halves = (np.flatnonzero(half) for half in (~first_half, first_half))
    chosen = [np.random.default_rng(seed).choice(half, FIT_ROWS, replace=False) for half in halves]
    return np.sort(np.concatenate(chosen))


def _fitted_elsewhere(pieces: Sequence[_Piece], first_half: Mask, y: Ints) -> tuple[float, float]:
    """The temperature for rows of the first half, fitted on the second's; and the other way round."""
    found = np.concatenate([piece.logs for piece in pieces])
    of_first, truth = (np.concatenate([each[piece.rows] for piece in pieces]) for each in (first_half, y))
    first, second = (
        fitted(by_class(found[half]), truth[half]) if half.any() else 1.0 for half in (~of_first, of_first)
    )
    return first, second


def seconds_per_1000(table: Table, members: Sequence[int]) -> Estimate:
    """Seconds that the members' runs take for 1,000 rows, one member after the other.

    A ratio of sums over runs; its interval by linearisation, runs taken as independent. `n` counts runs.
    """
    means, variances, runs = 0.0, 0.0, 0
    for member in members:
        rows, seconds = table.runs[member].T
        mean = seconds.sum() / rows.sum()
        spread = (seconds - mean * rows).std() / rows.mean()
        means, variances, runs = means + mean, variances + spread**2 / len(rows), runs + len(rows)
    half = Z * np.sqrt(variances)
    return Estimate(float(1000 * means), float(1000 * max(0.0, means - half)), float(1000 * (means + half)), runs)


def cost(seconds: Estimate, price_per_hour: float) -> Estimate:
    """USD for these seconds of one device."""
    price = price_per_hour / SECONDS_PER_HOUR
    return Estimate(seconds.value * price, seconds.low * price, seconds.high * price, seconds.n)
