"""Writes the three light members, never trained, as a Scrutin model repository: python -m benchmarks.models DIRECTORY."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from benchmarks.ensemble import CLASSES, INPUT, MAX_BATCH, MEMBERS, NAME, SHAPE, Ensemble, Rows, graph_of

OUTPUT = "probabilities"
CONVOLUTIONS = {"a": (8, 16), "b": (16, 32), "c": (12, 24, 32)}
HIDDEN = {"a": 64, "b": 64, "c": 48}
SAMPLES = 256


class Net:
    """A chain of ONNX nodes, each fed with the output of the one before it."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.tip = INPUT

    def add(self, kind: str, *weights: str, **attributes: Any) -> None:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.tip, *weights], [output], **attributes))
        self.tip = output

    def weight(self, *shape: int) -> str:
        """Drawn with He's variance and blind to brightness, so that untrained nets still tell images apart."""
        name, spread = f"weight_{len(self.weights)}", np.sqrt(2 / np.prod(shape[1:]))
        values = self.random.normal(0, spread, shape)
        values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def bias(self, width: int) -> str:
        name = f"bias_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.zeros(width, np.float32), name))
        return name

    def convolution(self, channels: int, width: int) -> None:
        self.add("Conv", self.weight(width, channels, 3, 3), self.bias(width), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        self.add("Relu")
        self.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])

    def linear(self, inputs: int, outputs: int) -> None:
        self.add("Gemm", self.weight(outputs, inputs), self.bias(outputs), transB=1)

    def model(self) -> onnx.ModelProto:
        self.nodes[-1].output[0] = OUTPUT
        graph = helper.make_graph(
            self.nodes,
            NAME,
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *SHAPE])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", CLASSES])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def build(member: str) -> onnx.ModelProto:
    net, channels, size = Net(seed=MEMBERS.index(member)), SHAPE[0], SHAPE[-1]
    for width in CONVOLUTIONS[member]:
        net.convolution(channels, width)
        channels, size = width, size // 2
    net.add("Flatten")
    net.linear(channels * size * size, HIDDEN[member])
    net.add("Relu")
    net.linear(HIDDEN[member], CLASSES)
    net.add("Softmax", axis=1)
    return net.model()


def images(rows: int, seed: int) -> Rows:
    """Random tiles of four by four pixels: noise of single pixels would look all the same after the pooling."""
    tiles = np.random.default_rng(seed).normal(size=(rows, SHAPE[0], SHAPE[1] // 4, SHAPE[2] // 4))
    return tiles.repeat(4, axis=2).repeat(4, axis=3).astype(np.float32)


def member_entries(repository: Path) -> Iterator[dict[str, object]]:
    for member in MEMBERS:
        graph = graph_of(repository, member)
        yield {
            "name": member,
            "model": str(graph.relative_to(repository)),
            "sha256": hashlib.sha256(graph.read_bytes()).hexdigest(),
            "emits": "probabilities",
            "weight": 1,
            "run_on": {"backend": "onnxruntime", "device": "cpu", "threads": 1},
        }


def manifest(repository: Path) -> dict[str, object]:
    return {
        "name": NAME,
        "version": 1,
        "labels": [str(index) for index in range(CLASSES)],
        "input": {"name": INPUT, "datatype": "FP32", "shape": list(SHAPE)},
        "members": list(member_entries(repository)),
        "vote": {"rule": "probability_average", "tie_break": "probability", "temperature": 1.0, "quorum": 2},
        "policies": {"default": "full"},
        "limits": {"max_batch_size": MAX_BATCH, "max_queue_size": 4096, "timeout_ms": 60000},
    }


def write_repository(repository: Path) -> None:
    for member in MEMBERS:
        graph = graph_of(repository, member)
        graph.parent.mkdir(parents=True, exist_ok=True)
        graph.write_bytes(build(member).SerializeToString())
    (repository / "ensemble.yaml").write_text(yaml.safe_dump(manifest(repository), sort_keys=False))
    x = images(SAMPLES, seed=1)
    np.savez(repository / "samples.npz", x=x, y=Ensemble(repository)(x).label_index)


if __name__ == "__main__":
    write_repository(Path(sys.argv[1]))
