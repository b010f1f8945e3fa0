"""Trained models to ONNX bytes with one contract: raw rows in, a probability for each class out, nothing else needed.

What a model does to its rows before it sees them belongs to the model, so it goes into the graph: whoever serves the file
sends what the camera or the client gave. The bytes depend on the trained weights alone: no time, path or trace is in them.

torch and skl2onnx are imported where they are used: exporting with one needs no installation of the other.
"""

import copy
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import onnx
from onnx import compose, helper
from scipy.special import softmax

from ensembles import existing, graphs, measuring, preprocessing
from ensembles.parity import TOLERANCE, check_parity, quiet
from ensembles.preprocessing import PREPARED, ExportError, Floats, Input, Rows
from ensembles.spec import DTYPES

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin
    from torch import nn

__all__ = [
    "ExportError",
    "Exported",
    "Input",
    "check_parity",
    "cleaned",
    "convert_sklearn",
    "convert_torch",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "run",
]

OUTPUT = "probabilities"
OPSETS = {"": 18, "ai.onnx.ml": 3}
IR_VERSION = 8  # the oldest that these opsets go with: any Triton and ONNX Runtime since 2023 reads it

Part = TypeVar("Part", onnx.NodeProto, onnx.TensorProto)


class Exported(NamedTuple):
    """ONNX bytes, and the worst difference between their probabilities and the source's on real rows."""

    model: bytes
    worst_difference: float


def from_torch(module: "nn.Module", given: Input, rows: Rows) -> bytes:
    """ONNX bytes of a module that maps float [n, *given.prepared_shape] to logits [n, classes].

    `rows` [n, *given.shape]: real rows, on which the graph has to agree with the module. The module stays as it is.
    Raises ExportError.
    """
    return convert_torch(module, given, rows).model


