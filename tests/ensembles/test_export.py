"""What `ensembles.export` promises of its bytes: they answer like their source, in any batch, and depend on nothing else."""

from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("skl2onnx")

import torch
from onnx import helper
from scipy.special import softmax
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from ensembles import export
from ensembles.export import ExportError, Input

ROWS = np.random.default_rng(7).integers(0, 17, (40, 8, 8), dtype=np.uint8)
LABELS = (ROWS[:, :5, 2:6].mean(axis=(1, 2)) > 8).astype(np.int64)

IMAGE = Input("image", "UINT8", (8, 8), crop=((0, 5), (2, 6)), scale=1 / 16, seen_as=(1, 5, 4))
PIXELS = Input("image", "UINT8", (8, 8), crop=((0, 5), (2, 6)), scale=1 / 16, seen_as=(20,))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 3 * 2, 2)).double()


def forest() -> RandomForestClassifier:
    return RandomForestClassifier(5, max_depth=3, random_state=0).fit(PIXELS.prepare(ROWS).astype(np.float64), LABELS)


@pytest.fixture(scope="module")
def exported() -> dict[str, bytes]:
    return {"net": export.from_torch(net(), IMAGE, ROWS), "forest": export.from_sklearn(forest(), PIXELS, ROWS)}


def test_preprocessing_crops_scales_and_reshapes() -> None:
    prepared = IMAGE.prepare(ROWS)

    assert prepared.shape == (40, 1, 5, 4) and prepared.dtype == np.float32
    assert np.array_equal(prepared[3, 0], ROWS[3, :5, 2:6] / 16)


def test_without_options_the_rows_are_only_cast() -> None:
    flat = Input("features", "FP64", (3,))
    rows = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    model = export.from_torch(nn.Identity(), flat, rows)

    assert export.run(model, rows) == pytest.approx(np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True), abs=1e-6)


@pytest.mark.parametrize("name", ["net", "forest"])
def test_raw_rows_in_probabilities_out(exported: dict[str, bytes], name: str) -> None:
    graph = onnx.load_model_from_string(exported[name]).graph
    given, produced = graph.input[0], graph.output[0]

    assert (len(graph.input), len(graph.output)) == (1, 1)
    assert (given.name, given.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", 8, 8]
    assert (produced.name, produced.type.tensor_type.elem_type) == ("probabilities", onnx.TensorProto.FLOAT)
    assert [d.dim_param or d.dim_value for d in produced.type.tensor_type.shape.dim] == ["batch", 2]


@pytest.mark.parametrize("name", ["net", "forest"])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 40])
def test_a_row_gets_the_same_answer_in_any_batch(exported: dict[str, bytes], name: str, size: int) -> None:
    found = export.run(exported[name], ROWS[:size])

    assert found.shape == (size, 2)
    assert found == pytest.approx(export.run(exported[name], ROWS)[:size], abs=1e-6)


def test_a_net_may_call_its_tensors_like_the_preprocessing() -> None:
    class Mean(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            mean = image.mean(dim=(2, 3))
            return torch.cat([mean, 1 - mean], dim=1)

    shade = Input("image", "UINT8", (8, 8), scale=1 / 16, layout="NHW", mean=(0.5,), std=(0.1,))
    model = export.from_torch(Mean(), shade, ROWS)

    assert export.run(model, ROWS)[:, 0] == pytest.approx(
        1 / (1 + np.exp(1 - 2 * (ROWS.mean(axis=(1, 2)) / 16 - 0.5) / 0.1)), abs=1e-5
    )


def test_the_graph_answers_like_its_source(exported: dict[str, bytes]) -> None:
    assert export.run(exported["forest"], ROWS) == pytest.approx(forest().predict_proba(PIXELS.prepare(ROWS)), abs=1e-6)

    module = net().float().eval()
    assert export.run(exported["net"], ROWS) == pytest.approx(
        module(torch.from_numpy(IMAGE.prepare(ROWS))).softmax(dim=1).detach().numpy(), abs=1e-6
    )


def test_the_module_stays_as_it_was() -> None:
    module = net().train()
    export.from_torch(module, IMAGE, ROWS)

    assert module.training and next(module.parameters()).dtype == torch.float64


@pytest.mark.parametrize("ends", [[], ["Softmax"]])
def test_somebodys_file_gets_the_preprocessing_that_it_expects(ends: list[str]) -> None:
    weights = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "scale"], ["raw"])]
    nodes += [helper.make_node(end, ["raw"], ["out"]) for end in ends]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("out" if ends else "raw", onnx.TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(weights, "scale")],
    )
    theirs = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    shade = Input("image", "UINT8", (8, 8), scale=1 / 16, layout="NHW", mean=(0.5,), std=(0.3,))
    model = export.from_onnx(theirs.SerializeToString(), shade, ROWS)

    logits = shade.prepare(ROWS).reshape(40, 64) @ weights
    assert export.run(model, ROWS) == pytest.approx(softmax(logits, axis=1), abs=1e-5)


def test_two_exports_are_the_same_bytes(exported: dict[str, bytes]) -> None:
    assert export.from_torch(net(), IMAGE, ROWS) == exported["net"]
    assert export.from_sklearn(forest(), PIXELS, ROWS) == exported["forest"]


