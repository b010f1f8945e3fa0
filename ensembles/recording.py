"""Every member runs once over labelled data; its votes are kept on disk and mapped into memory.

A file of votes is named by all that the votes and the measured times depend on, so it never goes stale: the model, the rows,
the batch, where the member runs, and the machine.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ensembles import dataset, vote_files
from ensembles.dataset import Dataset, Rows
from ensembles.member_spec import MemberSpec
from ensembles.members import MemberError, Scores
from ensembles.members.cores import cores
from ensembles.repository import Repository
from ensembles.spec import EnsembleSpec
from ensembles.tally import BadVote, Tally
from ensembles.votes import Ballot, Floats, Ints, Rule

MAX_BATCH_ROWS = 256
MAX_BATCH_BYTES = 1 << 26
"""Of a batch's rows: what the members make of them is many times more."""

WRITTEN_VALUES = 1 << 16
"""Numbers that a member says before they are checked and written: enough that this costs next to nothing."""

SPARE_BYTES = 1 << 20

Progress = Callable[[int, int], None]


class RecordingError(ValueError):
    """The votes cannot be recorded. One line: what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The votes of all members, in the manifest's order, on the same n rows.

    `scores`: a memory-mapped float32 [n, K] for each member, probabilities. `y` [n] int64: the rows' labels.
    `seconds` [M] float64: of a row, measured in batches of `batch_rows`, members one after the other on one thread, each with the
    threads that its `run_on` grants; reading rows and counting votes is not in it, nor each member's first run if there is
    another. `runs`: rows and seconds of each timed run, [b, 2] float64 for each member.
    `data`, `index` [n] int64: the data set and the rows' places in it; those that were unreadable are missing.
    `devices`: what each member ran on. `machine`: what the seconds are those of.
    """

    repository: Repository
    data: Dataset
    index: Ints
    y: Ints
    scores: tuple[NDArray[np.float32], ...]
    runs: tuple[Floats, ...]
    devices: tuple[str, ...]
    batch_rows: int
    machine: str

    @property
    def seconds(self) -> Floats:
        return np.array([seconds.sum() / rows.sum() for rows, seconds in (runs.T for runs in self.runs)])

    @property
    def data_digest(self) -> str:
        """sha256 of all that rows and labels are made of."""
        return self.data.digest

    @property
    def name(self) -> str:
        """The data's."""
        return self.data.name


def default_cache() -> Path:
    """Where votes are kept unless the user says otherwise; whatever lies there may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scrutin" / "votes"


def record(
    repository: Repository, data: Path, cache: Path, *, skip_bad: bool = False, progress: Progress | None = None
) -> Recording:
    """The members' votes on the labelled data at `data`. Members whose votes lie in the folder `cache` do not run again.

    Images that cannot be read are refused by name, or left out if `skip_bad`. `progress` is told how many rows are done, and of
    how many. Raises DatasetError, RecordingError, MemberError or RepositoryError; what was recorded before stays.
    """
    spec = repository.spec
    rows = dataset.read(data, spec.input, spec.labels)
    size = batch_rows(spec)
    files = [cache / f"{_key(member, rows.digest, size)}{vote_files.SUFFIX}" for member in spec.members]
    with _faults_told(cache):
        cache.mkdir(parents=True, exist_ok=True)
        vote_files.sweep(cache)
        found = {file: vote_files.load(file, len(spec.labels)) for file in files}
        missing = {file: member for file, member in zip(files, spec.members, strict=True) if found[file] is None}
        if missing:
            _check_room(cache, len(missing) * len(rows.y) * len(spec.labels) * 4)
            _run(repository, missing, rows, size, skip_bad, progress or _silent)
            found |= {file: vote_files.load(file, len(spec.labels)) for file in missing}
    votes = [found[file] for file in files]
    return _recording(repository, rows, [vote for vote in votes if vote is not None], size, skip_bad)


def _recording(
    repository: Repository, rows: Dataset, votes: list[vote_files.Votes], size: int, skip_bad: bool
) -> Recording:
    if len(votes) < len(repository.spec.members):
        raise RecordingError("found votes missing that were just written, expected a cache that nobody else clears")
    unreadable = votes[0].unreadable
    if not skip_bad:
        dataset.refuse_unreadable(rows, unreadable)
    index = np.delete(np.arange(len(rows.y)), unreadable)
    return Recording(
        repository=repository,
        data=rows,
        index=index,
        y=rows.y[index],
        scores=tuple(vote.scores for vote in votes),
        runs=tuple(vote.runs for vote in votes),
        devices=tuple(vote.device for vote in votes),
        batch_rows=size,
        machine=machine(),
    )


def batch_rows(spec: EnsembleSpec) -> int:
    """Rows of a run: what a server of this ensemble runs at most, within limits of memory."""
    return max(1, min(spec.limits.max_batch_size, MAX_BATCH_ROWS, MAX_BATCH_BYTES // spec.input.row_bytes))


def machine() -> str:
    """What the seconds are measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {cores()} cores"


