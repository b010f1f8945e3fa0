"""ONNX graphs: what may be served, and what Triton wants to know of them. The only place of the core that imports onnx."""

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from ensembles.wording import one_line

DATATYPES = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
}
DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}


class GraphError(ValueError):
    """The graph cannot serve as a member. One line: what was found and what was expected."""


def check(content: bytes, datatype: str, shape: tuple[int, ...], classes: int) -> None:
    """Refuse a graph that is not `datatype` [batch, *shape] to FP32 [batch, classes] in standard operators, self-contained.

    Raises GraphError.
    """
    graph = _parse(content).graph
    given, produced = _signature(graph)
    if (datatype, shape) != (_datatype(given), _dims(given)[1:]):
        raise GraphError(
            f"input {given.name!r}: found {_datatype(given)} {_shown(given)}, expected {datatype} {_wanted(shape)}"
        )
    if (_datatype(produced), _dims(produced)[1:]) != ("FP32", (classes,)):
        raise GraphError(
            f"output {produced.name!r}: found {_datatype(produced)} {_shown(produced)}, expected FP32 {_wanted((classes,))}"
        )
    for value in (given, produced):
        if _dims(value)[0] is not None:
            raise GraphError(f"{value.name!r}: found a batch dimension of {_dims(value)[0]}, expected a dynamic one")


def triton_config(name: str, content: bytes, max_batch_size: int) -> str:
    """The text of the model's `config.pbtxt`."""
    given, produced = _signature(_parse(content).graph)
    return (
        f'name: "{name}"\n'
        'platform: "onnxruntime_onnx"\n'
        f"max_batch_size: {max_batch_size}\n"
        f"input [{_triton_tensor(given)}]\n"
        f"output [{_triton_tensor(produced)}]\n"
        "dynamic_batching {}\n"
    )


def _triton_tensor(value: onnx.ValueInfoProto) -> str:
    dims = ", ".join(str(d) for d in _dims(value)[1:])
    return f'{{ name: "{value.name}" data_type: TYPE_{_datatype(value)} dims: [ {dims} ] }}'


def _parse(content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except Exception:
        raise GraphError("expected an ONNX model, found other bytes") from None
    _refuse_foreign(model)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # its own class, and that of whatever its text was no text for
        raise GraphError(f"expected a valid ONNX model, found {one_line(error)}") from None
    return model


def _refuse_foreign(model: onnx.ModelProto) -> None:
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in DOMAINS:
                raise GraphError(f"found operator {node.domain}.{node.op_type}, expected ai.onnx and ai.onnx.ml only")
        for tensor in _tensors(graph):
            if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
                raise GraphError("found external data, expected all weights inside the file")
    if model.functions:
        raise GraphError("found functions of its own, expected operators of ai.onnx and ai.onnx.ml only")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph, wherever one can stand."""
    yield from graph.initializer
    sparse = list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every subgraph of its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node or inner.initializer:
                    yield from _graphs(inner)


def _signature(graph: onnx.GraphProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise GraphError(f"found {len(inputs)} inputs and {len(graph.output)} outputs, expected one of each")
    for value in (inputs[0], graph.output[0]):
        if not value.type.tensor_type.HasField("shape") or not value.type.tensor_type.shape.dim:
            raise GraphError(f"{value.name!r}: found no shape, expected one with a batch dimension")
    return inputs[0], graph.output[0]


def _datatype(value: onnx.ValueInfoProto) -> str:
    return DATATYPES.get(value.type.tensor_type.elem_type, "another type")


def _dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def _shown(value: onnx.ValueInfoProto) -> str:
    return "[" + ", ".join("batch" if d is None else str(d) for d in _dims(value)) + "]"


def _wanted(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(["batch", *map(str, shape)]) + "]"
