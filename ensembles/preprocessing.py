"""What happens to a raw row before a trained model sees it: in numpy for training, as ONNX nodes for serving."""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Rows = NDArray[Any]
Floats = NDArray[np.floating]
Interpolation = Literal["bilinear", "bicubic"]

PREPARED = "prepared"
"""The name of the tensor that the trained model sees."""


TAKEN = {
    PREPARED,
    "probabilities",
    "scale",
    "shape",
    "starts",
    "stops",
    "axes",
    "channel_axis",
    "size",
    "mean",
    "std",
    "floor",
    "ceiling",
} | {"clipped", "cropped", "numbers", "scaled", "planes", "resized", "centred", "normalised"}
"""Names within the graph."""


CUBIC = -0.5
"""Pillow's and Keys'; ONNX and torch without antialias take -0.75 unless told."""


class ExportError(ValueError):
    """The model cannot be exported, or what was exported is not the model. One line: what was found and expected."""


@dataclass(frozen=True, slots=True)
class Input:
    """The tensor that a served model is sent, and how the trained model sees it.

    `name`, `datatype` (Open Inference Protocol) and `shape`, one row's, are the served tensor's. All else is optional and
    happens in this order:

    * `crop`: a (start, stop) for each leading axis of a row; `scale` multiplies the values.
    * `layout`: the axes that are served, of an image: "NHW" (seen with a channel axis), "NHWC" or "NCHW"; the model sees
      NCHW. `resize`, `mean` and `std` need to know it.
    * `resize`: (height, width) seen: bilinear or, by `interpolation`, bicubic, with antialias where it shrinks, as Pillow does it:
      bytes stay within their range, numbers of other types may leave it.
    * `mean`, `std`: subtracted, then divided by; one number, or one a channel. One channel and three means: it is repeated.
    * `seen_as`: one row's shape in the end.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    crop: tuple[tuple[int, int], ...] = ()
    scale: float = 1.0
    seen_as: tuple[int, ...] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["NHW", "NHWC", "NCHW"] | None = None
    resize: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        """Raises ExportError when the parts do not fit each other."""
        if self.name in TAKEN:
            raise ExportError(
                f"name: found {self.name!r}, expected another: the preprocessing calls a part of its own so"
            )
        axes = len(self.layout or "N") - 1
        if self.layout is None and (self.resize or self.mean or self.std):
            raise ExportError("layout: found none, expected NHW, NHWC or NCHW, which resize, mean and std need")
        if self.layout is not None and len(self.shape) != axes:
            raise ExportError(f"layout: found {self.layout} of {list(self.shape)}, expected {axes} axes a row")
        if not all(self.std):
            raise ExportError(f"std: found {list(self.std)}, expected no zero to divide by")
        normalised = self._normalised_shape
        if self.seen_as is not None and prod(self.seen_as) != prod(normalised):
            raise ExportError(f"seen_as: found {list(self.seen_as)}, expected a shape that holds {list(normalised)}")

    @property
    def prepared_shape(self) -> tuple[int, ...]:
        """The shape of one row as the trained model sees it."""
        return self.seen_as or self._normalised_shape

    @property
    def ceiling(self) -> np.float32 | None:
        """What a resized value may be at most, and 0 at least; None where it cannot or may leave the range."""
        overshoots = self.resize is not None and self.interpolation == "bicubic" and self.datatype == "UINT8"
        return np.float32(255 * self.scale) if overshoots else None

    @property
    def _cropped_shape(self) -> tuple[int, ...]:
        windows = [range(size)[slice(*window)] for size, window in zip(self.shape, self.crop, strict=False)]
        return (*map(len, windows), *self.shape[len(self.crop) :])

    @property
    def planes_shape(self) -> tuple[int, ...]:
        """The shape of one row once it is cropped and has the model's layout."""
        cropped = self._cropped_shape
        if self.layout == "NHWC":
            return (cropped[2], *cropped[:2])
        return (1, *cropped) if self.layout == "NHW" else cropped

    @property
    def _normalised_shape(self) -> tuple[int, ...]:
        if self.layout is None:
            return self._cropped_shape
        channels, *pixels = self.planes_shape
        numbers = {channels, len(self.mean) or 1, len(self.std) or 1} - {1}
        if len(numbers) > 1:
            raise ExportError(
                f"mean, std: found {len(self.mean)} and {len(self.std)} numbers, expected 1 or one for each of {channels} channels"
            )
        return (*numbers, *(self.resize or pixels)) if numbers else (1, *(self.resize or pixels))

    def prepare(self, rows: Rows) -> NDArray[np.float32]:
        """Rows [n, *shape] of `datatype` to [n, *prepared_shape], as the exported graph does it."""
        window = (slice(None), *(slice(*ends) for ends in self.crop))
        seen = rows[window].astype(np.float32) * np.float32(self.scale)
        if self.layout == "NHW":
            seen = seen[:, None]
        if self.layout == "NHWC":
            seen = seen.transpose(0, 3, 1, 2)
        if self.resize:
            pairs = zip(seen.shape[2:], self.resize, strict=True)
            vertical, horizontal = (_weights(*pair, self.interpolation) for pair in pairs)
            seen = vertical @ seen @ horizontal.T
            if self.ceiling is not None:
                seen = np.clip(seen, np.float32(0), self.ceiling)
        if self.mean:
            seen = seen - _by_channel(self.mean)
        if self.std:
            seen = seen / _by_channel(self.std)
        return seen.reshape(len(rows), *self.prepared_shape)


