"""Trains several members at once, each in a process of its own: numerics of one cannot disturb another's."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from ensembles.training.experiment import Epoch, Experiment

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
KEEP_MEMORY = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(1 << 30))
"""glibc gives each large tensor back to the system at once, and gets it again page by page: an eighth of the time."""

DETERMINISTIC_CUBLAS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


class TrainingError(RuntimeError):
    """A member could not be trained. One line."""


@dataclass(frozen=True, slots=True)
class News:
    """How far a member is: the share that is done, and the epoch that has just ended, if one has."""

    name: str
    done: float
    epoch: Epoch | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """What a process said; `text` is empty when it has ended."""

    run: "_Running"
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    experiment: Experiment
    process: "subprocess.Popen[str]"
    complaints: IO[str]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.complaints):
            if stream is not None:
                stream.close()


Ended = Callable[[Experiment, str], None]
"""Told of each member that is finished, and of each that cannot be trained with the reason in one line."""


def refuse(experiment: Experiment, fault: str) -> None:
    """Raises TrainingError if there is a fault: all members are wanted."""
    if fault:
        raise TrainingError(fault)


def train(
    experiments: Iterable[Experiment],
    images: Path,
    jobs: int,
    device: str,
    told: Callable[[News], None],
    ended: Ended = refuse,
) -> None:
    """Train `jobs` members at a time, in their order; the next is asked for when there is room for it.

    Raises TrainingError at the first that fails for a reason that is not its own, and whatever `ended` raises; the others are
    stopped then.
    """
    waiting, lines = iter(experiments), queue.SimpleQueue[_Line]()
    running: dict[_Running, str] = {}  # and what was wrong with it
    try:
        while True:
            for experiment in islice(waiting, jobs - len(running)):
                running[_start(experiment, images, device, lines)] = ""
            if not running:
                return
            line = lines.get()
            if line.text:
                running[line.run] = _told(line, told)
            else:
                fault = running.pop(line.run)
                _close(line.run, fault)
                ended(line.run.experiment, fault)
    finally:
        for run in running:
            run.stop()


def _start(experiment: Experiment, images: Path, device: str, lines: "queue.SimpleQueue[_Line]") -> _Running:
    command = [sys.executable, "-m", "ensembles.training.worker", str(experiment.path), str(images), device]
    environment = os.environ | ONE_THREAD | KEEP_MEMORY | DETERMINISTIC_CUBLAS
    complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the run
    # its standard input stays open as long as this process lives, and is never written to
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
    )
    run = _Running(experiment, process, complaints)
    threading.Thread(target=_listen, args=(run, lines), daemon=True).start()
    return run


def _listen(run: _Running, lines: "queue.SimpleQueue[_Line]") -> None:
    assert run.process.stdout is not None  # noqa: S101  asked for above
    for text in run.process.stdout:
        lines.put(_Line(run, text))
    lines.put(_Line(run, ""))


def _told(line: _Line, told: Callable[[News], None]) -> str:
    """The fault, if the line is of one that concerns this member alone."""
    news = json.loads(line.text)
    if "done" in news:
        told(News(line.run.experiment.name, news["done"], Epoch(**news["epoch"]) if news["epoch"] else None))
    fault: str = news.get("fault", "")
    if fault and "hopeless" not in news:
        raise TrainingError(fault)
    return fault


def _close(run: _Running, fault: str) -> None:
    code = run.process.wait()
    run.complaints.seek(0)
    complaints = run.complaints.read().strip().splitlines() or [f"exit code {code}"]
    run.close()
    if code or not (fault or run.experiment.finished):
        raise TrainingError(f"{run.experiment.path}: the training process ended early: {complaints[-1][:300]}")
