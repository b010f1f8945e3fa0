"""What votes would give, independent or not: against the enumeration of every outcome, simulation, and real votes."""

from itertools import product
from math import isclose, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

from ensembles.bracket import bracket, double_fault_range
from ensembles.promise import (
    beta_binomial_error,
    beta_binomial_limit,
    break_even_error,
    break_even_third_error,
    efficiency,
    independent_majority_error,
    promise,
)
from ensembles.votes import Ballot, Rule, TieBreak, vote

POOLS = 1000

# ------------------------------------------------------------------------------------------------------------- independent


def enumerated(errors: list[float], weights: list[float] | None = None) -> float:
    """The sum over all ways to err, a tie counting half."""
    weights, total = weights or [1] * len(errors), 0.0
    for wrong in product([True, False], repeat=len(errors)):
        chance = prod(error if errs else 1 - error for error, errs in zip(errors, wrong, strict=True))
        against = sum(weight for weight, errs in zip(weights, wrong, strict=True) if errs)
        tied = isclose(2 * against, sum(weights), rel_tol=1e-9)
        total += chance * (0.5 if tied else 2 * against > sum(weights))
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


@pytest.mark.parametrize(
    ("error", "percent"),
    [
        (0.3, ["21.6", "16.3", "12.6", "9.9"]),
        (0.25, ["15.6", "10.4", "7.1", "4.9"]),
        (0.1, ["2.8", "0.86", "0.27", "0.09"]),
        (0.05, ["0.72", "0.12", "0.019", "0.0033"]),
    ],
)
def test_the_table_of_equal_errors(error: float, percent: list[str]) -> None:
    """Three, five, seven and nine members."""
    for members, expected in zip((3, 5, 7, 9), percent, strict=True):
        digits = len(expected.partition(".")[2])
        assert 100 * independent_majority_error([error] * members) == pytest.approx(
            float(expected), abs=0.51 * 10**-digits
        )


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


weights = st.one_of(st.integers(1, 5), st.floats(0.01, 3), st.sampled_from([0.1, 0.2, 0.3]))


@given(st.lists(st.tuples(errors, weights), min_size=1, max_size=8))
def test_it_is_exact_for_any_weights(members: list[tuple[float, float]]) -> None:
    errs, counts = [list(each) for each in zip(*members, strict=True)]

    assert independent_majority_error(errs, counts) == pytest.approx(enumerated(errs, counts), abs=1e-9)


@given(st.lists(errors, min_size=2, max_size=6), st.integers(1, 4))
def test_a_weight_is_as_many_members_that_always_agree(errors: list[float], weight: int) -> None:
    """Whoever outweighs all others decides alone."""
    dictator = [float(len(errors)), *[1.0] * (len(errors) - 1)]

    assert independent_majority_error(errors, dictator) == pytest.approx(errors[0])
    assert independent_majority_error(errors, [weight] * len(errors)) == pytest.approx(
        independent_majority_error(errors)
    )


def test_twenty_members_of_any_weight_and_thousands_of_one() -> None:
    unlike = np.random.default_rng(0).uniform(0.5, 1, 20).tolist()
    expected = np.random.default_rng(1).random((200_000, 20)) < 0.3

    assert independent_majority_error([0.3] * 20, unlike) == pytest.approx(
        (expected @ unlike > sum(unlike) / 2).mean(), abs=0.002
    )
    assert independent_majority_error([0.49] * 10_001) == pytest.approx(stats.binom.sf(5000, 10_001, 0.49))


def test_hundreds_of_members_of_whole_weights() -> None:
    """One that counts three times among 100: it loses with 49 others, or with 52 if it is right."""
    others = stats.binom(100, 0.3)
    expected = 0.2 * others.sf(48) + 0.8 * others.sf(51)

    assert independent_majority_error([0.2, *[0.3] * 100], [3, *[1] * 100]) == pytest.approx(expected)


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 0], [1, 1, -1], [1, 1, float("nan")], [1, 1, float("inf")]])
def test_what_are_no_weights_is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"found weights \[.*\], expected 3, each above 0"):
        independent_majority_error([0.3] * 3, weights)


