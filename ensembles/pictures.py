"""A PNG or JPEG becomes a row by the manifest's `input.image`, and a row becomes a picture again. No files, bytes only."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ensembles.spec import ImageSpec, InputSpec

MAX_PIXELS = 50_000_000
"""Of one picture: a camera's. Read from the header before a pixel is decoded."""

MAX_SHOWN = 96
"""The longer side, in pixels, of a picture in a report."""


class PictureError(ValueError):
    """No row can be made of these bytes. One line."""


class PictureTooLargeError(PictureError):
    """It has more pixels than a camera's."""


def row(content: bytes, given: InputSpec, image: ImageSpec) -> NDArray[Any]:
    """One row [*given.shape] of `given.dtype` from the bytes of a PNG or JPEG. Raises PictureError."""
    return decoded(opened(content), given, image)


def opened(content: bytes) -> Image.Image:
    """A PNG or JPEG of which only the header is read so far. Raises PictureError."""
    with _reading():
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise PictureTooLargeError(f"found {width * height} pixels, expected at most {MAX_PIXELS}")
    return picture


def decoded(picture: Image.Image, given: InputSpec, image: ImageSpec) -> NDArray[Any]:
    """One row [*given.shape] of `given.dtype` from an opened picture. Raises PictureError."""
    with _reading():
        resized = picture.convert(image.mode).resize((image.width, image.height), Image.Resampling.BOX)
    return _scaled(np.asarray(resized, np.float32), given, image)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError:
        raise PictureTooLargeError(f"found too many pixels, expected at most {MAX_PIXELS}") from None
    except UnidentifiedImageError:
        raise PictureError("found no readable image, expected a PNG or JPEG") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error):
        raise PictureError("found a damaged image, expected a PNG or JPEG") from None


def _scaled(pixels: NDArray[np.float32], given: InputSpec, image: ImageSpec) -> NDArray[Any]:
    low, high = image.range
    values = low + pixels / np.float32(255) * np.float32(high - low)
    if given.dtype.kind in "iu":
        values = np.rint(values)
    if values.ndim == 3 and given.shape[0] == 3:
        values = values.transpose(2, 0, 1)
    return values.reshape(given.shape).astype(given.dtype)


def png(sample: NDArray[Any], given: InputSpec, image: ImageSpec) -> bytes:
    """The picture that one row [*given.shape] shows, as a PNG of at most `MAX_SHOWN` pixels a side."""
    low, high = image.range
    values = (sample.astype(np.float32) - low) * np.float32(255 / (high - low))
    if image.mode == "RGB" and given.shape[0] == 3:
        values = values.transpose(1, 2, 0)
    channels = (3,) if image.mode == "RGB" else ()
    pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8).reshape(image.height, image.width, *channels)
    picture = Image.fromarray(pixels)
    picture.thumbnail((MAX_SHOWN, MAX_SHOWN))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
