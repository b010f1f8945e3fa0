"""Tensors and images to rows, rows to tensors. Sizes are compared before an array is made; rows are views where they can be."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ensembles import pictures
from ensembles.spec import DTYPES, ImageSpec, InputSpec
from serving.errors import InvalidRequest, TooLarge

Image.preinit()  # else the first picture waits for its reader to be imported

T = TypeVar("T")

NUMBERS = {bool, int, float}

EXACT = 2.0**53
"""Up to here a number that came as a float is the whole number that was meant."""

PIXELS_ON_THE_LOOP = 250_000
"""Decoding fewer takes about as long as going to a thread and back is worth: a millisecond."""

WINDOW_BITS = {"gzip": 31, "deflate": 15}


def rows_from_bytes(given: InputSpec, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> NDArray[Any]:
    """Rows [n, *shape] as a view on little-endian, row-major bytes. Raises InvalidRequest."""
    shape = check_signature(given, datatype, shape)
    expected = shape[0] * given.row_bytes
    if len(data) != expected:
        raise InvalidRequest(
            f"input {given.name!r}: found {len(data)} bytes, expected {expected} for {datatype} {list(shape)}"
        )
    if datatype == "BOOL" and bytes(data).strip(b"\0\1"):
        raise InvalidRequest(f"input {given.name!r}: found bytes other than 0 and 1, expected BOOL")
    return np.ndarray(shape, given.dtype, data)


def rows_from_values(given: InputSpec, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> NDArray[Any]:
    """Rows [n, *shape] from flat numbers. Raises InvalidRequest."""
    shape = check_signature(given, datatype, shape)
    expected = shape[0] * given.row_bytes // given.dtype.itemsize
    if len(values) != expected:
        raise InvalidRequest(
            f"input {given.name!r}: found {len(values)} values, expected {expected} for {datatype} {list(shape)}"
        )
    return _converted(given, values).reshape(shape)


def rows_from_nested(given: InputSpec, instances: Sequence[Any]) -> NDArray[Any]:
    """Rows [n, *shape] from n nested lists, one a sample. Raises InvalidRequest."""
    flat: list[Any] = []
    for instance in instances:
        _flatten(given, instance, given.shape, flat)
    return _converted(given, flat).reshape(len(instances), *given.shape)


def _flatten(given: InputSpec, value: Any, shape: Sequence[int], flat: list[Any]) -> None:
    if not isinstance(value, list) or len(value) != shape[0]:
        found = f"{len(value)} values" if isinstance(value, list) else type(value).__name__
        raise InvalidRequest(
            f"input {given.name!r}: found {found} where {shape[0]} belong, expected {given.shape_text}"
        )
    if len(shape) == 1:
        flat.extend(value)
    else:
        for part in value:
            _flatten(given, part, shape[1:], flat)


def flattened(values: Any, limit: int) -> list[Any]:
    """Flat numbers from a flat or nested list, of at most `limit`. Raises InvalidRequest."""
    if not isinstance(values, list):
        raise InvalidRequest(f"data: found {type(values).__name__}, expected a list")
    flat: list[Any] = values
    while flat and isinstance(flat[0], list):
        if not all(isinstance(part, list) for part in flat) or sum(map(len, flat)) > limit:
            raise InvalidRequest(
                f"data: found lists of unlike depth or over {limit} values, expected row-major numbers"
            )
        flat = [value for part in flat for value in part]
    return flat


def _converted(given: InputSpec, values: Sequence[Any]) -> NDArray[Any]:
    """Numbers to the input's dtype, refused where that would change them.

    Types are checked first: among a list's numbers one long text would make numpy reserve its length for each.
    """
    if not set(map(type, values)) <= NUMBERS:
        raise InvalidRequest(f"input {given.name!r}: found values that are no numbers, expected {given.shape_text}")
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        array = np.array(0, dtype=object)
    dtype = given.dtype
    if array.dtype.kind not in "biuf" or (dtype.kind == "b") != (array.dtype.kind == "b"):
        raise InvalidRequest(f"input {given.name!r}: found values that are no numbers of {given.datatype}")
    if dtype.kind in "iu":
        _check_integers(given, array)
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _check_integers(given: InputSpec, array: NDArray[Any]) -> None:
    bounds = np.iinfo(given.dtype)
    whole = array.dtype.kind != "f" or bool(((array == np.floor(array)) & (np.abs(array) <= EXACT)).all())
    if not whole or (array.size and (array.min() < bounds.min or array.max() > bounds.max)):
        raise InvalidRequest(
            f"input {given.name!r}: found values that are no {given.datatype}, "
            f"expected whole numbers from {bounds.min} to {bounds.max}"
        )


def check_signature(given: InputSpec, datatype: str, found: Sequence[int]) -> tuple[int, ...]:
    """The shape, if it and the datatype are the input's. Raises InvalidRequest."""
    shape = tuple(found)
    if datatype != given.datatype or shape[1:] != given.shape:
        expected = ", ".join(map(str, ["rows", *given.shape]))
        raise InvalidRequest(
            f"input {given.name!r}: found {datatype[:16]} {_shown(shape)}, expected {given.datatype} [{expected}]"
        )
    if shape[0] < 1:
        raise InvalidRequest(f"input {given.name!r}: found {shape[0]} rows, expected at least 1")
    return shape


