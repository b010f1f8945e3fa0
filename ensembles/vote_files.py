"""A member's votes in a file: `HEAD`, float32 scores [n, K], a footer of JSON, the footer's length, the sha256 of all that.

A file appears whole or not at all, what was killed half-way is swept up by whoever writes next, and a damaged file is no file.
"""

import fcntl
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import Floats, Ints

HEAD = b"scrutin votes 1".ljust(64)
LENGTH = struct.Struct("<Q")
MAX_FOOTER_BYTES = 1 << 30
SUFFIX = ".votes"
UNFINISHED = ".part"


@dataclass(frozen=True, slots=True)
class Votes:
    """What one member said of n rows.

    `scores`: float32 [n, K], mapped from the file. `runs` [b, 2] float64: rows and seconds of each timed run.
    `unreadable` [k] int64: the places of rows that could not be read and have no vote. `device`: what the member ran on.
    """

    scores: NDArray[np.float32]
    runs: Floats
    unreadable: Ints
    device: str


def load(file: Path, classes: int) -> Votes | None:
    """The votes in `file`; None where there is none, or none that is whole."""
    try:
        with file.open("rb") as stream:
            footer = _verified_footer(stream)
        rows, size = footer["rows"], len(HEAD) + footer["rows"] * classes * 4
        if footer["classes"] != classes or size > file.stat().st_size:
            return None
        scores = np.memmap(file, np.float32, "r", len(HEAD), (rows, classes))
        runs = np.array(footer["runs"], np.float64).reshape(-1, 2)
        return Votes(scores, runs, np.array(footer["unreadable"], np.int64), str(footer["device"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _verified_footer(stream: IO[bytes]) -> dict[str, Any]:
    """Raises ValueError or KeyError where the file is not what was written."""
    size = os.fstat(stream.fileno()).st_size
    end = size - hashlib.sha256().digest_size
    if end < len(HEAD) + LENGTH.size or stream.read(len(HEAD)) != HEAD:
        raise ValueError("no file of votes")
    total = hashlib.sha256(HEAD)
    for start in range(len(HEAD), end, 1 << 20):
        total.update(stream.read(min(1 << 20, end - start)))
    if stream.read() != total.digest():
        raise ValueError("a damaged file of votes")
    stream.seek(end - LENGTH.size)
    (length,) = LENGTH.unpack(stream.read(LENGTH.size))
    stream.seek(end - LENGTH.size - length)
    footer: dict[str, Any] = json.loads(stream.read(length))
    return footer


@dataclass(slots=True)
class Writer:
    """Takes scores batch by batch; `finish` makes them a file."""

    file: Path
    part: IO[bytes]
    rows: int = 0
    _total: Any = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self._write(HEAD)

    def append(self, scores: NDArray[np.float32]) -> None:
        """Scores [b, K], finite."""
        self._write(np.ascontiguousarray(scores, "<f4").tobytes())
        self.rows += len(scores)

    def finish(self, classes: int, runs: list[tuple[int, float]], unreadable: Ints, device: str) -> None:
        footer = {
            "rows": self.rows,
            "classes": classes,
            "runs": runs,
            "unreadable": unreadable.tolist(),
            "device": device,
        }
        text = json.dumps(footer).encode()
        self._write(text + LENGTH.pack(len(text)))
        self.part.write(self._total.digest())
        self.part.flush()
        os.fsync(self.part.fileno())
        Path(self.part.name).replace(self.file)

    def _write(self, content: bytes) -> None:
        self._total.update(content)
        self.part.write(content)


@contextmanager
def writing(file: Path) -> Iterator[Writer]:
    """A writer of `file`; whatever is not finished in the end is gone."""
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=UNFINISHED, delete=False) as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX)  # which ends with the process, however that ends
            yield Writer(file, part)
        finally:
            Path(part.name).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished in `folder`."""
    for part in folder.glob(f"*{UNFINISHED}"):
        with part.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            part.unlink(missing_ok=True)