def convert_torch(module: "nn.Module", given: Input, rows: Rows, tolerance: float = TOLERANCE) -> Exported:
    """The same, with the difference that was found. Raises ExportError where it exceeds `tolerance`."""
    import torch

    source = torch.nn.Sequential(copy.deepcopy(module), torch.nn.Softmax(dim=1)).float().eval()
    with torch.no_grad():
        expected = source(torch.from_numpy(given.prepare(rows))).numpy()
    with quiet("torch.onnx"):
        program: Any = torch.onnx.export(
            source,
            (torch.zeros(2, *given.prepared_shape),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[PREPARED],
            output_names=[OUTPUT],
            opset_version=OPSETS[""],
            dynamo=True,
            verbose=False,
        )
    return _checked(program.model_proto, given, rows, expected, tolerance)


def from_sklearn(estimator: "ClassifierMixin", given: Input, rows: Rows) -> bytes:
    """ONNX bytes of a fitted classifier with `predict_proba`, for features [n, *given.prepared_shape], one axis a row.

    `rows` [n, *given.shape]: real rows, on which the graph has to agree with the estimator. Raises ExportError.
    """
    return convert_sklearn(estimator, given, rows).model


def convert_sklearn(estimator: "ClassifierMixin", given: Input, rows: Rows, tolerance: float = TOLERANCE) -> Exported:
    """The same, with the difference that was found. Raises ExportError where it exceeds `tolerance`."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    if len(given.prepared_shape) != 1:
        raise ExportError(f"seen_as: found {list(given.prepared_shape)}, expected one axis of features a row")
    expected = estimator.predict_proba(given.prepare(rows).astype(np.float64))
    with quiet("skl2onnx"):
        converted = skl2onnx.to_onnx(
            estimator,
            initial_types=[(PREPARED, FloatTensorType([None, *given.prepared_shape]))],
            options={"zipmap": False},
            target_opset=OPSETS,
        )
    # The estimator's other output, the label, would be a second opinion beside the vote.
    core = onnx.utils.Extractor(converted).extract_model([PREPARED], [OUTPUT])
    return _checked(core, given, rows, expected, tolerance)


def from_onnx(content: bytes, given: Input, rows: Rows, tolerance: float = TOLERANCE) -> bytes:
    """ONNX bytes of somebody's ONNX file, for float [n, *given.prepared_shape], behind the preprocessing that it expects.

    `rows` [n, *given.shape]: real rows, on which the whole has to agree with the file. Raises ExportError.
    """
    prepared = given.prepare(rows)
    theirs = existing.adopt(content, prepared, tolerance)
    core = compose.add_prefix(onnx.load_model_from_string(theirs.model), "net.")
    inside, outside = core.graph.input[0].name, core.graph.output[0].name
    first = helper.make_node("Identity", [PREPARED], [inside])
    last = helper.make_node("Softmax" if theirs.emits == "logits" else "Identity", [outside], [OUTPUT])
    nodes = [first, *core.graph.node, last]
    core.graph.ClearField("node")
    core.graph.node.extend(nodes)
    expected = measuring.scores(theirs.model, prepared)
    if theirs.emits == "logits":
        expected = softmax(expected, axis=1)
    return _checked(core, given, rows, expected, tolerance).model


def run(model: bytes, rows: Rows) -> measuring.Scores:
    """What a graph answers to rows [n, *shape], all at once, on one core: [n, classes]."""
    return measuring.scores(model, rows, max(len(rows), 1))


def cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph alone: nodes, weights, input and output, without what tools note beside them."""
    graph = helper.make_graph(
        [*map(_bare, model.graph.node)],
        "member",
        model.graph.input,
        model.graph.output,
        [*map(_bare, model.graph.initializer)],
    )
    return _assembled(graph, model, model.ir_version)


def _checked(core: onnx.ModelProto, given: Input, rows: Rows, expected: Floats, tolerance: float) -> Exported:
    """The served model's bytes, proven to keep the contract and to answer like its source."""
    classes = expected.shape[1]
    model: bytes = _served(core, given, classes).SerializeToString(deterministic=True)
    try:
        graphs.check(model, given.datatype, given.shape, classes)
    except graphs.GraphError as error:
        raise ExportError(str(error)) from None
    return Exported(model, check_parity(model, rows, expected, tolerance))


def _served(core: onnx.ModelProto, given: Input, classes: int) -> onnx.ModelProto:
    """The core behind its preprocessing, rebuilt from its nodes and weights so that nothing else comes along."""
    element = helper.np_dtype_to_tensor_dtype(DTYPES[given.datatype])
    nodes, constants = preprocessing.nodes(given)
    core = _apart(core, {given.name, *(name for node in nodes for name in (*node.input, *node.output))})
    graph = helper.make_graph(
        [*nodes, *map(_bare, core.graph.node)],
        "member",
        [helper.make_tensor_value_info(given.name, element, ["batch", *given.shape])],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["batch", classes])],
        [*constants, *map(_bare, core.graph.initializer)],
    )
    return _assembled(graph, core, IR_VERSION)


def _apart(core: onnx.ModelProto, taken: set[str]) -> onnx.ModelProto:
    """With names of its own: a net that takes a mean may well call it so."""
    own = {name for node in core.graph.node for name in (*node.input, *node.output)}
    clash = own & taken - {PREPARED, ""}
    if not clash:
        return core
    apart: onnx.ModelProto = compose.add_prefix(core, "net.", rename_inputs=False, rename_outputs=False)
    return apart


def _assembled(graph: onnx.GraphProto, source: onnx.ModelProto, ir_version: int) -> onnx.ModelProto:
    """With the operator sets of the standard that the source names; converters name them twice, and others besides."""
    versions = {opset.domain: opset.version for opset in source.opset_import if opset.domain in graphs.DOMAINS}
    opsets = [helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def _bare(part: Part) -> Part:
    """Without the exporter's notes: torch leaves stack traces with the paths of the machine."""
    bare = copy.deepcopy(part)
    bare.ClearField("doc_string")
    bare.ClearField("metadata_props")
    return bare