def test_more_unlike_weights_than_can_be_told_apart_are_refused() -> None:
    unlike = np.random.default_rng(0).uniform(0.5, 1, 24).tolist()
    with pytest.raises(ValueError, match="found more than 1048576 different sums of weights"):
        independent_majority_error([0.3] * 24, unlike)


# -------------------------------------------------------------------------------------------------------------- correlated


@pytest.mark.parametrize(("correlation", "percent"), [(0.0, 21.6), (0.2, 25.5), (0.4, 27.8), (0.6, 29.2), (1.0, 30.0)])
def test_three_members_that_err_together(correlation: float, percent: float) -> None:
    assert 100 * beta_binomial_error(0.3, 3, correlation) == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize(
    ("error", "correlation", "percent"),
    [(0.1, 0.05, 0.01), (0.1, 0.2, 2.27), (0.1, 0.5, 7.73), (0.3, 0.05, 3.5), (0.3, 0.2, 18.2), (0.3, 0.5, 27.2)],
)
def test_not_even_ever_more_members_help_against_correlation(error: float, correlation: float, percent: float) -> None:
    assert 100 * beta_binomial_limit(error, correlation) == pytest.approx(percent, abs=0.05)
    assert beta_binomial_error(error, 20_001, correlation) == pytest.approx(
        beta_binomial_limit(error, correlation), abs=1e-4
    )


@pytest.mark.parametrize(("error", "limit"), [(0.3, 0.0), (0.5, 0.5), (0.7, 1.0)])
def test_ever_more_independent_members_are_always_right_or_never(error: float, limit: float) -> None:
    assert beta_binomial_limit(error, 0) == limit
    assert beta_binomial_limit(error, 1) == error


