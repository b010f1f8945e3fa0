"""What is left to chance in a training: each time from (seed, what for, when) alone, so that nobody need remember a state."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Chance(IntEnum):
    """What a random generator is for."""

    SPLIT = 0
    BAG = 1
    ORDER = 2
    AUGMENT = 3


def chance(seed: int, purpose: Chance, *when: int) -> np.random.Generator:
    """A generator that depends on these numbers alone."""
    return np.random.default_rng((seed, purpose, *when))


@dataclass(frozen=True, slots=True)
class Split:
    """Which rows to train on, and which to calibrate by; ascending."""

    training: Ints
    calibration: Ints


def split(y: Ints, rows: int, seed: int) -> Split:
    """Hold out `rows` of the rows labelled `y` int64 [n], each class in its share as near as whole rows allow."""
    shuffled = chance(seed, Chance.SPLIT).permutation(len(y))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    evenly = (2 * np.arange(rows) + 1) * len(y) // (2 * rows)
    held_out = by_class[evenly]
    return Split(np.setdiff1d(np.arange(len(y)), held_out), np.sort(held_out))


def bag(rows: Ints, share: float | None, seed: int) -> Ints:
    """A sample with replacement of this share of the rows (Breiman 1996), or all of them. At least 2."""
    if share is None:
        return rows
    return chance(seed, Chance.BAG).choice(rows, max(2, round(share * len(rows))))


def batches(rows: Ints, size: int, seed: int, epoch: int) -> list[Ints]:
    """The rows of an epoch in a new order, `size` at a time.

    A last batch that is not full is left out, unless it is the only one: every epoch leaves out others.
    """
    order = chance(seed, Chance.ORDER, epoch).permutation(rows)
    return [order[step * size : (step + 1) * size] for step in range(max(1, len(rows) // size))]
