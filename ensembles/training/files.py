"""Folders in which one process works at a time, and what killed ones leave there."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensembles.atomic import SCRATCH, write

__all__ = ["fault", "only_one", "sweep", "write"]

SECONDS_FOR_THE_DYING = 5.0


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written. Only for the one process that writes here."""
    for scratch in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()


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
