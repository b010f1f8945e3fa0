"""Files in a folder or a zip, and which class each belongs to by the folder that it lies in.

Nothing is extracted, links that leave the folder are refused, and a zip is judged by what it declares before it is read.
"""

import hashlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from ensembles.wording import one_line

MAX_FILE_BYTES = 1 << 26
MAX_RATIO = 100
"""Pictures are compressed already: a zip that declares more than this many times its own size is a bomb."""

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    struct.error,
    NotImplementedError,
    RuntimeError,
)
"""What `zipfile` and its decompressors raise where a file is damaged, encrypted or packed in a way that nobody reads."""

Reader = Callable[[str], bytes]


class FolderError(ValueError):
    """There are no class folders to be used. One line: what was found and what was expected."""


class Place(Protocol):
    """Where files lie."""

    def names(self) -> list[str]:
        """Paths of all files within, with slashes. Raises FolderError."""

    def reader(self) -> AbstractContextManager[Reader]:
        """From a path to the file's bytes; empty where they are damaged or more than `MAX_FILE_BYTES`."""

    def digest(self, names: Sequence[str]) -> str:
        """sha256 of these files' names and of all bytes that they are made of."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Files in a directory."""

    root: Path

    def names(self) -> list[str]:
        found = []
        for directory, folders, files in os.walk(self.root, onerror=_raise):
            for name in (*folders, *files):
                self._check_inside(Path(directory) / name)
            found += [(Path(directory) / name).relative_to(self.root).as_posix() for name in files]
        return found

    def _check_inside(self, file: Path) -> None:
        if not file.is_symlink():
            return
        try:
            leaves = file.is_dir() or not file.resolve().is_relative_to(self.root.resolve())
        except RuntimeError:  # links in a circle
            leaves = True
        if leaves:
            raise FolderError(f"found the link {file.relative_to(self.root)}, expected files inside the folder")

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        yield lambda name: _read_file(self.root / name)

    def digest(self, names: Sequence[str]) -> str:
        total = hashlib.sha256()
        for name in names:
            content = hashlib.sha256(_read_file(self.root / name)).hexdigest()
            total.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
        return total.hexdigest()


def _raise(error: OSError) -> None:
    raise error


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes() if file.is_file() and file.stat().st_size <= MAX_FILE_BYTES else b""
    except OSError:
        return b""


@dataclass(frozen=True, slots=True)
class Archive:
    """Files in a zip."""

    path: Path

    def names(self) -> list[str]:
        with self._opened() as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise FolderError("found a name twice, expected each file once")
        for name in names:
            if name.startswith("/") or ".." in name.split("/") or "\\" in name:
                raise FolderError(f"found the path {name[:200]!r}, expected one inside the zip")
        declared, size = sum(entry.file_size for entry in entries), self.path.stat().st_size
        if declared > MAX_RATIO * size:
            raise FolderError(f"found {declared} bytes zipped into {size}, expected at most {MAX_RATIO} times as many")
        return names

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        with self._opened() as archive:
            yield lambda name: _read_entry(archive, name)

    def digest(self, names: Sequence[str]) -> str:
        """That of the whole zip stands for its files': a hundred times faster."""
        total = hashlib.sha256(sha256(self.path).encode())
        for name in names:
            total.update(f"{name}\n".encode(errors="surrogateescape"))
        return total.hexdigest()

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except DAMAGE as error:
            raise FolderError(f"expected a zip of class folders, found {one_line(error)}") from None


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name) if archive.getinfo(name).file_size <= MAX_FILE_BYTES else b""
    except (*DAMAGE, OSError):
        return b""


class Labelled(NamedTuple):
    """A file and the number of its class."""

    name: str
    label: int


def by_class(names: Sequence[str], labels: Sequence[str], part: str = "") -> list[Labelled]:
    """The files in folders named like `labels`, by class and then by name.

    The class folders may lie anywhere, such as under `test`, as long as they lie side by side; `part` chooses where they lie
    under several. Hidden files and folders are passed over, and files beside the class folders. Raises FolderError.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    files = {name: path for name, path in ((name, _parts(name)) for name in names) if not _hidden(path)}
    above = _above(list(files.values()), numbers, part)
    inside = {name: path[len(above) :] for name, path in files.items() if path[: len(above)] == above}
    found = [Labelled(name, _label(path, numbers)) for name, path in inside.items() if len(path) > 1]
    return sorted(found, key=lambda file: file[::-1])


Parts = tuple[str, ...]


def _parts(name: str) -> Parts:
    return tuple(part for part in name.split("/") if part not in ("", "."))


def _hidden(path: Parts) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path)


def _label(path: Parts, numbers: dict[str, int]) -> int:
    """The class of a file at this path from where the class folders lie."""
    if path[0] not in numbers:
        raise FolderError(f"found the folder {path[0][:200]!r}, expected one of {_some(list(numbers))}")
    if len(path) > 2:
        raise FolderError(f"found {'/'.join(path)[:200]!r}, expected images right inside their class's folder")
    return numbers[path[0]]


def _above(paths: Sequence[Parts], numbers: dict[str, int], part: str) -> Parts:
    """The folder that holds the class folders."""
    holders = {path[:-2] for path in paths if len(path) > 1 and path[-2] in numbers}
    wanted = tuple(part.split("/")) if part else ()
    chosen = [holder for holder in holders if not wanted or holder[-len(wanted) :] == wanted]
    if len(chosen) == 1:
        return chosen[0]
    if not holders:
        raise FolderError(f"found no folder named like a class, expected {_some(list(numbers))}")
    names = sorted("/".join(holder) or "." for holder in holders)
    if not chosen:
        raise FolderError(f"#{part}: found nothing there, expected one of {_some(names)}")
    one = min("/".join(holder) or "." for holder in chosen)
    raise FolderError(f"found class folders under {_some(names)}, expected #{one} or another to choose one")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def sha256(file: Path) -> str:
    """Of the file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
