"""What independent votes would give, against the enumeration of every outcome."""

from itertools import product
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.promise import independent_majority_error


def enumerated(errors: list[float]) -> float:
    """The sum over all ways to err, a tie counting half."""
    total = 0.0
    for wrong in product([True, False], repeat=len(errors)):
        chance = prod(error if errs else 1 - error for error, errs in zip(errors, wrong, strict=True))
        total += chance * {1: 1.0, 0: 0.5, -1: 0.0}[(2 * sum(wrong) > len(errors)) - (2 * sum(wrong) < len(errors))]
    return total


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.3], 0.3),
        ([0.3, 0.3, 0.3], 0.216),
        ([0.25, 0.25, 0.25], 0.15625),
        ([0.2, 0.2, 0.2], 0.104),
        ([0.1, 0.2, 0.3], 0.098),
        ([0.3, 0.3], 0.3),  # both wrong, 0.09, and half of the ties, 0.42
        ([0.1, 0.4], 0.25),
        ([0.5] * 7, 0.5),
        ([0.0, 0.0, 1.0], 0.0),
        ([0.0, 1.0, 1.0], 1.0),
        ([0.0, 1.0], 0.5),
    ],
)
def test_by_hand(errors: list[float], expected: float) -> None:
    assert independent_majority_error(errors) == pytest.approx(expected, abs=1e-12)


errors = st.floats(0, 1)


@given(st.lists(errors, min_size=1, max_size=8))
def test_it_is_exact(errors: list[float]) -> None:
    assert independent_majority_error(errors) == pytest.approx(enumerated(errors), abs=1e-12)


@given(st.lists(errors, min_size=1, max_size=9), st.randoms())
def test_the_order_of_members_changes_nothing(errors: list[float], random) -> None:
    shuffled = random.sample(errors, len(errors))

    assert independent_majority_error(shuffled) == pytest.approx(independent_majority_error(errors), abs=1e-12)


@given(st.lists(errors, min_size=1, max_size=9))
def test_who_errs_where_others_are_right_mirrors_them(errors: list[float]) -> None:
    mirrored = [1 - error for error in errors]

    assert independent_majority_error(mirrored) == pytest.approx(1 - independent_majority_error(errors), abs=1e-9)


@given(st.floats(0.01, 0.49), st.integers(1, 20))
def test_two_more_members_better_than_chance_help(error: float, members: int) -> None:
    fewer = independent_majority_error([error] * (2 * members - 1))

    assert independent_majority_error([error] * (2 * members + 1)) < fewer
    assert independent_majority_error([error] * (2 * members)) == pytest.approx(fewer), "an even one more is of no use"


@pytest.mark.parametrize("errors", [[], [1.2], [-0.1, 0.3], [float("nan")], [0.3, float("inf")]])
def test_what_is_no_error_rate_is_refused(errors: list[float]) -> None:
    with pytest.raises(ValueError, match=r"found errors \[.*\], expected at least one, each from 0 to 1"):
        independent_majority_error(errors)
