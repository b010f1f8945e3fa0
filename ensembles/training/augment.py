"""Augmentations of whole batches of images, uint8 [n, height, width, 3] to the same. All chance comes from the generator."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SHIFT = 1 / 8  # of the side, at most, in each direction
BRIGHTNESS = CONTRAST = 0.25
HOLE = 1 / 4  # of the side


def augmented(batch: Pixels, names: Iterable[str], rng: np.random.Generator) -> Pixels:
    """The batch after these augmentations, in this order."""
    for name in names:
        batch = AUGMENTATIONS[name](batch, rng)
    return batch


def flip(batch: Pixels, rng: np.random.Generator) -> Pixels:
    """Half of the images left to right."""
    turned = rng.random(len(batch)) < 0.5
    return np.where(turned[:, None, None, None], batch[:, :, ::-1], batch)


def crop(batch: Pixels, rng: np.random.Generator) -> Pixels:
    """Each image shifted by up to an eighth of its side; what comes in is reflected."""
    _, height, width, _ = batch.shape
    rows = _shifted(height, len(batch), rng)
    columns = _shifted(width, len(batch), rng)
    return batch[np.arange(len(batch))[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shifted(side: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[count, side]: from which place each pixel of a side comes, reflected at the ends."""
    most = max(1, round(side * SHIFT)) if side > 1 else 0
    places = np.abs(np.arange(side) + rng.integers(-most, most + 1, size=(count, 1)))
    reflected: NDArray[np.int64] = np.where(places >= side, 2 * (side - 1) - places, places)
    return reflected


def colour(batch: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness by channel and contrast of each image, changed by up to a quarter."""
    gain = rng.uniform(1 - CONTRAST, 1 + CONTRAST, size=(len(batch), 1, 1, 1)).astype(np.float32)
    shift = rng.uniform(-BRIGHTNESS, BRIGHTNESS, size=(len(batch), 1, 1, 3)).astype(np.float32) * 128
    centre = batch.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    changed: Pixels = np.clip((batch - centre) * gain + centre + shift, 0, 255).astype(np.uint8)
    return changed


def cutout(batch: Pixels, rng: np.random.Generator) -> Pixels:
    """A grey square a quarter of the side wide, somewhere in each image (DeVries & Taylor 2017)."""
    count, height, width, _ = batch.shape
    rows, columns = (_hole(side, count, rng) for side in (height, width))
    hole = rows[:, :, None, None] & columns[:, None, :, None]
    return np.where(hole, np.uint8(128), batch)


def _hole(side: int, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    distance = np.arange(side) - rng.integers(0, side, size=(count, 1))
    return (distance >= 0) & (distance < max(1, round(side * HOLE)))


AUGMENTATIONS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    augmentation.__name__: augmentation for augmentation in (flip, crop, colour, cutout)
}
