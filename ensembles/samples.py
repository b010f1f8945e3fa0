"""Labelled rows in files. Sizes are read from the headers and checked before an array is made; nothing is unpickled."""

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ensembles.wording import one_line

MAX_BYTES = 1 << 32
EPOCH = (1980, 1, 1, 0, 0, 0)


class SamplesError(ValueError):
    """The file holds no usable rows. One line: what was found and what was expected."""


def read_npz(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], classes: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """x [n, *shape] of `dtype` and y int64 [n] with 0 <= y < classes, n >= 1. Raises SamplesError."""
    try:
        with zipfile.ZipFile(path) as archive:
            x = _array(archive, "x", dtype, (None, *shape))
            y = _array(archive, "y", np.dtype(np.int64), (None,))
    except SamplesError:
        raise
    except Exception as error:  # zipfile and its decompressors have many ways to say that a file is damaged
        raise SamplesError(f"expected an .npz file, found {one_line(error)}") from None
    if len(x) != len(y) or not len(y):
        raise SamplesError(f"found {len(x)} rows of x and {len(y)} of y, expected equal numbers, at least 1")
    if y.min() < 0 or y.max() >= classes:
        raise SamplesError(f"y: found label {y.min() if y.min() < 0 else y.max()}, expected 0 to {classes - 1}")
    return x, y


def _array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], expected: tuple[int | None, ...]) -> NDArray[Any]:
    try:
        entry = archive.open(f"{name}.npy")
    except KeyError:
        raise SamplesError(f"{name}: missing, expected arrays x and y") from None
    with entry as stream:
        shape, fortran, found = header(stream, name)
        fits = len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))
        fits = fits and shape[0] >= 0
        if found != dtype or not fits or fortran:
            want = ["n" if e is None else e for e in expected]
            raise SamplesError(f"{name}: found {found} {list(shape)}, expected {dtype} {want}".replace("'n'", "n"))
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size > MAX_BYTES:
            raise SamplesError(f"{name}: found {size} bytes, expected at most {MAX_BYTES}")
        content = stream.read(size)
        if len(content) != size or stream.read(1):
            raise SamplesError(f"{name}: found {len(content)} bytes or more, expected {size}")
    return np.frombuffer(content, dtype).reshape(shape)


def header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it lies in Fortran's order, and dtype of a .npy stream. Raises SamplesError."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except Exception as error:  # numpy reads the header as Python, and raises whatever that raises
        raise SamplesError(f"{name}: expected a plain .npy array, found {one_line(error)}") from None
    return shape, fortran and len(shape) > 1, dtype


def write_npz(path: Path, x: NDArray[Any], y: NDArray[np.int64]) -> None:
    """Write rows so that the same rows always give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in (("x", x), ("y", y)):
            entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
