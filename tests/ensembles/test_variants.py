"""Cheaper copies of the nets that ship: smaller, of standard operators, and with the same contract."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from ensembles import graphs, measuring, variants
from ensembles.preprocessing import ExportError
from ensembles.repository import Repository


@pytest.fixture(scope="module")
def models(digits: Repository) -> dict[str, bytes]:
    return {member.name: digits.model(member) for member in digits.spec.members}


@pytest.fixture(scope="module")
def copies(models, samples) -> dict[tuple[str, str], bytes]:
    """Of the convolutional and the other net, made with the first 200 samples."""
    x, y = samples
    return {
        (name, kind): variants.make(kind, models[name], x[:200], y[:200])
        for name in ("mlp", "cnn")
        for kind in variants.KINDS
    }


EACH = pytest.mark.parametrize(("name", "kind"), [(n, k) for n in ("mlp", "cnn") for k in variants.KINDS])


@EACH
def test_a_copy_keeps_the_contract_in_fewer_bytes(copies, models, name: str, kind: str) -> None:
    graphs.check(copies[name, kind], "UINT8", (8, 8), 10)

    assert len(copies[name, kind]) < 0.8 * len(models[name])


@EACH
def test_a_copy_answers_nearly_like_the_member(copies, models, samples, name: str, kind: str) -> None:
    x = samples[0][200:]
    copy, member = measuring.scores(copies[name, kind], x), measuring.scores(models[name], x)

    assert (copy.argmax(axis=1) == member.argmax(axis=1)).mean() > 0.97
    assert copy.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("mlp", "fp16"), ("cnn", "fp16"), ("cnn", "int8")])
def test_a_row_gets_the_same_answer_in_any_batch(copies, samples, name: str, kind: str) -> None:
    x = samples[0][:7]
    alone = measuring.scores(copies[name, kind], x, 1)

    assert measuring.scores(copies[name, kind], x, 7) == pytest.approx(alone, abs=1e-3)


def test_the_numbers_are_small_where_the_time_goes(copies) -> None:
    def weights(name: str, kind: str) -> set[int]:
        graph = onnx.load_model_from_string(copies[name, kind]).graph
        return {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}

    assert weights("cnn", "fp16") == weights("mlp", "fp16") == {onnx.TensorProto.FLOAT16}
    assert weights("cnn", "int8") == weights("mlp", "int8") == {onnx.TensorProto.INT8}


def test_integer_weights_leave_room_for_sums_of_16_bits(copies) -> None:
    graph = onnx.load_model_from_string(copies["cnn", "int8"]).graph
    kernels = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if len(tensor.dims) > 1]

    assert max(np.abs(kernel.astype(int)).max() for kernel in kernels) <= 64


def test_preprocessing_and_softmax_stay_in_32_bits(copies) -> None:
    operators = [node.op_type for node in onnx.load_model_from_string(copies["cnn", "fp16"]).graph.node]

    assert operators[:5] == ["Slice", "Cast", "Mul", "Reshape", "Reshape"]
    assert operators[-2:] == ["Cast", "Softmax"]


@EACH
def test_two_copies_are_the_same_bytes(copies, models, samples, name: str, kind: str) -> None:
    assert variants.make(kind, models[name], samples[0][:200], samples[1][:200]) == copies[name, kind]


@pytest.mark.parametrize("kind", variants.KINDS)
def test_a_forest_has_nothing_to_make_cheaper(models, samples, kind: str) -> None:
    with pytest.raises(
        ExportError, match=f"^{kind}: found no Conv, .* in the graph, expected one that could be cheaper"
    ):
        variants.make(kind, models["forest"], samples[0][:50], samples[1][:50])


def test_batch_normalisation_is_folded_before_ranges_are_taken() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(4, 3, 3, 3)),
        "one": np.ones(4),
        "zero": np.zeros(4),
        "variance": [100.0, 1.0, 0.01, 1.0],
        "matrix": rng.normal(size=(144, 3)) / 20,
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["seen"]),
        helper.make_node("BatchNormalization", ["seen", "one", "zero", "zero", "variance"], ["normalised"]),
        helper.make_node("Relu", ["normalised"], ["active"]),
        helper.make_node("Flatten", ["active"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    rows = rng.random((32, 3, 8, 8)).astype(np.float32)
    copy = variants.int8(net, rows, np.zeros(32, np.int64))

    assert "BatchNormalization" not in {node.op_type for node in onnx.load_model_from_string(copy).graph.node}
    assert measuring.scores(copy, rows) == pytest.approx(measuring.scores(net, rows), abs=0.05)
