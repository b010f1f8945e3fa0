"""Cheaper copies of a member: 8-bit integers or 16-bit floats where its time goes, the contract kept at both ends.

What stands before the first layer that multiplies by weights, the preprocessing, stays in 32 bits, as does the softmax: pixels
do not overflow and probabilities sum to one. The copies hold standard operators only and run wherever the member runs.

Integer weights have 7 bits: on processors without VNNI two products of 8 bits overflow a sum of 16 and are cut off in silence.

ONNX Runtime's quantisers are imported where they are used: most exports ask for no copy.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ensembles import export, graphs, measuring
from ensembles.existing import signature
from ensembles.parity import quiet
from ensembles.preprocessing import ExportError, Rows

Ints = NDArray[np.int64]

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Where a net's time goes. A tree or a naive Bayes classifier has none of them."""

AROUND = ["Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"]
"""Operators that run in integers: the heavy ones and what stands between them, so that numbers need not change to and fro."""

KINDS = ("int8", "fp16")


def make(kind: str, model: bytes, rows: Rows, y: Ints) -> bytes:
    """The copy of the kind, "int8" or "fp16". `rows` [n, *shape] and `y` [n] are real; they set ranges and choose. Raises ExportError."""
    return int8(model, rows, y) if kind == "int8" else fp16(model)


def int8(model: bytes, rows: Rows, y: Ints) -> bytes:
    """Weights and activations in 8 bits.

    Convolutional nets: with fixed ranges, taken from `rows`. Others: with those, unless ranges taken anew from each batch get
    more of `rows` right; then a row's answer depends a little on the rows beside it. Raises ExportError.
    """
    prepared = _parsed(_with_files(_optimise, model))
    before = _before_the_first_layer(prepared, "int8")
    ways: list[Callable[[Path, Path], None]] = [lambda plain, cheap: _static(plain, cheap, before, rows)]
    if not any(node.op_type == "Conv" for node in prepared.graph.node):
        ways.append(lambda plain, cheap: _dynamic(plain, cheap, before))
    copies = [_standard(_parsed(_with_files(way, prepared.SerializeToString())), model) for way in ways]
    return max(copies, key=lambda copy: _right(copy, rows, y))


def fp16(model: bytes) -> bytes:
    """Weights and activations in 16-bit floats. Raises ExportError."""
    from onnxruntime.transformers import float16

    named = _parsed(model)
    kept = named.graph.node[: len(_before_the_first_layer(named, "fp16"))]
    softmax = _last_softmax(named)
    end = softmax[0].input[0] if softmax else named.graph.output[0].name
    with quiet("fp16"):
        half = float16.convert_float_to_float16(_after(named, kept, end), keep_io_types=True)
    _surround(half, named, kept, softmax)
    return _standard(half, model)


def _last_softmax(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    last = model.graph.node[-1]
    return [last] if last.op_type == "Softmax" and last.output[0] == model.graph.output[0].name else []


def _after(model: onnx.ModelProto, kept: Sequence[onnx.NodeProto], end: str) -> onnx.ModelProto:
    """The part of the graph between what is kept as it is and the tensor `end`."""
    made = {model.graph.input[0].name, *(name for node in kept for name in node.output)}
    used = {name for node in model.graph.node[len(kept) :] for name in node.input}
    typed = onnx.shape_inference.infer_shapes(model)
    part: onnx.ModelProto = onnx.utils.Extractor(typed).extract_model(sorted(made & used), [end])
    return part


def _surround(
    half: onnx.ModelProto, whole: onnx.ModelProto, kept: Sequence[onnx.NodeProto], softmax: Sequence[onnx.NodeProto]
) -> None:
    """Puts the part back between what was kept."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    needed = {name for node in kept for name in node.input}
    constants = [tensor for tensor in whole.graph.initializer if tensor.name in needed]
    if {tensor.name for tensor in constants} & {tensor.name for tensor in half.graph.initializer}:
        raise ExportError("fp16: found weights that preprocessing shares with the net, expected its own")
    ONNXModel(half).topological_sort()  # the converter leaves its casts at the end
    nodes = [*kept, *half.graph.node, *softmax]
    for field, values in (("node", nodes), ("initializer", [*constants, *half.graph.initializer])):
        half.graph.ClearField(field)
        getattr(half.graph, field).extend(values)
    for field in ("input", "output"):
        half.graph.ClearField(field)
        getattr(half.graph, field).extend(getattr(whole.graph, field))


def _parsed(model: bytes) -> onnx.ModelProto:
    """With a name for each node, by which quantisers know them."""
    parsed = onnx.load_model_from_string(model)
    for number, node in enumerate(parsed.graph.node):
        node.name = f"{number}-{node.op_type}"
    return parsed


def _before_the_first_layer(model: onnx.ModelProto, kind: str) -> list[str]:
    names = [node.name for node in model.graph.node]
    heavy = [node.op_type in HEAVY for node in model.graph.node]
    if not any(heavy):
        raise ExportError(
            f"{kind}: found no {', '.join(sorted(HEAVY))} in the graph, expected one that could be cheaper"
        )
    return names[: heavy.index(True)]


def _with_files(step: Callable[[Path, Path], None], model: bytes) -> bytes:
    """The quantiser's steps go from file to file."""
    with tempfile.TemporaryDirectory() as scratch, quiet("onnxruntime.quantization"):
        plain, changed = Path(scratch) / "plain.onnx", Path(scratch) / "changed.onnx"
        plain.write_bytes(model)
        step(plain, changed)
        return changed.read_bytes()


def _optimise(plain: Path, optimised: Path) -> None:
    """Folds batch normalisation into convolutions, whose weights then have the range that is really computed with."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(plain, optimised, skip_symbolic_shape=True)


def _static(plain: Path, cheap: Path, kept: list[str], rows: Rows) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
        """`rows`, as the quantiser wants to be fed."""

        def __init__(self) -> None:
            name = onnx.load(plain, load_external_data=False).graph.input[0].name
            self._batches: Iterator[dict[str, Rows]] = ({name: batch} for batch in measuring.batches(rows))

        def get_next(self) -> dict[str, Rows] | None:
            return next(self._batches, None)

    quantize_static(
        plain,
        cheap,
        Batches(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=AROUND,
        nodes_to_exclude=kept,
        per_channel=True,
        reduce_range=True,
        # Classes would tie if the last layer's answers had 256 steps as well.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )


def _dynamic(plain: Path, cheap: Path, kept: list[str]) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(
        plain,
        cheap,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=kept,
        per_channel=True,
        reduce_range=True,
    )


def _standard(copy: onnx.ModelProto, model: bytes) -> bytes:
    """The copy without what the quantiser notes beside it, proven to keep the member's contract."""
    content: bytes = export.cleaned(copy).SerializeToString(deterministic=True)
    given, classes = signature(model)
    try:
        graphs.check(content, given.datatype, given.shape, classes)
    except graphs.GraphError as error:
        raise ExportError(str(error)) from None
    return content


def _right(copy: bytes, rows: Rows, y: Ints) -> int:
    return int((measuring.scores(copy, rows).argmax(axis=1) == y).sum())
