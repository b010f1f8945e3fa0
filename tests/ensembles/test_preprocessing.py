"""What the graph does to a raw row is what numpy does in training, and resizing is what Pillow does."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from onnx import helper
from PIL import Image

from ensembles import measuring, preprocessing
from ensembles.preprocessing import PREPARED, ExportError, Input, Interpolation

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)
sides = st.integers(1, 20)
GREY = RNG.integers(0, 256, (5, 12, 10), dtype=np.uint8)
EVERYTHING = Input("image", "UINT8", (8, 8, 3), ((0, 5),), layout="NHWC", resize=(4, 4), mean=(0.5,), std=(0.2,))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def in_graph(given: Input, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the nodes make of the rows."""
    nodes, constants = preprocessing.nodes(given)
    element = helper.np_dtype_to_tensor_dtype(rows.dtype)
    graph = helper.make_graph(
        nodes,
        "preprocessing",
        [helper.make_tensor_value_info(given.name, element, ["batch", *given.shape])],
        [helper.make_tensor_value_info(PREPARED, onnx.TensorProto.FLOAT, ["batch", *given.prepared_shape])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return measuring.scores(model.SerializeToString(), rows, len(rows))


def operators(given: Input) -> list[str]:
    return [node.op_type for node in preprocessing.nodes(given)[0]]


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (Input("image", "UINT8", (12, 10, 3), scale=1 / 255, layout="NHWC", mean=MEAN, std=STD), COLOUR),
        (Input("image", "UINT8", (12, 10, 3), layout="NHWC", resize=(24, 30)), COLOUR),
        (Input("image", "UINT8", (12, 10, 3), layout="NHWC", resize=(5, 7), mean=(0.5,)), COLOUR),
        (Input("image", "UINT8", (12, 10, 3), layout="NHWC", resize=(6, 20), std=(2.0,)), COLOUR),
        (Input("image", "UINT8", (12, 10), layout="NHW", resize=(8, 8), mean=MEAN, std=STD), GREY),
        (Input("image", "UINT8", (12, 10), scale=1 / 255, layout="NHW", resize=(6, 20), interpolation="bicubic"), GREY),
        (Input("image", "UINT8", (12, 10, 3), crop=((1, 11), (0, 10)), layout="NHWC", resize=(4, 4)), COLOUR),
        (Input("image", "UINT8", (12, 10, 3), layout="NHWC", seen_as=(360,)), COLOUR),
        (
            Input("image", "FP32", (3, 10, 12), layout="NCHW", mean=MEAN),
            COLOUR.T.transpose(3, 0, 1, 2).astype(np.float32),
        ),
    ],
)
def test_the_graph_prepares_rows_as_numpy_does(given: Input, rows: np.ndarray[Any, Any]) -> None:
    prepared = given.prepare(rows)

    assert prepared.shape == (5, *given.prepared_shape) and prepared.dtype == np.float32
    assert in_graph(given, rows) == pytest.approx(prepared, abs=2e-4)


@drawn(sides, sides, sides, sides, st.sampled_from(["bilinear", "bicubic"]))
@settings(max_examples=120, deadline=None)
def test_any_size_is_resized_alike(
    height: int, width: int, to_height: int, to_width: int, interpolation: Interpolation
) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (2, height, width), dtype=np.uint8)
    size = (to_height, to_width)
    given = Input("image", "UINT8", (height, width), layout="NHW", resize=size, interpolation=interpolation)

    assert in_graph(given, rows) == pytest.approx(given.prepare(rows), abs=1e-3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(6, 5), (24, 20), (7, 33)])
def test_resizing_is_pillows(size: tuple[int, int], interpolation: Interpolation) -> None:
    rows, how = GREY.astype(np.float32), Image.Resampling[interpolation.upper()]
    given = Input("image", "FP32", (12, 10), layout="NHW", resize=size, interpolation=interpolation)
    theirs = [np.asarray(Image.fromarray(row).resize(size[::-1], how)) for row in rows]

    assert given.prepare(rows)[:, 0] == pytest.approx(np.stack(theirs), abs=1e-3)


def test_bytes_stay_bytes_where_bicubic_resizing_overshoots() -> None:
    edge = np.zeros((1, 8, 8), np.uint8)
    edge[:, :, 4:] = 255
    given = Input("image", "UINT8", (8, 8), scale=1 / 255, layout="NHW", resize=(8, 16), interpolation="bicubic")
    theirs = np.asarray(Image.fromarray(edge[0]).resize((16, 8), Image.Resampling.BICUBIC)) / 255

    assert given.prepare(edge)[0, 0] == pytest.approx(theirs, abs=0.5 / 255 + 1e-5)
    assert in_graph(given, edge) == pytest.approx(given.prepare(edge), abs=1e-6)


def test_mean_and_std_are_a_channels_own() -> None:
    given = Input("image", "UINT8", (12, 10, 3), scale=1 / 255, layout="NHWC", mean=MEAN, std=STD)

    expected = (COLOUR / 255 - MEAN) / STD
    assert given.prepare(COLOUR) == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-5)


def test_a_grey_picture_becomes_one_of_three_channels() -> None:
    given = Input("image", "UINT8", (12, 10), scale=1 / 255, layout="NHW", mean=MEAN, std=STD)

    assert given.prepared_shape == (3, 12, 10)
    assert given.prepare(GREY)[:, 2] == pytest.approx((GREY / 255 - MEAN[2]) / STD[2], abs=1e-5)


def test_only_what_was_asked_for_is_in_the_graph() -> None:
    assert operators(Input("image", "UINT8", (8, 8))) == ["Cast", "Mul", "Reshape"]
    assert operators(Input("image", "UINT8", (8, 8), crop=((0, 5),))) == ["Slice", "Cast", "Mul", "Reshape"]
    assert operators(EVERYTHING) == ["Slice", "Cast", "Mul", "Transpose", "Resize", "Sub", "Div", "Reshape"]


def test_the_graphs_own_names_are_refused_for_its_input() -> None:
    names = {name for node in preprocessing.nodes(EVERYTHING)[0] for name in (*node.input, *node.output)} - {
        "image",
        "",
    }

    assert names <= preprocessing.TAKEN
    with pytest.raises(ExportError, match="name: found 'mean', expected another"):
        Input("mean", "UINT8", (8, 8))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mean": (0.5,)}, "layout: found none, expected NHW, NHWC or NCHW, which resize, mean and std need"),
        ({"layout": "NHW"}, r"layout: found NHW of \[8, 8, 3\], expected 2 axes a row"),
        ({"layout": "NHWC", "std": (0.0,)}, r"std: found \[0.0\], expected no zero to divide by"),
        (
            {"layout": "NHWC", "mean": (1.0, 2.0)},
            "mean, std: found 2 and 0 numbers, expected 1 or one for each of 3 ch",
        ),
        ({"layout": "NHWC", "resize": (4, 4), "seen_as": (9,)}, r"seen_as: found \[9\], expected .* holds \[3, 4, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ExportError, match=line):
        Input("image", "UINT8", (8, 8, 3), **options)
