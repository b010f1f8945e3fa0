"""Does a graph answer like its source, whatever the batch?"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from scipy.special import softmax

from ensembles import measuring
from ensembles.preprocessing import ExportError, Floats, Rows
from ensembles.wording import one_line

TOLERANCE = 1e-4
TIE = 1e-6  # the source itself has no winner where its first two classes are this close
SIZES = (1, 2, 7)


def check_parity(
    model: bytes, rows: Rows, expected: Floats, tolerance: float = TOLERANCE, *, logits: bool = False
) -> float:
    """Hold the graph's answers against the source's, in batches of 1, 2, 7 and all rows. Returns the worst difference.

    `rows` [n, *shape], `expected` [n, classes]: the source's probabilities; `logits`: the graph gives logits, of which the
    softmax is compared. Labels have to be the same wherever the source has a winner. Raises ExportError with the worst
    difference.
    """
    worst = 0.0
    for size in (*SIZES, len(rows)):
        batch = np.arange(size) % len(rows)
        found = _scores(model, rows[batch])
        worst = max(worst, _compare(softmax(found, axis=1) if logits else found, expected[batch], tolerance))
    return worst


def _scores(model: bytes, rows: Rows) -> Floats:
    try:
        return measuring.scores(model, rows, len(rows))
    except Exception as error:  # ONNX Runtime has a class for each of its errors and no base of them all
        raise ExportError(f"parity: a batch of {len(rows)} cannot run: {one_line(error)}") from error


def _compare(found: Floats, expected: Floats, tolerance: float) -> float:
    batch = f"in a batch of {len(expected)}"
    if found.shape != expected.shape:
        raise ExportError(f"parity: found {list(found.shape)} {batch}, expected {list(expected.shape)}")
    worst = float(np.abs(found - expected).max())
    if not worst <= tolerance:  # so that NaN is a difference too
        raise ExportError(f"parity: found a worst difference of {worst:.3g} {batch}, expected at most {tolerance:g}")
    first, second = np.partition(expected, (-1, -2), axis=1)[:, [-1, -2]].T
    flipped = (found.argmax(axis=1) != expected.argmax(axis=1)) & (first - second > TIE)
    if flipped.any():
        raise ExportError(
            f"parity: found {flipped.sum()} other labels {batch}, expected none (worst difference {worst:.3g})"
        )
    return worst


@contextmanager
def quiet(tool: str) -> Iterator[None]:
    """One line of whatever the tool raises; none of what it warns of: packages that are absent, its own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{tool}: {one_line(error)}") from error
    finally:
        logging.disable(before)
