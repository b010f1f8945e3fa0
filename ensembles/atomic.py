"""Files that are there whole or not at all, whenever the process or the machine stops."""

import os
import shutil
from pathlib import Path

SCRATCH = ".partial-"


def write(path: Path, content: bytes) -> None:
    """Replace what stood at `path` at once; after a kill or a crash it holds the old content or the new. Raises OSError."""
    scratch = path.with_name(f"{SCRATCH}{os.getpid()}-{path.name}")
    try:
        with scratch.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            shutil.copymode(path, scratch)
        scratch.replace(path)
        settle(path.parent)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def settle(folder: Path) -> None:
    """Have the folder's entries on disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
