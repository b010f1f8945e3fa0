"""Labelled data, read in batches: .npz files, folders of class folders of pictures, zips of them.

A row is in memory only while its batch is. Whatever the files hold may be hostile: sizes are read from headers and compared
before bytes are read, nothing is unpickled or extracted, and no path leaves the folder.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ensembles import folders, pictures
from ensembles.samples import SamplesError
from ensembles.samples import header as npy_header
from ensembles.spec import ImageSpec, InputSpec
from ensembles.wording import one_line

Rows = NDArray[Any]
Ints = NDArray[np.int64]

MAX_ROWS = 100_000_000
NAMED = 5
"""How many unreadable pictures a message names."""


class DatasetError(ValueError):
    """The data cannot be used. One line: what was found and what was expected."""


class Batch(NamedTuple):
    """Rows [b, *shape], their places in the data set, `places` [b], and those of rows that cannot be read, `unreadable`."""

    rows: Rows
    places: Ints
    unreadable: Ints


class Dataset(Protocol):
    """Labelled rows on disk, always in the same order."""

    @property
    def name(self) -> str:
        """Of the file, as users know it."""

    @property
    def y(self) -> Ints:
        """The label of each row, [n] int64."""

    @property
    def digest(self) -> str:
        """sha256 of all that rows and labels are made of."""

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows, at most `size` at a time, in order. Raises DatasetError."""

    def rows(self, places: Ints) -> Rows:
        """The rows at these ascending places [k]."""

    def row_names(self, places: Ints) -> list[str]:
        """What the rows at these places are called: their files, or their numbers."""


def read(path: Path, given: InputSpec, labels: Sequence[str]) -> Dataset:
    """The labelled data at `path`: `FILE.npz` with x and y, a folder or `FILE.zip` with a folder of pictures a class.

    `path#PART` chooses the part, such as `test`, where class folders stand under several. Raises DatasetError.
    """
    with _faults_told(path):
        file, part = _split(path)
        if not file.exists():
            raise DatasetError(f"{file}: found nothing, expected an .npz file, a folder or a zip of class folders")
    with _faults_told(file):
        data = _npz(file, given, labels) if file.suffix == ".npz" else _pictures(file, part, given, labels)
    check_classes(path.name, data.y)
    return data


def check_classes(name: str, y: Ints) -> None:
    """Raises DatasetError unless there are rows of two classes at least."""
    if not len(y):
        raise DatasetError(f"{name}: found no rows, expected labelled rows of at least 2 classes")
    if (y == y[0]).all():
        raise DatasetError(f"{name}: found one class only, number {y[0]}, expected at least 2")


def refuse_unreadable(data: Dataset, places: Ints) -> None:
    """Raises DatasetError naming the unreadable rows at `places`, if there are any."""
    if len(places):
        names = ", ".join(data.row_names(places[:NAMED])) + (", …" if len(places) > NAMED else "")
        raise DatasetError(
            f"{data.name}: found {len(places)} unreadable of {len(data.y)} images ({names}), "
            "expected PNG or JPEG; --skip-bad goes on without them"
        )


@contextmanager
def _faults_told(file: Path) -> Iterator[None]:
    """Whatever is wrong with the data at `file` as a DatasetError, which names it."""
    try:
        yield
    except DatasetError:
        raise
    except (SamplesError, folders.FolderError) as error:
        raise DatasetError(f"{file}: {error}") from None
    except folders.DAMAGE as error:
        raise DatasetError(f"{file}: expected an intact .npz file, found {one_line(error)}") from None
    except OSError as error:
        raise DatasetError(f"{file}: found {error.strerror or error}, expected readable data") from None


def _split(path: Path) -> tuple[Path, str]:
    text, mark, part = str(path).partition("#")
    return (path, "") if not mark or path.exists() else (Path(text), part.strip("/"))