def nodes(given: Input) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """`given.prepare` as nodes from `given.name` to `PREPARED`, and their constants. Only what was asked for is there."""
    constants: dict[str, Any] = {
        "scale": np.float32(given.scale),
        "shape": np.array([0, *given.prepared_shape]),  # 0 keeps the batch, also one without rows
    }
    chain = _Chain(given.name)
    if given.crop:
        starts, stops = np.array(given.crop, np.int64).T
        constants |= {"starts": starts, "stops": stops, "axes": np.arange(1, 1 + len(given.crop))}
        chain.add("Slice", "cropped", "starts", "stops", "axes")
    chain.add("Cast", "numbers", to=onnx.TensorProto.FLOAT)
    chain.add("Mul", "scaled", "scale")
    if given.layout == "NHW":
        constants["channel_axis"] = np.array([1])
        chain.add("Unsqueeze", "planes", "channel_axis")
    if given.layout == "NHWC":
        chain.add("Transpose", "planes", perm=[0, 3, 1, 2])
    if given.resize:
        constants["size"] = np.array(given.resize)
        shrinks = any(after < before for after, before in zip(given.resize, given.planes_shape[1:], strict=True))
        # Without exclude_outside the pixels at the border would count for those that lie beyond it.
        smooth = {"antialias": 1, "exclude_outside": 1} if shrinks else {}
        cubic = {"mode": "cubic", "cubic_coeff_a": CUBIC, "exclude_outside": 1}
        kind = cubic if given.interpolation == "bicubic" else {"mode": "linear"}
        chain.add("Resize", "resized", "", "", "size", axes=[2, 3], **(smooth | kind))
    if given.ceiling is not None:
        constants |= {"floor": np.float32(0), "ceiling": given.ceiling}
        chain.add("Clip", "clipped", "floor", "ceiling")
    if given.mean:
        constants["mean"] = _by_channel(given.mean)
        chain.add("Sub", "centred", "mean")
    if given.std:
        constants["std"] = _by_channel(given.std)
        chain.add("Div", "normalised", "std")
    chain.add("Reshape", PREPARED, "shape")
    return chain.nodes, [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]


class _Chain:
    """Nodes of which each takes what the one before it gives."""

    def __init__(self, start: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._last = start

    def add(self, operator: str, gives: str, *constants: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, [self._last, *constants], [gives], **attributes))
        self._last = gives


def _by_channel(numbers: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)[:, None, None]


def _weights(before: int, after: int, interpolation: Interpolation) -> NDArray[np.float32]:
    """Weights [after, before]: the kernel about each new pixel's centre, wider where pixels become fewer (antialias)."""
    step = before / after
    centres = (np.arange(after)[:, None] + 0.5) * step - 0.5
    weights = KERNELS[interpolation](np.abs(np.arange(before) - centres) / max(step, 1.0))
    scaled: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return scaled.astype(np.float32)


def _triangle(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - distance, 0)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel ("Cubic convolution interpolation for digital image processing", 1981), with its own parameter."""
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


KERNELS = {"bilinear": _triangle, "bicubic": _cubic}