@given(st.floats(0.001, 0.999), st.integers(1, 40), st.floats(0.001, 0.99))
def test_the_beta_binomial_is_scipys(error: float, members: int, correlation: float) -> None:
    concentration = 1 / correlation - 1
    theirs = stats.betabinom(members, error * concentration, (1 - error) * concentration)
    tie = theirs.pmf(members // 2) / 2 if members % 2 == 0 else 0

    assert beta_binomial_error(error, members, correlation) == pytest.approx(theirs.sf(members // 2) + tie, abs=1e-7)


@given(errors, st.integers(1, 12))
def test_no_correlation_is_independence_and_full_correlation_are_copies(error: float, members: int) -> None:
    assert beta_binomial_error(error, members, 0) == pytest.approx(
        independent_majority_error([error] * members), abs=1e-12
    )
    assert beta_binomial_error(error, members, 1) == pytest.approx(error)


@given(errors, st.lists(weights, min_size=1, max_size=7))
def test_weights_count_where_errors_correlate(error: float, weights: list[float]) -> None:
    members = len(weights)

    assert beta_binomial_error(error, members, 0, weights) == pytest.approx(
        independent_majority_error([error] * members, weights), abs=1e-9
    )
    assert beta_binomial_error(error, members, 1, weights) == pytest.approx(error)
    assert beta_binomial_error(error, members, 0.3, [2.5] * members) == pytest.approx(
        beta_binomial_error(error, members, 0.3)
    )


def test_weights_and_correlation_as_simulated() -> None:
    rng, weights = np.random.default_rng(0), [3, 2, 2, 1, 0.5]
    difficulty = rng.beta(0.2 * 3, 0.8 * 3, (400_000, 1))  # correlation 1 / (1 + 3)
    wrong = (rng.random((400_000, 5)) < difficulty) @ weights
    simulated = (wrong > 4.25).mean() + (wrong == 4.25).mean() / 2

    assert beta_binomial_error(0.2, 5, 0.25, weights) == pytest.approx(simulated, abs=0.002)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((1.2, 3, 0.1), "found errors"),
        ((0.2, 3, 1.5), r"found correlation 1.5, expected 0 to 1"),
        ((0.2, 3, float("nan")), "found correlation nan"),
        ((0.2, 0, 0.1), "found 0 members, expected at least 1"),
    ],
)
def test_what_cannot_correlate_is_refused(arguments: tuple[float, int, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        beta_binomial_error(*arguments)


# ------------------------------------------------------------------------------------------------ whatever the dependence


@pytest.mark.parametrize(("members", "percent"), [(3, (4.6, 13.8)), (5, (2.8, 15.3)), (7, (1.9, 16.1))])
def test_brackets_by_the_reference(members: int, percent: tuple[float, float]) -> None:
    """Errors of 10% that correlate 0.4: wrong together 4.6% of the time."""
    found = bracket(0.1, 0.1 * 0.1 + 0.4 * 0.1 * 0.9, members)

    assert [100 * end for end in found] == pytest.approx(percent, abs=0.05)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_bracket_of_three_has_a_closed_form(e: float, between: float) -> None:
    least, most = double_fault_range(e, 3)
    d = least + between * (most - least)

    assert bracket(e, d, 3) == pytest.approx((max(d, 6 * e - 3 * d - 2), min(3 * d, 2 * e - d)), abs=1e-7)


@given(st.floats(0, 1), st.integers(1, 9))
def test_the_bracket_of_the_mean_error_alone_is_markovs(e: float, members: int) -> None:
    _, high = bracket(e, None, members)

    assert high == pytest.approx(min(1, e * members / ((members + 1) // 2)), abs=1e-7)


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.sampled_from([1, 3, 5, 7, 9]))
def test_the_correlated_promise_lies_in_its_bracket(e: float, correlation: float, members: int) -> None:
    low, high = bracket(e, e * e + correlation * e * (1 - e), members)

    assert low - 1e-7 <= beta_binomial_error(e, members, correlation) <= high + 1e-7
    assert bracket(e, None, members)[0] <= low + 1e-7
    assert bracket(e, None, members)[1] >= high - 1e-7


@pytest.mark.parametrize("members", [1, 2, 3, 5, 8, 21])
def test_the_bracket_is_what_a_linear_programme_says(members: int) -> None:
    rng = np.random.default_rng(members)
    wrong = np.arange(members + 1)
    for _ in range(30):
        chances = rng.dirichlet(np.full(members + 1, 0.3))
        e = min(1.0, float(chances @ wrong) / members)
        d = float(chances @ (wrong * (wrong - 1))) / (members * (members - 1)) if members > 1 else None
        moments = [np.ones(members + 1), wrong, wrong**2]
        most = linprog(-1.0 * (2 * wrong >= members), A_eq=moments, b_eq=[chances @ moment for moment in moments])
        least = linprog(2 * wrong > members, A_eq=moments, b_eq=[chances @ moment for moment in moments])

        assert bracket(e, d, members) == pytest.approx((least.fun, -most.fun), abs=1e-6)


def test_brackets_hold_for_every_vote() -> None:
    """Measured on the same rows, they are theorems: any members, any dependence, any number of classes, every tie rule."""
    rng = np.random.default_rng(4)
    tight = 0
    for _ in range(POOLS):
        members, classes, n = int(rng.integers(1, 7)), int(rng.integers(2, 5)), int(rng.integers(3, 40))
        y, copying = rng.integers(0, classes, n), rng.random()
        choices = np.where(
            rng.random((n, members)) < rng.random(members), y[:, None], rng.integers(0, classes, (n, members))
        )
        choices = np.where(rng.random((n, members)) < copying, choices[:, :1], choices)
        wrong = (choices != y[:, None]).astype(float)
        together = (wrong.T @ wrong)[np.triu_indices(members, 1)] / n
        double_fault = float(together.mean()) if members > 1 else None
        counted = Ballot(
            Rule.MAJORITY, np.ones(members), np.arange(members), list(TieBreak)[int(rng.integers(len(TieBreak)))]
        )
        error = (vote(np.eye(classes)[choices], counted).label_index != y).mean()

        low, high = bracket(float(wrong.mean()), double_fault, members, classes)
        assert low - 1e-7 <= error <= high + 1e-7
        tight += min(error - low, high - error) < 1e-6

    assert tight > 50, "brackets that nothing reaches would hold too"


@pytest.mark.parametrize(
    ("e", "d", "members"), [(0.3, 0.31, 3), (0.6, 0.1, 3), (0.9, 0.5, 2), (0.3, -0.1, 3), (0.3, float("nan"), 3)]
)
def test_double_faults_that_no_members_can_have_are_refused(e: float, d: float, members: int) -> None:
    with pytest.raises(ValueError, match=rf"found double fault {d:g}, expected .* to {e:g}, which is what {members} "):
        bracket(e, d, members)


# --------------------------------------------------------------------------------------------------------------- who helps


@pytest.mark.parametrize(("best", "percent"), [(0.1, 25.0), (0.05, 18.66), (0.2, 33.3)])
def test_how_good_two_others_must_be(best: float, percent: float) -> None:
    assert 100 * break_even_error(best) == pytest.approx(percent, abs=0.05)


@given(st.floats(0, 1))
def test_at_break_even_the_majority_errs_as_the_best(best: float) -> None:
    others = break_even_error(best)

    assert independent_majority_error([best, others, others]) == pytest.approx(best, abs=1e-12)
    assert others in (0, 1) or others == pytest.approx(break_even_third_error(best, others))


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_at_break_even_the_third_makes_no_difference(best: float, second: float) -> None:
    third = break_even_third_error(best, second)
    error = independent_majority_error([best, second, third])

    assert error == pytest.approx(best) or (third == 1 and error < best)


def test_a_perfect_member_needs_no_help() -> None:
    assert break_even_error(0) == 0
    assert break_even_third_error(0, 0) == 1
    assert break_even_third_error(0, 0.3) == 0


@pytest.mark.parametrize(
    ("vote", "expected"), [(0.216, 1), (0.3, 0), (0.258, 0.5), (0.342, -0.5), (0.2, pytest.approx(1.19, abs=0.01))]
)
def test_efficiency_is_the_share_of_the_promise_that_came_true(vote: float, expected: float) -> None:
    assert efficiency(0.3, vote, 0.216) == pytest.approx(expected)


def test_where_nothing_is_promised_there_is_no_efficiency() -> None:
    assert efficiency(0.1, 0.1, 0.12) is None
    assert efficiency(0.1, 0.1, 0.1) is None


# ------------------------------------------------------------------------------------------------------------- all at once


def test_the_whole_promise() -> None:
    found = promise([0.3, 0.1, 0.2], double_fault=0.05)

    assert (found.best_error, found.mean_error) == (0.1, pytest.approx(0.2))
    assert found.independent_error == pytest.approx(0.098)
    assert [each.correlation for each in found.correlated] == [0.05, 0.2, 0.5]
    assert found.correlated[1].error == beta_binomial_error(found.mean_error, 3, 0.2)
    assert found.correlated[1].limit == beta_binomial_limit(found.mean_error, 0.2)
    assert found.bracket == pytest.approx((0.05, 0.15))
    assert found.others_below == pytest.approx(0.25)
    assert found.third_below == break_even_third_error(0.1, 0.2)


def test_unlike_weights_have_no_bracket_and_one_member_no_third() -> None:
    assert promise([0.3, 0.1, 0.2], [2, 1, 1]).bracket is None
    assert promise([0.3, 0.1, 0.2], [2, 2, 2]).bracket is not None
    assert promise([0.3]).third_below is None