def _digest(content: str, given: InputSpec, labels: Sequence[str]) -> str:
    what = [content, given.model_dump(mode="json"), list(labels)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------------- .npz


@dataclass(frozen=True, slots=True)
class Npz:
    """x [n, *shape] and y [n] in an .npz file, x compressed or not."""

    name: str
    y: Ints
    digest: str
    path: Path
    given: InputSpec

    def batches(self, size: int) -> Iterator[Batch]:
        with _faults_told(self.path), zipfile.ZipFile(self.path) as archive, archive.open("x.npy") as stream:
            npy_header(stream, "x")
            for start in range(0, len(self.y), size):
                places = np.arange(start, min(start + size, len(self.y)))
                content = stream.read(len(places) * self.given.row_bytes)
                yield Batch(
                    np.frombuffer(content, self.given.dtype).reshape(len(places), *self.given.shape), places, places[:0]
                )

    def rows(self, places: Ints) -> Rows:
        found = [np.empty((0, *self.given.shape), self.given.dtype)]
        for batch in self.batches(4096):
            if not len(places) or batch.places[0] > places[-1]:
                break
            found.append(batch.rows[np.isin(batch.places, places)])
        return np.concatenate(found)

    def row_names(self, places: Ints) -> list[str]:
        return [f"row {row}" for row in places]


def _npz(file: Path, given: InputSpec, labels: Sequence[str]) -> Npz:
    with zipfile.ZipFile(file) as archive:
        with _entry(archive, "x") as stream:
            rows = _checked_header(archive, stream, "x", given.dtype, given.shape)
        with _entry(archive, "y") as stream:
            y = _labels(archive, stream)
    if rows != len(y):
        raise DatasetError(f"{file}: found {rows} rows of x and {len(y)} of y, expected equal numbers")
    if len(y) and (y.min() < 0 or y.max() >= len(labels)):
        worst = y.min() if y.min() < 0 else y.max()
        raise DatasetError(f"{file}: y: found label {worst}, expected 0 to {len(labels) - 1}")
    return Npz(file.name, y, _digest(folders.sha256(file), given, labels), file, given)


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    try:
        return archive.open(f"{name}.npy")
    except KeyError:
        raise SamplesError(f"{name}: missing, expected arrays x and y") from None


def _checked_header(
    archive: zipfile.ZipFile, stream: IO[bytes], name: str, dtype: np.dtype[Any] | None, shape: tuple[int, ...]
) -> int:
    """How many rows of `shape` there are: what the header says, and the entry's size bears out."""
    found, fortran, found_dtype = npy_header(stream, name)
    wanted = found_dtype.kind in "iu" if dtype is None else found_dtype == dtype
    if not wanted or found[1:] != shape or len(found) != 1 + len(shape) or fortran:
        expected = ", ".join(map(str, ["n", *shape]))
        raise SamplesError(
            f"{name}: found {found_dtype} {list(found)}{' in Fortran order' if fortran else ''}, "
            f"expected {dtype or 'whole numbers'} [{expected}]"
        )
    if found[0] > MAX_ROWS:
        raise SamplesError(f"{name}: found {found[0]} rows, expected at most {MAX_ROWS}")
    size = archive.getinfo(f"{name}.npy").file_size - stream.tell()
    expected_size = int(np.prod(found, dtype=object)) * found_dtype.itemsize
    if size != expected_size:
        raise SamplesError(f"{name}: found {size} bytes, expected {expected_size}")
    return found[0]


def _labels(archive: zipfile.ZipFile, stream: IO[bytes]) -> Ints:
    rows = _checked_header(archive, stream, "y", None, ())
    stream.seek(0)
    _, _, dtype = npy_header(stream, "y")
    y = np.frombuffer(stream.read(rows * dtype.itemsize), dtype)
    if dtype.kind == "u" and rows and y.max() > np.iinfo(np.int64).max:
        raise SamplesError(f"y: found label {y.max()}, expected a class")
    return y.astype(np.int64)


# --------------------------------------------------------------------------------------------------------------- images


def _pictures(file: Path, part: str, given: InputSpec, labels: Sequence[str]) -> "Pictures":
    if given.image is None:
        expected = "an .npz file or an input.image in the manifest (`ensembles export --image`)"
        raise DatasetError(f"{file}: found images, expected {expected}")
    place: folders.Place = folders.Folder(file) if file.is_dir() else folders.Archive(file)
    listed = folders.by_class(place.names(), labels, part)
    names = tuple(entry.name for entry in listed)
    digest = _digest(place.digest(names), given, labels)
    y = np.array([entry.label for entry in listed], np.int64)
    return Pictures(file.name + ("#" + part if part else ""), y, digest, file, place, names, given, given.image)


@dataclass(frozen=True, slots=True)
class Pictures:
    """A picture a row, in the order of the classes and then of the names."""

    name: str
    y: Ints
    digest: str
    path: Path
    place: folders.Place
    files: tuple[str, ...]
    given: InputSpec
    image: ImageSpec

    def batches(self, size: int) -> Iterator[Batch]:
        with _faults_told(self.path), self.place.reader() as reader:
            for start in range(0, len(self.files), size):
                places = np.arange(start, min(start + size, len(self.files)))
                rows = [self._row(reader, place) for place in places.tolist()]
                good = np.array([row is not None for row in rows])
                yield Batch(self._stacked(rows), places[good], places[~good])

    def _stacked(self, rows: Sequence[Rows | None]) -> Rows:
        good = [row for row in rows if row is not None]
        return np.array(good, self.given.dtype).reshape(len(good), *self.given.shape)

    def _row(self, reader: folders.Reader, place: int) -> Rows | None:
        try:
            return pictures.row(reader(self.files[place]), self.given, self.image)
        except pictures.PictureError:
            return None

    def rows(self, places: Ints) -> Rows:
        with _faults_told(self.path), self.place.reader() as reader:
            return self._stacked([self._row(reader, place) for place in places.tolist()])

    def row_names(self, places: Ints) -> list[str]:
        return [self.files[row] for row in places]