@pytest.mark.parametrize("name", ["net", "forest"])
def test_the_bytes_are_standard_and_complete(exported: dict[str, bytes], name: str) -> None:
    model = onnx.load_model_from_string(exported[name])

    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx.ml"}
    assert max(opset.version for opset in model.opset_import) <= 20
    assert not model.functions
    assert not any(weights.external_data for weights in model.graph.initializer)


@pytest.mark.parametrize("name", ["net", "forest"])
def test_the_bytes_tell_nothing_of_the_machine(exported: dict[str, bytes], name: str) -> None:
    model = onnx.load_model_from_string(exported[name])
    parts: list[Any] = [model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info]

    assert not any(part.doc_string for part in parts)
    assert not any(part.metadata_props for part in parts)
    assert not model.producer_name and not model.producer_version
    assert b"/" + __file__.encode().split(b"/")[1] not in exported[name]
    assert b".py" not in exported[name]


def test_another_models_answers_are_refused_with_the_worst_difference(exported: dict[str, bytes]) -> None:
    expected = export.run(exported["net"], ROWS)
    other = export.run(export.from_torch(net(seed=1), IMAGE, ROWS), ROWS)
    worst = np.abs(expected - other)[:1].max()

    with pytest.raises(ExportError) as refusal:
        export.check_parity(exported["net"], ROWS, other)
    assert str(refusal.value) == (
        f"parity: found a worst difference of {worst:.3g} in a batch of 1, expected at most 0.0001"
    )


def test_a_difference_that_grows_with_the_batch_is_found(exported: dict[str, bytes]) -> None:
    expected = export.run(exported["net"], ROWS)
    expected[6] += 2e-4

    with pytest.raises(ExportError, match=r"found a worst difference of 0\.0002 in a batch of 7"):
        export.check_parity(exported["net"], ROWS, expected)


def test_the_worst_difference_that_is_tolerated_is_told(exported: dict[str, bytes]) -> None:
    expected = export.run(exported["net"], ROWS)
    expected[6] += 5e-5

    assert export.check_parity(exported["net"], ROWS, expected) == pytest.approx(5e-5, rel=0.01)


def test_no_number_is_no_answer(exported: dict[str, bytes]) -> None:
    with pytest.raises(ExportError, match="worst difference of nan"):
        export.check_parity(exported["net"], ROWS, np.full((40, 2), np.nan))


def test_a_label_that_flips_within_the_tolerance_is_refused() -> None:
    undecided = nn.Linear(20, 2)
    nn.init.zeros_(undecided.weight)
    nn.init.zeros_(undecided.bias)
    model = export.from_torch(undecided, PIXELS, ROWS)

    export.check_parity(model, ROWS, np.full((40, 2), 0.5))
    with pytest.raises(ExportError, match=r"found 1 other labels in a batch of 1, expected none"):
        export.check_parity(model, ROWS, np.tile([0.49999, 0.50001], (40, 1)))


def test_another_number_of_classes_is_refused(exported: dict[str, bytes]) -> None:
    with pytest.raises(ExportError, match=r"found \[1, 2\] in a batch of 1, expected \[1, 3\]"):
        export.check_parity(exported["net"], ROWS, np.full((40, 3), 1 / 3))


def test_a_batch_that_cannot_run_is_refused(exported: dict[str, bytes]) -> None:
    with pytest.raises(ExportError, match="parity: a batch of 1 cannot run: .*tensor\\(uint8\\)"):
        export.check_parity(exported["net"], ROWS.astype(np.float32), np.full((40, 2), 0.5))


def test_a_module_with_a_batch_of_its_own_is_refused_in_one_line() -> None:
    with pytest.raises(ExportError, match="^parity: a batch of 1 cannot run: ") as refusal:
        export.from_torch(nn.Sequential(nn.Flatten(0), nn.Linear(40, 4), nn.Unflatten(0, (2, 2))), PIXELS, ROWS[:2])
    assert "\n" not in str(refusal.value)


def test_a_module_that_looks_at_neighbours_in_the_batch_is_refused() -> None:
    with pytest.raises(ExportError, match="parity: found a worst difference of .* in a batch of 1,"):
        export.from_torch(nn.Softmax(dim=0), PIXELS, ROWS)


def test_an_estimator_that_has_no_graph_is_refused_in_one_line() -> None:
    class Guess(RandomForestClassifier):  # type: ignore[misc]  # scikit-learn has no types
        """No converter knows it."""

    guess = Guess(2).fit(PIXELS.prepare(ROWS), LABELS)
    with pytest.raises(ExportError, match="^skl2onnx: .*Guess") as refusal:
        export.from_sklearn(guess, PIXELS, ROWS)
    assert "\n" not in str(refusal.value)


def test_features_of_an_estimator_have_one_axis() -> None:
    with pytest.raises(ExportError, match=r"seen_as: found \[1, 5, 4\], expected one axis of features a row"):
        export.from_sklearn(forest(), IMAGE, ROWS)


def test_a_shape_that_does_not_hold_the_crop_is_refused() -> None:
    with pytest.raises(ExportError, match=r"seen_as: found \[64\], expected a shape that holds \[5, 4\]"):
        Input("image", "UINT8", (8, 8), crop=((0, 5), (2, 6)), seen_as=(64,)).prepare(ROWS)
