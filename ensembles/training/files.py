"""Files that are there whole or not at all, whenever the process or the machine stops."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH = ".partial-"
SECONDS_FOR_THE_DYING = 5.0


def write(path: Path, content: bytes) -> None:
    """Replace what stood at `path` at once; after a kill or a crash it holds the old content or the new. Raises OSError."""
    scratch = path.with_name(f"{SCRATCH}{os.getpid()}-{path.name}")
    try:
        with scratch.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
        settle(path.parent)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written. Only for the one process that writes here."""
    for scratch in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()


def settle(folder: Path) -> None:
    """Have the folder's entries on disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def only_one(folder: Path, patience: float = SECONDS_FOR_THE_DYING) -> Iterator[None]:
    """Be the one process that works in this folder. Raises BlockingIOError when another does, and goes on doing it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder, time.monotonic() + patience)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, until: float) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise BlockingIOError(error.errno, "another process at work", str(folder)) from None
        time.sleep(0.05)


def fault(error: OSError, path: Path) -> str:
    """One line of what the system said, for instance that the disk is full."""
    return f"{error.filename or path}: found {(error.strerror or str(error)).lower()}, expected a place to write"
