"""Trained models to ONNX bytes with one contract: raw rows in, a probability for each class out, nothing else needed.

What a model does to its rows before it sees them belongs to the model, so it goes into the graph: whoever serves the file
sends what the camera or the client gave. The bytes depend on the trained weights alone: no time, path or trace is in them.

torch and skl2onnx are imported where they are used: exporting with one needs no installation of the other.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ensembles import graphs
from ensembles.spec import DTYPES

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin
    from torch import nn

Rows = NDArray[Any]
Floats = NDArray[np.floating]

OUTPUT = "probabilities"
OPSETS = {"": 18, "ai.onnx.ml": 3}
IR_VERSION = 8  # the oldest that these opsets go with: any Triton and ONNX Runtime since 2023 reads it
TOLERANCE = 1e-4
TIE = 1e-6  # the source itself has no winner where its first two classes are this close

_PREPARED = "prepared"

Part = TypeVar("Part", onnx.NodeProto, onnx.TensorProto)


class ExportError(ValueError):
    """The model cannot be exported, or what was exported is not the model. One line: what was found and expected."""


@dataclass(frozen=True, slots=True)
class Input:
    """The tensor that a served model is sent, and how the trained model sees it: cropped, scaled, reshaped.

    `name`, `datatype` (Open Inference Protocol) and `shape`, one row's, are the served tensor's.
    `crop` is a (start, stop) for each leading axis, `scale` multiplies the values, `seen_as` is one row's shape in the end,
    all of them optional.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    crop: tuple[tuple[int, int], ...] = ()
    scale: float = 1.0
    seen_as: tuple[int, ...] | None = None

    @property
    def prepared_shape(self) -> tuple[int, ...]:
        """The shape of one row as the trained model sees it. Raises ExportError when `seen_as` does not hold the crop."""
        windows = [range(size)[slice(*window)] for size, window in zip(self.shape, self.crop, strict=False)]
        cropped = (*map(len, windows), *self.shape[len(self.crop) :])
        if self.seen_as is not None and prod(self.seen_as) != prod(cropped):
            raise ExportError(f"seen_as: found {list(self.seen_as)}, expected a shape that holds {list(cropped)}")
        return self.seen_as or cropped

    def prepare(self, rows: Rows) -> NDArray[np.float32]:
        """Rows [n, *shape] of `datatype` to [n, *prepared_shape], as the exported graph does it."""
        window = (slice(None), *(slice(*ends) for ends in self.crop))
        scaled = rows[window].astype(np.float32) * np.float32(self.scale)
        return scaled.reshape(len(rows), *self.prepared_shape)


