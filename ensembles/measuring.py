"""What an exported model does on real rows, and how long it takes: on ONNX Runtime, on one core."""

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Rows = NDArray[Any]
Scores = NDArray[np.float32]

BATCH = 64
"""Rows at a time, as the server's default limits have it."""

SECONDS = 2.0
"""About how long each model is timed."""


def session(model: bytes) -> Any:
    """An ONNX Runtime session on one core. Raises whatever ONNX Runtime raises, which has no base class of its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised; they need not be printed as well
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def batches(rows: Rows, size: int = BATCH) -> Iterator[Rows]:
    for start in range(0, max(len(rows), 1), size):  # no rows are one batch of none
        yield rows[start : start + size]


def scores(model: bytes, rows: Rows, size: int = BATCH) -> Scores:
    """What the model answers to rows [n, *shape], [n, classes], `size` rows at a time."""
    opened = session(model)
    name = opened.get_inputs()[0].name
    return np.concatenate([opened.run(None, {name: batch})[0] for batch in batches(rows, size)])


def seconds_per_row(models: Sequence[bytes], rows: Rows) -> tuple[float, ...]:
    """Seconds that each model takes for a row, in batches of 64: the median of runs in which the models take turns.

    They take turns so that whatever else the machine does meanwhile slows all of them alike, and their ratios stay true.
    """
    batch = np.resize(rows, (BATCH, *rows.shape[1:]))
    runs = [_runner(model, batch) for model in models]
    slowest = max(run() for run in runs)
    turns = int(np.clip(SECONDS / slowest, 3, 200))
    taken = [[run() for run in runs] for _ in range(turns)]
    return tuple(median(column) / BATCH for column in zip(*taken, strict=True))


def _runner(model: bytes, batch: Rows) -> Any:
    opened = session(model)
    feed = {opened.get_inputs()[0].name: batch}

    def run() -> float:
        start = time.perf_counter()
        opened.run(None, feed)
        return time.perf_counter() - start

    run()
    return run
