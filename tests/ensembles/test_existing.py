"""ONNX files that others exported: what fits is taken as it is, what does not is refused with one line."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ensembles import existing, measuring
from ensembles.preprocessing import ExportError

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(20, 3)).astype(np.float32)
WEIGHTS = RNG.normal(size=(3, 4)).astype(np.float32) * 3


def classifier(*ends: str, batch: int | str = "batch", rows: str = "batch", **more: Any) -> onnx.ModelProto:
    """A linear classifier of 3 numbers into 4 classes that ends in the operators `ends`."""
    names = ["logits", *(f"after_{end}" for end in ends)]
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["logits"])]
    nodes += [
        helper.make_node(end, [before], [after]) for end, before, after in zip(ends, names, names[1:], strict=False)
    ]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, **more)


def adopted(model: onnx.ModelProto, rows: np.ndarray[Any, Any] = ROWS) -> existing.Member:
    return existing.adopt(model.SerializeToString(), rows)


def refusal(model: onnx.ModelProto, rows: np.ndarray[Any, Any] = ROWS) -> str:
    with pytest.raises(ExportError) as fault:
        adopted(model, rows)
    assert "\n" not in str(fault.value)
    return str(fault.value)


def test_a_file_that_fits_is_taken_byte_for_byte() -> None:
    content = classifier("Softmax").SerializeToString()

    assert existing.adopt(content, ROWS).model == content


@pytest.mark.parametrize(
    ("ends", "emits"),
    [
        (["Softmax"], "probabilities"),
        ([], "logits"),
        (["LogSoftmax"], "logits"),
        (["Softmax", "Identity"], "probabilities"),
    ],
)
def test_logits_and_probabilities_are_told_apart_on_real_rows(ends: list[str], emits: str) -> None:
    assert adopted(classifier(*ends)).emits == emits


def test_a_sigmoid_for_each_class_is_neither() -> None:
    assert refusal(classifier("Sigmoid")).startswith("output: found numbers from 0 to 1 whose rows sum to ")


def test_what_is_not_finite_is_neither() -> None:
    assert refusal(classifier("Exp"), ROWS * 1e4) == (
        "output: found numbers that are not finite, expected probabilities or logits"
    )


def test_a_batch_of_one_grows_where_the_graph_allows() -> None:
    fixed, free = classifier("Softmax", batch=1), classifier("Softmax")
    member = adopted(fixed)

    assert measuring.scores(member.model, ROWS) == pytest.approx(measuring.scores(free.SerializeToString(), ROWS))
    assert member.worst_difference < 1e-6


def test_a_graph_that_needs_its_batch_of_one_is_refused() -> None:
    fixed = classifier("Softmax", batch=1)
    fixed.graph.initializer.append(numpy_helper.from_array(np.array([1, 4]), "shape"))
    fixed.graph.node.append(helper.make_node("Reshape", ["after_Softmax", "shape"], ["reshaped"]))
    fixed.graph.output[0].name = "reshaped"

    assert refusal(fixed).startswith("found a graph for a batch of 1 only, expected any batch: parity: a batch of 2 ")


def test_a_larger_fixed_batch_is_refused() -> None:
    assert refusal(classifier(batch=8)) == "'features': found a batch dimension of 8, expected a dynamic one"


def test_an_answer_that_depends_on_the_neighbours_is_refused() -> None:
    neighbours = classifier("Softmax")
    neighbours.graph.node[1].attribute.append(helper.make_attribute("axis", 0))

    assert "found a worst difference of" in refusal(neighbours) or "rows sum to" in refusal(neighbours)


def test_labels_beside_the_scores_are_left_out() -> None:
    both = classifier("Softmax")
    both.graph.node.append(helper.make_node("ArgMax", ["after_Softmax"], ["label"], axis=1, keepdims=0))
    both.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
    model = onnx.load_model_from_string(adopted(both).model)

    assert [value.name for value in model.graph.output] == ["after_Softmax"]
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Softmax"]


def test_what_scikit_learns_converter_writes_is_taken() -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.linear_model import LogisticRegression

    y = RNG.integers(0, 4, 20)
    estimator = LogisticRegression().fit(ROWS, y)
    content = skl2onnx.to_onnx(estimator, ROWS[:1], options={"zipmap": False}, target_opset=18).SerializeToString()

    member = existing.adopt(content, ROWS)
    assert member.emits == "probabilities"
    assert measuring.scores(member.model, ROWS) == pytest.approx(estimator.predict_proba(ROWS), abs=1e-5)


def test_other_bytes_are_no_model() -> None:
    with pytest.raises(ExportError, match="^found other bytes, expected an ONNX model$"):
        existing.adopt(b"not a model", ROWS)


def test_an_operator_of_somebodys_own_is_refused() -> None:
    own = classifier("Softmax")
    own.graph.node[1].domain = "com.example"

    assert refusal(own) == "found operator com.example.Softmax, expected ai.onnx and ai.onnx.ml only"


def test_weights_outside_the_file_are_refused() -> None:
    outside = classifier("Softmax")
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    outside.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")

    assert refusal(outside) == "found external data, expected all weights inside the file"


def test_versions_that_are_not_known_yet_are_refused() -> None:
    newest = onnx.defs.onnx_opset_version()
    model = classifier()
    model.opset_import[0].version = newest + 1
    assert refusal(model) == f"found opset {newest + 1}, expected at most {newest}"

    model = classifier()
    model.ir_version = onnx.IR_VERSION + 1
    assert refusal(model).startswith(f"found ONNX IR version {onnx.IR_VERSION + 1}, expected at most ")


def test_rows_of_another_kind_are_refused() -> None:
    assert refusal(classifier(), ROWS.astype(np.float64)) == ("input 'features': found FP32 [3], expected float64 [3]")


def test_classes_and_row_shape_have_to_be_fixed() -> None:
    model = classifier()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    assert refusal(model) == "output 'logits': found FP32 [?, ?], expected [batch, classes] of fixed classes"

    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
    assert refusal(model) == "input 'features': found FP32 [?, ?], expected a tensor [batch, …] of fixed row shape"


def test_two_sets_of_scores_are_one_too_many() -> None:
    model = classifier("Softmax")
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4]))

    assert refusal(model) == (
        "found the outputs after_Softmax FP32 [?, 4], logits FP32 [?, 4], expected one of FP32 [batch, classes]"
    )
