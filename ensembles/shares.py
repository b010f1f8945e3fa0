"""Which of the labelled rows do what in an export: each row has one part, so that rows that chose nothing are the judges."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles import dataset
from ensembles.dataset import Dataset, DatasetError
from ensembles.spec import InputSpec

Ints = NDArray[np.int64]

LEAST_ROWS = 8
SAMPLE_ROWS = 1000
CHOOSING_ROWS = 512


@dataclass(frozen=True, slots=True)
class Labelled:
    """x [n, *shape] of the input's dtype and y int64 [n]."""

    x: NDArray[Any]
    y: Ints


@dataclass(frozen=True, slots=True)
class Shares:
    """`samples` go into the repository, `choosing` sets the ranges of integers, `judging` measures accuracy; both may lack."""

    samples: Labelled
    choosing: Labelled | None = None
    judging: Labelled | None = None

    @property
    def real(self) -> NDArray[Any]:
        """Rows for what needs real rows and no labels."""
        return (self.judging or self.samples).x


def read(path: Path, given: InputSpec, labels: tuple[str, ...], seed: int = 0) -> Labelled:
    """All rows of the data at `path`, in an order drawn by `seed`. Raises DatasetError."""
    data = dataset.read(path, given, labels)
    rows = _rows(data, np.arange(len(data.y)))
    # folders come class by class, and a server replays only the first few thousand
    order = np.random.default_rng(seed).permutation(len(data.y))
    return Labelled(rows.x[order], rows.y[order])


def split(
    path: Path,
    given: InputSpec,
    labels: tuple[str, ...],
    samples: Labelled | None,
    most: int,
    seed: int = 0,
) -> Shares:
    """The data at `path` in parts drawn by `seed`: a quarter to choose by (at most 512 rows), where there are no `samples` yet
    a quarter for them (at most 1,000), and of the rest at most `most` to judge by. Raises DatasetError.
    """
    data = dataset.read(path, given, labels)
    rows = len(data.y)
    if rows < LEAST_ROWS:
        raise DatasetError(f"{path}: found {rows} rows, expected at least {LEAST_ROWS}")
    order = np.random.default_rng(seed).permutation(rows)
    ends = np.cumsum([0 if samples else min(SAMPLE_ROWS, rows // 4), min(CHOOSING_ROWS, rows // 4), most])
    kept, choosing, judging, _ = (np.sort(part) for part in np.split(order, ends))
    return Shares(samples or _rows(data, kept), _rows(data, choosing), _rows(data, judging))


def _rows(data: Dataset, index: Ints) -> Labelled:
    x = data.rows(index)
    if len(x) != len(index):
        raise DatasetError(
            f"{data.name}: found {len(index) - len(x)} unreadable images of {len(index)}, expected PNG or JPEG"
        )
    return Labelled(x, data.y[index])
