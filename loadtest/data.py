"""The rows that are sent: labelled ones from a file, or numbers by chance."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.targets.answers import Description
from loadtest.targets.datatypes import DTYPES

RANDOM_ROWS = 64


class DataError(ValueError):
    """Data that cannot be sent; one line."""


@dataclass(frozen=True, slots=True)
class Data:
    """`x` [n, *shape] in the datatype of the target's input; `y` int64 [n], None without labels. `name`: of the file, and what it holds."""

    x: NDArray[Any]
    y: NDArray[np.int64] | None
    name: str

    @property
    def truth(self) -> dict[int, int]:
        """Row to class index."""
        return {} if self.y is None else dict(enumerate(self.y.tolist()))


def load(path: Path | None, description: Description, seed: int) -> Data:
    """From an .npz file with `x` and perhaps `y`; without one, random rows that depend on the seed alone. Raises DataError."""
    dtype = DTYPES.get(description.datatype)
    if dtype is None:
        raise DataError(f"found an input of datatype {description.datatype}, expected one of {', '.join(DTYPES)}")
    if path is None:
        return Data(_random(description, dtype, seed), None, f"{RANDOM_ROWS} random rows")
    arrays = _arrays(path)
    x = _fitting(path, arrays["x"], dtype, description)
    y = _labels(path, arrays["y"], len(x), len(description.labels)) if "y" in arrays else None
    return Data(x, y, f"{path.name}, {len(x)} rows, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}")


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    expected = "expected an .npz file with x and perhaps y"
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile) or "x" not in file:
                raise DataError(f"{path}: found no x, {expected}")
            return {name: file[name] for name in ("x", "y") if name in file}
    except OSError as error:
        raise DataError(f"{path}: found {error.strerror or 'no such format'}, {expected}") from None
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{path}: found {error}, {expected}") from None


def _fitting(path: Path, x: NDArray[Any], dtype: np.dtype[Any], description: Description) -> NDArray[Any]:
    expected = (
        f"expected {description.datatype} [rows, {', '.join(map(str, description.shape))}], as {description.name} takes"
    )
    same = x.ndim == len(description.shape) + 1 and all(
        size in {-1, found} for size, found in zip(description.shape, x.shape[1:], strict=True)
    )
    if not same or not len(x) or not np.can_cast(x.dtype, dtype, "safe"):
        raise DataError(f"{path}: found x {x.dtype} {list(x.shape)}, {expected}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{path}: found values in x that are not finite, expected numbers")
    return np.ascontiguousarray(x, dtype)


def _labels(path: Path, y: NDArray[Any], rows: int, classes: int) -> NDArray[np.int64]:
    if y.shape != (rows,) or y.dtype.kind not in "iu":
        raise DataError(f"{path}: found y {y.dtype} {list(y.shape)}, expected class indices as integers [{rows}]")
    if y.min() < 0 or (classes and y.max() >= classes):
        raise DataError(f"{path}: found classes from {y.min()} to {y.max()} in y, expected 0 to {classes - 1}")
    return y.astype(np.int64)


def _random(description: Description, dtype: np.dtype[Any], seed: int) -> NDArray[Any]:
    if any(size < 0 for size in description.shape):
        raise DataError(
            f"found an input of shape {list(description.shape)}, where -1 is any size; expected --data FILE"
        )
    rng = np.random.default_rng([seed, 3])
    shape = (RANDOM_ROWS, *description.shape)
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 128, shape).astype(dtype)