def _shown(shape: Sequence[int]) -> str:
    return str(list(shape[:8])) if len(shape) <= 8 else f"{len(shape)} dimensions"


async def rows_from_images(given: InputSpec, files: Sequence[bytes], limit: int) -> NDArray[Any]:
    """One row [*shape] a PNG or JPEG, by the manifest's `input.image`, decoded on a thread. Raises InvalidRequest or TooLarge."""
    if given.image is None:
        raise InvalidRequest(
            f"found an image, expected numbers: the manifest does not say how an image becomes {given.name!r}"
        )
    if not 1 <= len(files) <= limit:
        raise InvalidRequest(f"found {len(files)} images, expected 1 to {limit}")
    opened = [_read(pictures.opened, content) for content in files]
    pixels = sum(width * height for width, height in (picture.size for picture in opened))
    if pixels > pictures.MAX_PIXELS:
        raise TooLarge(f"found images of {pixels} pixels, expected at most {pictures.MAX_PIXELS} in a request")
    rows = partial(_rows_from_pictures, given, given.image, opened)
    return rows() if pixels < PIXELS_ON_THE_LOOP else await asyncio.to_thread(rows)


def _rows_from_pictures(given: InputSpec, image: ImageSpec, opened: Sequence[Image.Image]) -> NDArray[Any]:
    return np.stack([_read(pictures.decoded, picture, given, image) for picture in opened])


def _read(read: Callable[..., T], *given: Any) -> T:
    try:
        return read(*given)
    except pictures.PictureTooLargeError:
        raise TooLarge(f"found an image too large to decode, expected at most {pictures.MAX_PIXELS} pixels") from None
    except pictures.PictureError:
        raise InvalidRequest("found no readable image, expected a PNG or JPEG") from None


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """The body behind its content encoding, of at most `limit` bytes. Raises InvalidRequest or TooLarge."""
    if encoding in ("", "identity"):
        return body
    if encoding not in WINDOW_BITS:
        raise InvalidRequest(
            f"found the encoding {encoding[:32]!r}, expected one of identity, {', '.join(WINDOW_BITS)}"
        )
    stream = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidRequest(f"found a broken body, expected {encoding}") from None
    if len(content) > limit:
        raise TooLarge(f"found a body of more than {limit} bytes after {encoding}")
    if not stream.eof or stream.unused_data:
        raise InvalidRequest(f"found a truncated body, expected {encoding}")
    return content


def compressed(body: bytes, encoding: str) -> bytes:
    stream = zlib.compressobj(wbits=WINDOW_BITS[encoding])
    return stream.compress(body) + stream.flush()


TRITON_TYPES = {name: f"TYPE_{name}" for name in DTYPES} | {"BYTES": "TYPE_STRING"}
