"""What an evaluation adds to the bare ONNX runs of its members: `python -m benchmarks.evaluating [ROWS] [REPOSITORY]...`.

The bare runs are made batch by batch between those that are recorded, so that a machine that is slower for a while is so for
both. Without arguments: five small nets on 10,000 rows, and the digits ensemble, whose members take a hundredth of that time.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks import small_nets
from benchmarks.processes import ROOT
from ensembles import document, repository
from ensembles.members.onnx import OnnxMember
from ensembles.price import PRICE_PER_HOUR
from ensembles.recording import Recording, record
from ensembles.repository import Repository

SAMPLING_SECONDS = 0.02
ROUNDS = 5
ROWS = 1_000_000
"""In all rounds of one ensemble, at most."""


class Memory:
    """The most memory that this process had while the block ran, by kind, in MB."""

    def __enter__(self) -> Self:
        self.most = {"VmRSS": 0.0, "RssAnon": 0.0, "RssFile": 0.0}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(SAMPLING_SECONDS):
            for line in Path("/proc/self/status").read_text().splitlines():
                kind, _, value = line.partition(":")
                if kind in self.most:
                    self.most[kind] = max(self.most[kind], int(value.split()[0]) / 1024)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds on the clock, and of the processor."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Self:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Self) -> "Spent":
        return Spent(self.wall - other.wall, self.processor - other.processor)

    def __add__(self, other: Self) -> "Spent":
        return Spent(self.wall + other.wall, self.processor + other.processor)


@dataclass(slots=True)
class Bare:
    """A plain loop over the members, a batch each time that a recording tells its progress."""

    x: Any
    members: Sequence[OnnxMember]
    done: int = 0
    spent: Spent = field(default=Spent(0, 0))

    def __call__(self, done: int, total: int) -> None:
        start = Spent.now()
        batch = self.x[self.done : done]
        for member in self.members:
            member._session.run(member._outputs, {member._input: batch})  # noqa: SLF001
        self.done = done
        self.spent += Spent.now() - start


@dataclass(frozen=True, slots=True)
class Round:
    """What one evaluation took: bare runs, recording less those in between, judging."""

    bare: Spent
    recording: Spent
    judging: Spent

    def added(self, clock: str) -> tuple[float, float, float]:
        """Of the bare runs' time: what recording them adds, judging, and both."""
        bare, recording, judging = (getattr(each, clock) for each in (self.bare, self.recording, self.judging))
        return recording / bare - 1, judging / bare, (recording + judging) / bare - 1


def once(found: Repository, file: Path, cache: Path) -> tuple[Round, Recording]:
    with np.load(file) as content:
        x = content["x"]
    members = [OnnxMember(member, found.model(member), ThreadPoolExecutor(1)) for member in found.spec.members]
    bare = Bare(x, members)
    start = Spent.now()
    recording = record(found, file, cache, progress=bare)
    recorded = Spent.now()
    document.evaluated(recording, PRICE_PER_HOUR)
    return Round(bare.spent, recorded - start - bare.spent, Spent.now() - recorded), recording


def made_up(found: Repository, rows: int, file: Path) -> None:
    """Rows from the repository's samples, each with a little noise, and their labels."""
    x, y = found.samples()
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(x), rows)
    noise = random.integers(0, 3, (rows, *x.shape[1:]), dtype=np.uint8)
    np.savez(file, x=(x[chosen] // 2 + noise).astype(x.dtype), y=y[chosen])


def compare(found: Repository, file: Path, scratch: Path) -> None:
    once(found, file, scratch / "warm")  # imports, and the first use of everything
    rounds = []
    with Memory() as memory:
        while len(rounds) < ROUNDS and (not rounds or (len(rounds) + 1) * len(rounds[0][1].y) <= ROWS):
            rounds.append(once(found, file, scratch / str(len(rounds))))
    recording = rounds[0][1]
    rows, bare = len(recording.y), sorted(each.bare.wall for each, _ in rounds)
    print(
        f"{found.spec.name}: {rows:,} rows, {len(found.spec.members)} members, batches of {recording.batch_rows}, {len(rounds)} rounds"
    )
    print(f"  bare runs {bare[0]:.2f} to {bare[-1]:.2f} s ({bare[len(bare) // 2] / rows * 1e6:.1f} µs a row)")
    judging = sorted(each.judging.processor for each, _ in rounds)
    print(f"  judging {judging[len(judging) // 2]:.2f} s ({judging[len(judging) // 2] / rows * 1e6:.2f} µs a row)")
    for clock in ("wall", "processor"):
        added = np.array([each.added(clock) for each, _ in rounds])
        texts = [
            f"{what} {np.median(column):+.1%} ({column.min():+.1%} to {column.max():+.1%})"
            for what, column in zip(("recording", "judging", "both"), added.T, strict=True)
        ]
        print(f"  added, {clock} time: {', '.join(texts)}")
    print("  memory: " + ", ".join(f"{kind} {size:.0f} MB" for kind, size in memory.most.items()))


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else None
    given = [repository.read(Path(folder)) for folder in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for number, found in enumerate(given or [repository.read(ROOT / "exported_models" / "digits")]):
            made_up(found, rows or 100_000, scratch / f"{number}.npz")
            compare(found, scratch / f"{number}.npz", scratch / str(number))
        if not given:
            x, y = small_nets.rows(rows or 10_000)
            np.savez(scratch / "nets.npz", x=x, y=y)
            compare(small_nets.write(scratch / "nets"), scratch / "nets.npz", scratch / "votes")


if __name__ == "__main__":
    main()