def _key(member: MemberSpec, data_digest: str, size: int) -> str:
    what = [member.sha256, member.emits, member.run_on.model_dump(mode="json"), data_digest, size, machine()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


@contextmanager
def _faults_told(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{cache}: found {error.strerror or error}, expected a folder to keep votes in") from None


def _check_room(cache: Path, size: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < size + SPARE_BYTES:
        raise RecordingError(
            f"{cache}: found {free:,} bytes free on the disk, expected {size + SPARE_BYTES:,} for votes"
        )


def _run(
    repository: Repository,
    missing: Mapping[Path, MemberSpec],
    rows: Dataset,
    size: int,
    skip_bad: bool,
    progress: Progress,
) -> None:
    """Run the members over the rows batch by batch, and keep all of their votes or none.

    Once a row cannot be read, and must be, the rest is read only to say how many there are.
    """
    unreadable, done = np.empty(0, np.int64), 0
    with ExitStack() as stack:
        columns = [
            _Column(repository, member, stack.enter_context(vote_files.writing(file)))
            for file, member in missing.items()
        ]
        for batch in rows.batches(size):
            if len(batch.unreadable):
                unreadable = np.append(unreadable, batch.unreadable)
            if len(batch.rows) and (skip_bad or not len(unreadable)):
                for column in columns:
                    column.run(batch.rows)
            done += len(batch.places) + len(batch.unreadable)
            progress(done, len(rows.y))
        if not skip_bad:
            dataset.refuse_unreadable(rows, unreadable)
        dataset.check_classes(rows.name, np.delete(rows.y, unreadable))
        for column in columns:
            column.finish(unreadable)


class _Stopwatch:
    """An occupation that knows how long it was."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start


class _Column:
    """One member on its way through the rows. What it says becomes votes, some thousand rows at a time, which costs least."""

    def __init__(self, repository: Repository, member: MemberSpec, writer: vote_files.Writer) -> None:
        from ensembles.members.onnx import (  # which says in one line that no ONNX Runtime is installed
            OnnxMember,
            softmax,
        )

        as_it_is = member.model_copy(update={"emits": "probabilities"})
        self._member = OnnxMember(as_it_is, repository.model(member), ThreadPoolExecutor(1))
        self._softmax = softmax if member.emits == "logits" else None
        self._classes = len(repository.spec.labels)
        self._writer = writer
        self._runs: list[tuple[int, float]] = []
        self._said: list[Scores] = []
        self._rows = 0

    def run(self, rows: Rows) -> None:
        watch = _Stopwatch()
        try:
            scores = self._member.compute(rows, watch)
        except MemberError as fault:
            raise MemberError(f"members.{self._member.name}: {fault}") from None
        if scores.shape != (len(rows), self._classes):
            self._refuse(f"found scores of shape {list(scores.shape)}, expected {[len(rows), self._classes]}")
        self._runs.append((len(rows), watch.seconds))
        self._said.append(scores)
        self._rows += len(rows)
        if self._rows * self._classes >= WRITTEN_VALUES:
            self._write()

    def _write(self) -> None:
        scores = np.concatenate(self._said)
        self._said, self._rows = [], 0
        if self._softmax is not None:
            scores = self._softmax(scores)
        try:
            Tally(ALONE, len(scores), self._classes).enter(0, scores)
        except BadVote as fault:
            self._refuse(str(fault))
        self._writer.append(scores)

    def _refuse(self, found: str) -> NoReturn:
        raise MemberError(f"members.{self._member.name}: {found}")

    def finish(self, unreadable: Ints) -> None:
        """A first run, which makes what later ones use, is timed only where there is no other."""
        if self._said:
            self._write()
        self._writer.finish(self._classes, self._runs[1:] or self._runs, unreadable, self._member.device)
        self._member.close()


ALONE = Ballot(Rule.PROBABILITY_AVERAGE, np.ones(1), np.zeros(1, np.int64))
