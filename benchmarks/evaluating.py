"""What an evaluation adds to the bare runs of its members, and the memory it takes: python -m benchmarks.evaluating [ROWS] [REPOSITORY]."""

import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

from benchmarks.processes import ROOT
from ensembles import document, repository
from ensembles.members.onnx import OnnxMember
from ensembles.recording import batch_rows, record
from ensembles.repository import Repository

SAMPLING_SECONDS = 0.02
PRICE_PER_HOUR = 0.10


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


def made_up(found: Repository, rows: int, file: Path) -> None:
    """Rows from the repository's samples, each with a little noise, and their labels."""
    x, y = found.samples()
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(x), rows)
    noise = random.integers(0, 3, (rows, *x.shape[1:]), dtype=np.uint8)
    np.savez(file, x=(x[chosen] // 2 + noise).astype(x.dtype), y=y[chosen])


def bare(found: Repository, file: Path) -> float:
    """Seconds of a plain loop over the members and rows in memory."""
    with np.load(file) as content:
        x = content["x"]
    members = [OnnxMember(member, found.model(member), ThreadPoolExecutor(1)) for member in found.spec.members]
    size = batch_rows(found.spec)
    start = time.perf_counter()
    for first in range(0, len(x), size):
        for member in members:
            member._session.run(member._outputs, {member._input: x[first : first + size]})  # noqa: SLF001
    return time.perf_counter() - start


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    found = repository.read(Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "exported_models" / "digits")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.npz"
        made_up(found, rows, file)
        alone, recorded = [], []
        with Memory() as memory:
            for turn in range(3):
                start = time.perf_counter()
                recording = record(found, file, Path(scratch) / str(turn))
                recorded.append(time.perf_counter() - start)
        with Memory() as judging:
            start = time.perf_counter()
            document.evaluated(recording, PRICE_PER_HOUR)
            judged = time.perf_counter() - start
        start = time.perf_counter()
        record(found, file, Path(scratch) / str(turn))
        again = time.perf_counter() - start
        alone = [bare(found, file) for _ in range(3)]
    runs = min(alone)
    print(f"{rows:,} rows, {len(found.spec.members)} members, batches of {recording.batch_rows}")
    print(f"bare runs {runs:.2f} s ({runs / rows * 1e6:.1f} µs a row)")
    print(f"recording {min(recorded):.2f} s: {min(recorded) / runs - 1:+.1%}; from the cache {again:.2f} s")
    print(f"judging   {judged:.2f} s ({judged / rows * 1e6:.1f} µs a row): {judged / runs:+.1%}")
    for name, kinds in (("recording", memory.most), ("judging", judging.most)):
        print(f"memory, {name}: " + ", ".join(f"{kind} {size:.0f} MB" for kind, size in kinds.items()))


if __name__ == "__main__":
    main()
