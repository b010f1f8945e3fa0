"""ONNX files that somebody else exported, as members: what they take, what they emit, whether any batch will do.

A file that fits is taken byte for byte. One is changed only where it has a batch dimension of 1 and proves to need none, or
where it gives labels besides scores.
"""

from typing import Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.special import softmax

from ensembles import graphs, measuring
from ensembles.parity import TOLERANCE, check_parity, quiet
from ensembles.preprocessing import ExportError, Rows
from ensembles.spec import DTYPES
from ensembles.votes import SUM_TOLERANCE

Emits = Literal["probabilities", "logits"]

PARITY_ROWS = 64
"""Rows on which batches are held against single rows."""


class Signature(NamedTuple):
    """What one row is: the input's name, its Open Inference Protocol datatype and its shape."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Member(NamedTuple):
    """A graph that keeps the contract, what it emits, and the worst difference that was found on real rows."""

    model: bytes
    emits: Emits
    worst_difference: float


def signature(content: bytes) -> tuple[Signature, int]:
    """The input of an ONNX file and its number of classes. Raises ExportError unless it has one input and one set of scores."""
    given, scores = _ends(_opened(content))
    shape, classes = _dims(given)[1:], _dims(scores)[-1]
    name = graphs.DATATYPES.get(given.type.tensor_type.elem_type, "")
    if name not in DTYPES or not shape or None in shape:
        raise ExportError(
            f"input {given.name!r}: found {_shown(given)}, expected a tensor [batch, …] of fixed row shape"
        )
    if classes is None:
        raise ExportError(f"output {scores.name!r}: found {_shown(scores)}, expected [batch, classes] of fixed classes")
    return Signature(given.name, name, tuple(size or 0 for size in shape)), classes


def adopt(content: bytes, rows: Rows, tolerance: float = TOLERANCE) -> Member:
    """The file as a member, proven on `rows` [n, *shape]: each row gets the same answer alone and in any batch. Raises ExportError."""
    given, classes = signature(content)
    if (rows.dtype, rows.shape[1:]) != (DTYPES[given.datatype], given.shape):
        raise ExportError(
            f"input {given.name!r}: found {given.datatype} {list(given.shape)}, expected {rows.dtype} {list(rows.shape[1:])}"
        )
    model = _ready(content)
    try:
        graphs.check(model, given.datatype, given.shape, classes)
    except graphs.GraphError as error:
        raise ExportError(str(error)) from None
    alone = _one_by_one(content, rows[:PARITY_ROWS])
    emits = detect(alone)
    expected = softmax(alone, axis=1) if emits == "logits" else alone
    try:
        worst = check_parity(model, rows[:PARITY_ROWS], expected, tolerance, logits=emits == "logits")
    except ExportError as error:
        if model == content:
            raise
        raise ExportError(f"found a graph for a batch of 1 only, expected any batch: {error}") from None
    return Member(model, emits, worst)


def detect(scores: NDArray[np.floating]) -> Emits:
    """What scores [n, classes] of real rows are. Raises ExportError for what is neither.

    Numbers from 0 to 1 that do not sum to one are most likely a sigmoid for each class; their softmax would be nobody's opinion.
    """
    if not np.isfinite(scores).all():
        raise ExportError("output: found numbers that are not finite, expected probabilities or logits")
    if scores.min() < -SUM_TOLERANCE or scores.max() > 1 + SUM_TOLERANCE:
        return "logits"
    sums = scores.sum(axis=1)
    if np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise ExportError(
            f"output: found numbers from 0 to 1 whose rows sum to {sums.min():.3g} to {sums.max():.3g}, "
            "expected probabilities, which sum to 1, or logits"
        )
    return "probabilities"


def _opened(content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except Exception:
        raise ExportError("found other bytes, expected an ONNX model") from None
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in {"", "ai.onnx"} and opset.version > newest:
            raise ExportError(f"found opset {opset.version}, expected at most {newest}")
    if model.ir_version > onnx.IR_VERSION:
        raise ExportError(f"found ONNX IR version {model.ir_version}, expected at most {onnx.IR_VERSION}")
    return model


def _ends(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    """The input, and the output that holds the scores: the only one of floats with two axes."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    scores = [
        value for value in model.graph.output if _element(value) == onnx.TensorProto.FLOAT and len(_dims(value)) == 2
    ]
    if len(inputs) != 1:
        raise ExportError(f"found {len(inputs)} inputs, expected one, the rows")
    if len(scores) != 1:
        shown = ", ".join(f"{value.name} {_shown(value)}" for value in model.graph.output)
        raise ExportError(f"found the outputs {shown}, expected one of FP32 [batch, classes]")
    return inputs[0], scores[0]


def _ready(content: bytes) -> bytes:
    """The same bytes where they will do; else with scores as the only output, and with any batch where it was 1."""
    model = _opened(content)
    given, scores = _ends(model)
    sizes = {size for size in (_dims(given)[0], _dims(scores)[0]) if size is not None}
    if sizes - {1}:
        raise ExportError(f"{given.name!r}: found a batch dimension of {max(sizes)}, expected a dynamic one")
    if not sizes and len(model.graph.output) == 1:
        return content
    if len(model.graph.output) > 1:
        with quiet("onnx"):
            model = onnx.utils.Extractor(model).extract_model([given.name], [scores.name])
        given, scores = _ends(model)
    for value in (given, scores):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    ready: bytes = model.SerializeToString(deterministic=True)
    return ready


def _one_by_one(content: bytes, rows: Rows) -> NDArray[np.float32]:
    with quiet("ONNX Runtime"):
        opened = measuring.session(content)
        outputs, (given,) = [value.name for value in opened.get_outputs()], opened.get_inputs()
        scores = _ends(_opened(content))[1].name
        answers = [dict(zip(outputs, opened.run(None, {given.name: row[None]}), strict=True)) for row in rows]
        return np.concatenate([answer[scores] for answer in answers])


def _element(value: onnx.ValueInfoProto) -> int:
    element: int = value.type.tensor_type.elem_type
    return element


def _dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def _shown(value: onnx.ValueInfoProto) -> str:
    sizes = ", ".join("?" if size is None else str(size) for size in _dims(value))
    return f"{graphs.DATATYPES.get(_element(value), 'another type')} [{sizes}]"
