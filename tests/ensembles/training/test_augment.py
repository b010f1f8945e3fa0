"""Augmentations change batches of pictures, not what kind of thing they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensembles.training.augment import AUGMENTATIONS, augmented, crop, cutout, flip

pixels = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.just(3)).flatmap(
    lambda shape: arrays(np.uint8, shape)
)


def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@given(batch=pixels)
def test_a_batch_stays_a_batch_of_such_pictures(name, batch):
    before = batch.copy()
    found = augmented(batch, [name], rng())
    assert (found.shape, found.dtype) == (batch.shape, batch.dtype)
    assert (batch == before).all()


@given(pixels)
def test_the_same_generator_gives_the_same_pixels(batch):
    first, second = (augmented(batch, AUGMENTATIONS, rng()) for _ in range(2))
    assert (first == second).all()


def test_nothing_is_done_to_those_who_ask_for_nothing():
    batch = rng().integers(0, 256, (2, 5, 5, 3), np.uint8)
    assert (augmented(batch, (), rng()) == batch).all()


def test_about_half_of_the_pictures_are_flipped_and_none_is_changed_otherwise():
    batch = rng().integers(0, 256, (400, 2, 4, 3), np.uint8)
    found = flip(batch, rng())
    same, turned = ((found == other).all(axis=(1, 2, 3)) for other in (batch, batch[:, :, ::-1]))
    assert (same ^ turned).all()
    assert 150 < turned.sum() < 250


def test_a_crop_shifts_by_an_eighth_at_most_and_reflects_at_the_edge():
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None], (500, 16, 16, 3))
    found = crop(ramp, rng())[:, :, 0, 0].astype(int)
    assert set(found[:, 8]) == {6, 7, 8, 9, 10}
    assert {tuple(row[:3]) for row in found} == {(2, 1, 0), (1, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4)}


def test_a_cutout_is_a_grey_square_a_quarter_of_the_side_wide():
    found = cutout(np.zeros((300, 16, 16, 3), np.uint8), rng())
    holes = (found == 128).all(axis=3)
    assert set(np.unique(found)) == {0, 128}
    assert holes.sum(axis=(1, 2)).max() == 16
    assert (holes.sum(axis=(1, 2)) >= 1).all()
