"""An ensemble of small convolutional nets with random weights, for benchmarks that need members of some size and no data."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ensembles import repository
from ensembles.repository import Repository

SIDE, CLASSES, OPSET = 32, 10, 17
WIDTHS = (8, 12, 16, 20, 24)


def net(width: int) -> bytes:
    """Three convolutions of 3x3 and a linear layer on RGB pictures of 32x32 bytes; it emits logits."""
    random = np.random.default_rng(width)
    channels = (3, width, 2 * width, 4 * width)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "most"], ["x0"]),
    ]
    weights = {"most": np.float32(255)}
    for layer, (before, after) in enumerate(pairwise(channels)):
        scale = np.sqrt(2 / (9 * before))
        weights[f"w{layer}"] = (scale * random.normal(size=(after, before, 3, 3))).astype(np.float32)
        stride = [1, 1] if layer == 0 else [2, 2]
        nodes += [
            helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"c{layer}"], strides=stride, pads=[1] * 4),
            helper.make_node("Relu", [f"c{layer}"], [f"x{layer + 1}"]),
        ]
    weights["head"] = random.normal(size=(channels[-1], CLASSES)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", ["x3"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def rows(n: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise around a shade that is the class's, and the labels."""
    random = np.random.default_rng(0)
    y = random.integers(0, CLASSES, n)
    noise = random.integers(0, 128, (n, 3, SIDE, SIDE), np.uint8)
    return noise + (12 * y).astype(np.uint8)[:, None, None, None], y


def write(directory: Path) -> Repository:
    """The ensemble as a repository."""
    names = [f"net-{width}" for width in WIDTHS]
    manifest = {
        "name": "small-nets",
        "labels": [str(label) for label in range(CLASSES)],
        "input": {"name": "image", "datatype": "UINT8", "shape": [3, SIDE, SIDE]},
        "members": [{"name": name, "emits": "logits"} for name in names],
    }
    models = {name: net(width) for name, width in zip(names, WIDTHS, strict=True)}
    return repository.write(directory, manifest, models, rows(8))
