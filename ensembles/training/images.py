"""Labelled images decoded once into an array beside the runs, and memory-mapped from there by all who train."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ensembles import atomic, dataset, folders
from ensembles.spec import ImageSpec, InputSpec
from ensembles.training import files

CACHE = ".images"
ROWS, LABELS = "rows.npy", "labels.npy"
BATCH = 512
NAMED = 5
"""How many unreadable images a message names."""

Progress = Callable[[int, int], None]
"""Told how many of how many images are decoded."""


@dataclass(frozen=True, slots=True)
class Images:
    """x uint8 [n, size, size, 3], memory-mapped, and y int64 [n]."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]


def served(size: int) -> InputSpec:
    """What a model is sent that was trained on images of `size` pixels a side."""
    image = ImageSpec(mode="RGB", width=size, height=size)
    return InputSpec(name="image", datatype="UINT8", shape=(size, size, 3), image=image)


def read(source: str, size: int) -> tuple[dataset.Dataset, tuple[str, ...]]:
    """The class folders of images at `source` and the classes, in the order of their names. Raises DatasetError."""
    labels = _classes(source)
    if len(labels) < 2:
        found = ", ".join(labels) or "none"
        raise dataset.DatasetError(f"{source}: found class folders: {found}; expected at least 2 (or FOLDER#PART)")
    return dataset.read(Path(source), served(size), labels), labels


def _classes(source: str) -> tuple[str, ...]:
    file, _, part = (source, "", "") if Path(source).exists() else source.partition("#")
    path = Path(file)
    if not path.exists():
        raise dataset.DatasetError(
            f"{file}: found nothing, expected a folder of class folders of images or a zip of it"
        )
    try:
        names = (folders.Folder(path) if path.is_dir() else folders.Archive(path)).names()
    except folders.FolderError as error:
        raise dataset.DatasetError(f"{file}: {error}") from None
    except OSError as error:
        raise dataset.DatasetError(f"{file}: found {error.strerror}, expected readable images") from None
    inside = [path.relative_to(part) for path in map(PurePosixPath, names) if path.is_relative_to(part or ".")]
    return tuple(sorted({path.parts[0] for path in inside if len(path.parts) == 2 and path.parts[0][0] != "."}))


def decode(data: dataset.Dataset, size: int, cache: Path, progress: Progress) -> Path:
    """The folder in `cache` with the decoded images of `data`, made if it is not there. Raises DatasetError and OSError."""
    folder = cache / data.digest[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with files.only_one(cache):
        if not folder.is_dir():
            files.sweep(cache)
            _refuse_a_full_disk(len(data.y) * size * size * 3, cache)
            _make(folder, data, size, progress)
    return folder


def _make(folder: Path, data: dataset.Dataset, size: int, progress: Progress) -> None:
    scratch = folder.with_name(f"{atomic.SCRATCH}{folder.name}")
    scratch.mkdir()
    try:
        _fill(scratch, data, size, progress)
        scratch.replace(folder)
        atomic.settle(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(folder: Path) -> Images:
    """What `decode` left in `folder`."""
    x = np.load(folder / ROWS, mmap_mode="r", allow_pickle=False)
    return Images(x, np.load(folder / LABELS, allow_pickle=False))


def _fill(folder: Path, data: dataset.Dataset, size: int, progress: Progress) -> None:
    """Written, not mapped: a full disk is an error where one writes, and the end of the process where one maps."""
    count = len(data.y)
    unreadable = []
    with (folder / ROWS).open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
        for done, batch in enumerate(data.batches(BATCH), start=1):
            stream.write(batch.rows.tobytes())
            unreadable.append(batch.unreadable)
            progress(min(done * BATCH, count), count)
        stream.flush()
        os.fsync(stream.fileno())
    _refuse_unreadable(data, np.concatenate(unreadable))
    np.save(folder / LABELS, data.y, allow_pickle=False)


def _refuse_unreadable(data: dataset.Dataset, places: NDArray[np.int64]) -> None:
    if len(places):
        names = ", ".join(data.row_names(places[:NAMED])) + (", …" if len(places) > NAMED else "")
        raise dataset.DatasetError(
            f"{data.name}: found {len(places)} unreadable of {len(data.y)} images ({names}), expected PNG or JPEG"
        )


def _refuse_a_full_disk(size: int, cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if size > free:
        raise dataset.DatasetError(f"{cache}: found {free} bytes free, expected {size} for the decoded images")