def from_torch(module: "nn.Module", given: Input, rows: Rows) -> bytes:
    """ONNX bytes of a module that maps float [n, *given.prepared_shape] to logits [n, classes].

    `rows` [n, *given.shape]: real rows, on which the graph has to agree with the module. The module stays as it is.
    Raises ExportError.
    """
    import torch

    source = torch.nn.Sequential(copy.deepcopy(module), torch.nn.Softmax(dim=1)).float().eval()
    with torch.no_grad():
        expected = source(torch.from_numpy(given.prepare(rows))).numpy()
    with _exporting("torch.onnx"):
        program: Any = torch.onnx.export(
            source,
            (torch.zeros(2, *given.prepared_shape),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[_PREPARED],
            output_names=[OUTPUT],
            opset_version=OPSETS[""],
            dynamo=True,
            verbose=False,
        )
    return _checked(program.model_proto, given, rows, expected)


def from_sklearn(estimator: "ClassifierMixin", given: Input, rows: Rows) -> bytes:
    """ONNX bytes of a fitted classifier with `predict_proba`, for features [n, *given.prepared_shape], one axis a row.

    `rows` [n, *given.shape]: real rows, on which the graph has to agree with the estimator. Raises ExportError.
    """
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    if len(given.prepared_shape) != 1:
        raise ExportError(f"seen_as: found {list(given.prepared_shape)}, expected one axis of features a row")
    expected = estimator.predict_proba(given.prepare(rows).astype(np.float64))
    with _exporting("skl2onnx"):
        converted = skl2onnx.to_onnx(
            estimator,
            initial_types=[(_PREPARED, FloatTensorType([None, *given.prepared_shape]))],
            options={"zipmap": False},
            target_opset=OPSETS,
        )
    # The estimator's other output, the label, would be a second opinion beside the vote.
    core = onnx.utils.Extractor(converted).extract_model([_PREPARED], [OUTPUT])
    return _checked(core, given, rows, expected)


def check_parity(model: bytes, rows: Rows, expected: Floats, tolerance: float = TOLERANCE) -> None:
    """Hold the graph's answers against the source's, in batches of 1, 2, 7 and all rows.

    `rows` [n, *shape], `expected` [n, classes]: the source's probabilities. Labels have to be the same wherever the source
    has a winner. Raises ExportError with the worst difference.
    """
    for size in (1, 2, 7, len(rows)):
        batch = np.arange(size) % len(rows)
        try:
            found = run(model, rows[batch])
        except Exception as error:  # ONNX Runtime has a class for each of its errors and no base of them all
            raise ExportError(f"parity: a batch of {size} cannot run: {_line(error)}") from error
        _compare(found, expected[batch], tolerance)


def run(model: bytes, rows: Rows) -> NDArray[np.float32]:
    """Probabilities [n, classes] of a graph for rows [n, *shape], on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised; they need not be printed as well
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: rows})[0]
    return found


def _compare(found: Floats, expected: Floats, tolerance: float) -> None:
    batch = f"in a batch of {len(expected)}"
    if found.shape != expected.shape:
        raise ExportError(f"parity: found {list(found.shape)} {batch}, expected {list(expected.shape)}")
    worst = np.abs(found - expected).max()
    if not worst <= tolerance:  # so that NaN is a difference too
        raise ExportError(f"parity: found a worst difference of {worst:.3g} {batch}, expected at most {tolerance:g}")
    first, second = np.partition(expected, (-1, -2), axis=1)[:, [-1, -2]].T
    flipped = (found.argmax(axis=1) != expected.argmax(axis=1)) & (first - second > TIE)
    if flipped.any():
        raise ExportError(
            f"parity: found {flipped.sum()} other labels {batch}, expected none (worst difference {worst:.3g})"
        )


def _checked(core: onnx.ModelProto, given: Input, rows: Rows, expected: Floats) -> bytes:
    """The served model's bytes, proven to keep the contract and to answer like its source."""
    classes = expected.shape[1]
    model: bytes = _served(core, given, classes).SerializeToString(deterministic=True)
    try:
        graphs.check(model, given.datatype, given.shape, classes)
    except graphs.GraphError as error:
        raise ExportError(str(error)) from None
    check_parity(model, rows, expected)
    return model


def _served(core: onnx.ModelProto, given: Input, classes: int) -> onnx.ModelProto:
    """The core behind its preprocessing, rebuilt from its nodes and weights so that nothing else comes along."""
    element = helper.np_dtype_to_tensor_dtype(DTYPES[given.datatype])
    nodes, constants = _preprocessing(given)
    graph = helper.make_graph(
        [*nodes, *map(_bare, core.graph.node)],
        "member",
        [helper.make_tensor_value_info(given.name, element, ["batch", *given.shape])],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["batch", classes])],
        [*constants, *map(_bare, core.graph.initializer)],
    )
    versions = {opset.domain: opset.version for opset in core.opset_import}  # skl2onnx names a domain twice
    opsets = [helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _preprocessing(given: Input) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """`Input.prepare` as nodes and their constants."""
    constants = {
        "scale": np.float32(given.scale),
        "shape": np.array([0, *given.prepared_shape]),  # 0 keeps the batch, also one without rows
    }
    nodes = [
        helper.make_node("Cast", ["cropped" if given.crop else given.name], ["numbers"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], [_PREPARED]),
    ]
    if given.crop:
        starts, stops = np.array(given.crop, np.int64).T
        constants |= {"starts": starts, "stops": stops, "axes": np.arange(1, 1 + len(given.crop))}
        nodes.insert(0, helper.make_node("Slice", [given.name, "starts", "stops", "axes"], ["cropped"]))
    return nodes, [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]


def _bare(part: Part) -> Part:
    """Without the exporter's notes: torch leaves stack traces with the paths of the machine."""
    bare = copy.deepcopy(part)
    bare.ClearField("doc_string")
    bare.ClearField("metadata_props")
    return bare


@contextmanager
def _exporting(tool: str) -> Iterator[None]:
    """One line of whatever the tool raises; none of what it warns of: packages that are absent, its own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise ExportError(f"{tool}: {_line(error)}") from error
    finally:
        logging.disable(before)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
