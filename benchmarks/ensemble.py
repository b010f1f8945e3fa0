"""The ensemble that every server here serves, in this process: three ONNX members and the mean of their probabilities.

Needs numpy and onnxruntime only, because Triton's Python imports it too.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

NAME = "light"
MEMBERS = ("a", "b", "c")
INPUT = "input"
SHAPE = (1, 28, 28)
CLASSES = 10
MAX_BATCH = 64

Rows = NDArray[np.float32]


class Vote(NamedTuple):
    """The answer for n rows: the winning class [n], pooled probabilities [n, classes], each member's class [n, members]."""

    label_index: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    votes: NDArray[np.int64]


def graph_of(repository: Path, member: str) -> Path:
    return repository / member / "1" / "model.onnx"


def session(graph: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class Ensemble:
    def __init__(self, repository: Path) -> None:
        self.sessions = [session(graph_of(repository, member)) for member in MEMBERS]

    def __call__(self, rows: Rows) -> Vote:
        scores = np.stack([member.run(None, {INPUT: rows})[0] for member in self.sessions], axis=1)
        pooled = scores.mean(axis=1)
        return Vote(pooled.argmax(axis=1), pooled, scores.argmax(axis=2))
