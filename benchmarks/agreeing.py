"""Five members of equal cost that agree as five CIFAR-10 nets do, as model repositories with planned policies.

Each member is a net with random weights: that is the work. What it says of a row stands in a table, looked up by a number that
the row carries in its first pixel, so that the joint distribution of the votes is that of a simulated pool: members right on 63
to 72% of rows, which share what is hard and whom they take it for. On it an exact exit needs 1.50 times fewer member runs by
majority and 1.29 times fewer by probability average, a certified one 2.2 times fewer; measured on five trained nets of 60 to 80%:
1.51, 1.29 and 2.2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.ensemble import CLASSES, INPUT, SHAPE
from benchmarks.models import Net
from ensembles import repository
from ensembles.commands.plan import put
from ensembles.planning import Plan, Recorded, Wishes, plan
from ensembles.repository import Repository
from ensembles.votes import Ballot, Ints, Rule, vote

MEMBERS = ("a", "b", "c", "d", "e")
CONVOLUTIONS, HIDDEN = (24, 48), 64
PLANNED, ASKED = 20_000, 4096
"""Rows that the policies are planned on, and others that are asked for."""

SAMPLES = 256
MAX_BATCH = 64
UNHEARD = 1e-12
"""What the net's own scores are multiplied with: far less than the table's differ by, and no zero, which would be left out."""

EASE, SHARED, OWN, SHARPNESS = 3.78, 1.09, 0.41, 0.98
SKILL = (2.94, 3.18, 3.42, 3.66, 3.90)
RULES = (Rule.MAJORITY, Rule.PROBABILITY_AVERAGE)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pool:
    """What the members say of rows, as logits [n, M, K], and the rows' labels [n]."""

    logits: Floats
    y: Ints

    @property
    def scores(self) -> Floats:
        raised = np.exp(self.logits - self.logits.max(axis=2, keepdims=True))
        return raised / raised.sum(axis=2, keepdims=True)


def pool(rows: int, seed: int) -> Pool:
    """A row is easy or hard for all members alike, and all take it for the same others; the rest is a member's own."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, rows)
    ease = np.array(SKILL)[None, :, None] + EASE * random.normal(size=(rows, 1, 1))
    shared = SHARED * random.normal(size=(rows, 1, CLASSES))
    own = OWN * random.normal(size=(rows, len(MEMBERS), CLASSES))
    logits = SHARPNESS * (ease * np.eye(CLASSES)[y][:, None, :] + shared + own)
    return Pool(logits.astype(np.float32), y)


def ballot(rule: Rule) -> Ballot:
    return Ballot(rule, np.ones(len(MEMBERS)), np.arange(len(MEMBERS)))


def planned(rule: Rule) -> Plan:
    calibration = pool(PLANNED, seed=1)
    columns = tuple(np.moveaxis(calibration.scores, 1, 0))
    return plan(Recorded(MEMBERS, columns, calibration.y, np.ones(len(MEMBERS)), ballot(rule)), Wishes())


def asked() -> Pool:
    return pool(ASKED, seed=2)


def images() -> Floats:
    """[ASKED, *SHAPE]; each carries its number."""
    pixels = np.random.default_rng(3).normal(size=(ASKED, *SHAPE)).astype(np.float32)
    pixels.reshape(ASKED, -1)[:, 0] = np.arange(ASKED)
    return pixels


def build(member: int, logits: Floats) -> bytes:
    """`logits` [ASKED, K]: what the member says of each row."""
    net, channels, size = Net(seed=member), SHAPE[0], SHAPE[-1]
    for width in CONVOLUTIONS:
        net.convolution(channels, width)
        channels, size = width, size // 2
    net.add("Flatten")
    net.linear(channels * size * size, HIDDEN)
    net.add("Relu")
    net.linear(HIDDEN, CLASSES)
    net.add("Mul", _constant(net, "unheard", np.float32(UNHEARD)))
    own, net.tip = net.tip, INPUT
    net.add("Flatten")
    net.add("Gather", _constant(net, "first", np.int64(0)), axis=1)
    net.add("Cast", to=7)
    row, net.tip = net.tip, _constant(net, "table", logits)
    net.add("Gather", row, axis=0)
    net.add("Add", own)
    net.add("Softmax", axis=1)
    return bytes(net.model().SerializeToString())


def _constant(net: Net, name: str, value: Any) -> str:
    net.weights.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def named(rule: Rule) -> str:
    return {Rule.MAJORITY: "majority", Rule.PROBABILITY_AVERAGE: "average"}[rule]


def write(folder: Path, rule: Rule, **limits: int) -> Repository:
    """An ensemble with the policies that were planned for its rule."""
    rows = asked()
    content = {
        "name": named(rule),
        "labels": [str(index) for index in range(CLASSES)],
        "input": {"name": INPUT, "datatype": "FP32", "shape": list(SHAPE)},
        "members": [
            {"name": member, "emits": "probabilities", "run_on": {"device": "cpu", "threads": 1}} for member in MEMBERS
        ],
        "vote": {"rule": rule.value, "quorum": 3},
        "limits": {"max_batch_size": MAX_BATCH, "max_queue_size": 4096, "timeout_ms": 60_000, **limits},
    }
    models = {member: build(index, rows.logits[:, index]) for index, member in enumerate(MEMBERS)}
    some = slice(0, SAMPLES)
    labels = vote(rows.scores[some], ballot(rule)).label_index
    found = repository.write(folder, content, models, (images()[some], labels))
    put(found, planned(rule))
    return repository.read(folder)
