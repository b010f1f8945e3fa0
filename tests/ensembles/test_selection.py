"""Greedy selection with replacement: its laws, and brute force where that can be afforded."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.selection import Bagging, select


def pool(seed: int, n: int = 40, members: int = 4, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Members that are right a little more often than by chance; no two votes of theirs are alike."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    scores = rng.dirichlet(np.ones(classes), (n, members)) + 0.2 * np.eye(classes)[y][:, None]
    return (scores / scores.sum(axis=2, keepdims=True)).astype(np.float32), y


def right(scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> int:
    total = (scores.astype(np.float64) * weights[:, None]).sum(axis=1)
    return int((total.argmax(axis=1) == y).sum())


def likelihood(scores: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    mean = (scores.astype(np.float64) * weights[:, None]).sum(axis=1) / weights.sum()
    return float(np.log(mean[np.arange(len(y)), y]).sum())


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_the_first_of_a_pool_is_the_best_and_one_round_adds_whom_brute_force_adds(seed: int) -> None:
    scores, y = pool(seed)

    def worth(weights: np.ndarray) -> tuple[int, float]:
        return right(scores, y, weights), likelihood(scores, y, weights)

    alone = max(np.eye(4, dtype=np.int64), key=worth)
    together = max((alone + another for another in np.eye(4, dtype=np.int64)), key=worth)

    np.testing.assert_array_equal(select(scores, y, rounds=0, initial=1), alone)
    expected = together if worth(together)[0] > worth(alone)[0] else alone
    np.testing.assert_array_equal(select(scores, y, rounds=1, initial=1), expected)


@given(SEEDS)
def test_it_begins_with_as_many_of_the_best_as_are_right_most_often_together(seed: int) -> None:
    scores, y = pool(seed)
    ranked = sorted(np.eye(4, dtype=np.int64), key=lambda one: (right(scores, y, one), likelihood(scores, y, one)))[
        ::-1
    ]
    prefixes = np.cumsum(ranked, axis=0)

    expected = max(prefixes, key=lambda weights: right(scores, y, weights))  # the first of equals

    np.testing.assert_array_equal(select(scores, y, rounds=0, initial=4), expected)


@given(SEEDS)
def test_more_rounds_are_never_wrong_more_often_on_the_rows_that_choose(seed: int) -> None:
    scores, y = pool(seed)
    found = [right(scores, y, select(scores, y, rounds)) for rounds in range(6)]

    assert all(before <= after for before, after in pairwise(found))
    assert found[-1] >= max(right(scores, y, one) for one in np.eye(4, dtype=np.int64))


@given(SEEDS, st.integers(2, 5))
def test_copies_of_one_member_gain_nothing_and_the_first_is_chosen_alone(seed: int, copies: int) -> None:
    scores, y = pool(seed, members=1)

    assert select(np.repeat(scores, copies, axis=1), y).tolist() == [1, *[0] * (copies - 1)]


@given(SEEDS, st.integers(0, 3))
def test_a_copy_of_a_member_changes_nothing_but_who_is_asked(seed: int, copied: int) -> None:
    scores, y = pool(seed)
    with_copy = select(np.concatenate([scores, scores[:, [copied]]], axis=1), y, initial=1)

    assert with_copy[4] == 0
    np.testing.assert_array_equal(with_copy[:4], select(scores, y, initial=1))


@given(SEEDS, st.integers(0, 4))
def test_a_perfect_member_is_chosen_alone(seed: int, place: int) -> None:
    scores, y = pool(seed)
    perfect = np.full((len(y), 1, 3), 0.2, np.float32)
    perfect[np.arange(len(y)), 0, y] = 0.6
    if right(scores, y, np.ones(4)) == len(y):  # then so is the vote of the others
        return

    found = select(np.insert(scores, [place], perfect, axis=1), y)

    assert found.tolist() == np.eye(5)[place].tolist()


@given(SEEDS, st.permutations(range(4)))
def test_the_order_of_the_pool_does_not_matter(seed: int, order: list[int]) -> None:
    scores, y = pool(seed)

    np.testing.assert_array_equal(select(scores[:, order], y), select(scores, y)[order])


def test_two_who_help_each_other_are_chosen_and_the_third_is_not() -> None:
    y = np.array([0, 0, 0, 0])
    surely, hardly, not_at_all = [0.9, 0.1], [0.45, 0.55], [0.2, 0.8]
    scores = np.array(
        [
            [surely, hardly, not_at_all],
            [surely, hardly, not_at_all],
            [hardly, surely, not_at_all],
            [surely, surely, surely],
        ]
    )

    assert select(scores, y).tolist() == [1, 1, 0]


def test_a_member_who_is_needed_twice_weighs_two() -> None:
    one = np.array(
        [0.3, -0.1, -0.1, 0.6, 0.6]
    )  # by how much the right class is ahead: 3 right; with the other 4, twice with it 5
    other = np.array([-0.4, 0.5, 0.5, -0.1, -0.1])
    ahead = np.stack([one, other], axis=1)
    scores = np.stack([1 + ahead, 1 - ahead], axis=2) / 2

    assert select(scores, np.zeros(5, np.int64)).tolist() == [2, 1]


@given(SEEDS, st.integers(1, 6))
def test_bags_depend_on_their_seed_alone_and_add_up_to_smallest_whole_weights(seed: int, bags: int) -> None:
    scores, y = pool(seed, members=6)
    found = select(scores, y, bagging=Bagging(bags, seed=seed))

    np.testing.assert_array_equal(found, select(scores, y, bagging=Bagging(bags, seed=seed)))
    assert found.dtype == np.int64
    assert found.min() >= 0
    assert np.gcd.reduce(found) == 1


def test_a_bag_of_everyone_is_no_bag() -> None:
    scores, y = pool(1)

    np.testing.assert_array_equal(select(scores, y, bagging=Bagging(3, share=1.0)), select(scores, y))


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (3, 2, 3), (4, 3)])
def test_shapes_that_do_not_go_together_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[n, pool, K\] and \[n\]"):
        select(np.ones(shape), np.zeros(4, np.int64))


def test_no_number_of_rounds_is_negative() -> None:
    scores, y = pool(0)
    with pytest.raises(ValueError, match="found -1 rounds and 0 to begin with, expected at least 0 and 1"):
        select(scores, y, rounds=-1, initial=0)
