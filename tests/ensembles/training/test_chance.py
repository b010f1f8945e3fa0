"""What is left to chance depends on the numbers given alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ensembles.training.chance import Chance, bag, batches, chance, split

seeds = st.integers(0, 2**32 - 1)
labels = st.lists(st.integers(0, 3), min_size=8, max_size=60).map(np.array)


@given(labels, seeds, st.data())
def test_every_row_is_either_trained_on_or_held_out(y, seed, data):
    rows = data.draw(st.integers(1, len(y) - 2))
    parts = split(y, rows, seed)
    assert len(parts.calibration) == rows
    assert sorted([*parts.training, *parts.calibration]) == list(range(len(y)))


@given(labels, seeds, st.data())
def test_each_class_is_held_out_in_its_share(y, seed, data):
    rows = data.draw(st.integers(1, len(y) - 2))
    held_out = y[split(y, rows, seed).calibration]
    for label in range(4):
        assert abs((held_out == label).sum() - rows * (y == label).mean()) < 1.0 + 1e-9


def test_another_seed_holds_out_other_rows():
    y = np.arange(100) % 10
    assert set(split(y, 20, 1).calibration) != set(split(y, 20, 2).calibration)


@given(seeds, st.integers(2, 40), st.integers(2, 16), st.integers(0, 5))
def test_the_batches_of_an_epoch_are_full_and_hold_no_row_twice(seed, count, size, epoch):
    found = batches(np.arange(count) * 7, size, seed, epoch)
    rows = np.concatenate(found)
    assert {len(batch) for batch in found} == {min(size, count)}
    assert len(set(rows)) == len(rows) > count - size
    assert set(rows) <= set(np.arange(count) * 7)


def test_each_epoch_has_an_order_of_its_own_and_has_it_again_after_a_restart():
    first, second, again = (np.concatenate(batches(np.arange(64), 8, 3, epoch)) for epoch in (0, 1, 0))
    assert (first != second).any()
    assert (first == again).all()


def test_a_bag_repeats_rows_and_leaves_out_others():
    rows = np.arange(0, 2000, 2)
    drawn = bag(rows, 1.0, 5)
    assert len(drawn) == len(rows)
    assert 0.60 < len(set(drawn)) / len(rows) < 0.67  # 1 - 1/e
    assert set(drawn) <= set(rows)
    assert (bag(rows, None, 5) == rows).all()
    assert len(bag(rows, 0.0001, 5)) == 2


def test_purposes_do_not_share_their_numbers():
    drawn = {chance(1, purpose, 0, 0).integers(2**60) for purpose in Chance}
    assert len(drawn) == len(Chance)
