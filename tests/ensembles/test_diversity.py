"""Diversity by hand, against scikit-learn and scipy, by theorems on random pools; where errors came from, by the vote itself."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from ensembles.accuracy import mcnemar, paired_gain, right
from ensembles.diversity import (
    TWIN_EXCESS,
    competent,
    correlation,
    der,
    effective_votes,
    improvement_bounds,
    kappa,
    mistakes,
    pairs,
    twins,
)
from ensembles.estimates import Estimate
from ensembles.votes import Ballot, Rule, TieBreak, vote

POOLS = 1000
NAMES = "abcdefghijkl"


def one_hot(choices: NDArray[Any], classes: int) -> NDArray[np.float32]:
    return np.eye(classes, dtype=np.float32)[choices]


def ballot(members: int, rule: Rule = Rule.MAJORITY, tie_break: TieBreak = TieBreak.FIRST_CLASS, **more: Any) -> Ballot:
    return Ballot(rule, np.array(more.pop("weights", np.ones(members)), np.float64), np.arange(members), tie_break)


def pool(rng: np.random.Generator, n: int, members: int, classes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Members of any skill, which look at each other now and then. choices [n, M], y [n]"""
    y = rng.integers(0, classes, n)
    skill, copying = rng.uniform(0.1, 1, members), rng.uniform(0, 0.8)
    choices = np.where(rng.random((n, members)) < skill, y[:, None], rng.integers(0, classes, (n, members)))
    return np.where(rng.random((n, members)) < copying, choices[:, :1], choices), y


def unlike(n: int, errors: list[float], seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Members that err independently, on ten classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, n)
    slip = (y[:, None] + rng.integers(1, 10, (n, len(errors)))) % 10
    return np.where(rng.random((n, len(errors))) < errors, slip, y[:, None]), y


# ------------------------------------------------------------------------------------------------------------------ pairs

HAND = np.array([[0, 0]] * 5 + [[0, 1]] * 2 + [[2, 0]] + [[1, 1], [1, 2]])
"""Of ten rows of class 0: both right on 5, the first alone on 2, the second alone on 1, both wrong on 2, once differently."""


def test_a_pair_by_hand() -> None:
    (pair,) = pairs(HAND, np.zeros(10, np.int64), ["mlp", "cnn"])

    assert (pair.a, pair.b) == ("mlp", "cnn")
    assert pair.disagreement.value == pytest.approx(0.4)
    assert pair.double_fault.value == pytest.approx(0.2)
    assert pair.q.value == pytest.approx((5 * 2 - 2 * 1) / (5 * 2 + 2 * 1))
    assert pair.kappa.value == pytest.approx(1 - 0.3 / (2 * 0.65 * 0.35))
    assert pair.correlation.value == pytest.approx((5 * 2 - 2 * 1) / math.sqrt(7 * 3 * 6 * 4))


@given(st.integers(0, 10**6))
def test_pairs_are_what_scikit_learn_and_numpy_say(seed: int) -> None:
    choices, y = pool(np.random.default_rng(seed), 200, 3, 3)
    is_right = choices == y[:, None]

    for pair in pairs(choices.astype(np.int8), y, NAMES):
        a, b = NAMES.index(pair.a), NAMES.index(pair.b)
        one, other = is_right[:, a], is_right[:, b]
        if 0 < one.sum() < 200 and 0 < other.sum() < 200:
            assert pair.correlation.value == pytest.approx(np.corrcoef(one, other)[0, 1])
            assert pair.correlation.value == pytest.approx(metrics.matthews_corrcoef(one, other))
            both_ways = np.append(one, other), np.append(other, one)  # Fleiss' kappa has one mean for both
            assert pair.kappa.value == pytest.approx(metrics.cohen_kappa_score(*both_ways))
        assert pair.disagreement.value == pytest.approx(metrics.zero_one_loss(choices[:, a], choices[:, b]))
        for estimate in (pair.disagreement, pair.double_fault, pair.q, pair.kappa, pair.correlation):
            assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize("measure", ["q", "kappa", "correlation"])
def test_the_intervals_of_a_pair_cover_independence(measure: str) -> None:
    covered = 0
    for seed in range(200):
        choices, y = unlike(600, [0.1, 0.1], seed)
        estimate = getattr(pairs(choices, y, NAMES)[0], measure)
        covered += estimate.low <= 0 <= estimate.high

    assert 0.90 <= covered / 200 <= 0.99


def test_members_that_never_err_have_nothing_to_correlate() -> None:
    y = np.array([0, 1, 2, 1])
    perfect, other = y, np.array([0, 1, 0, 1])

    (never,) = pairs(np.stack([perfect, other], axis=1), y, NAMES)
    (both,) = pairs(np.stack([perfect, perfect], axis=1), y, NAMES)

    assert (never.q.value, never.correlation.value) == (0.0, 0.0)
    assert (both.q.value, both.correlation.value, both.kappa.value) == (0.0, 0.0, 1.0)


# ------------------------------------------------------------------------------------------------------------------ twins


def with_a_twin(errors: list[float], follows: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Independent members, and one more that does as the first, so often."""
    choices, y = unlike(5000, [*errors, errors[0]])
    followed = np.random.default_rng(1).random(5000) < follows
    choices[:, -1] = np.where(followed, choices[:, 0], choices[:, -1])
    return choices, y


def test_twins_are_found_among_unlike_members() -> None:
    choices, y = with_a_twin([0.2, 0.25, 0.15], follows=0.7)

    assert [(pair.a, pair.b) for pair in twins(pairs(choices, y, NAMES))] == [("a", "d")]


def test_members_that_err_as_they_please_are_no_twins() -> None:
    choices, y = unlike(5000, [0.2, 0.25, 0.15, 0.2])

    assert twins(pairs(choices, y, NAMES)) == ()
    assert twins(()) == ()


def test_a_little_more_alike_is_no_twin() -> None:
    """Surely more correlated than the others, but by no more than half of what makes twins."""
    choices, y = with_a_twin([0.2, 0.25, 0.15], follows=0.05)
    (nearest,) = (pair for pair in pairs(choices, y, NAMES) if (pair.a, pair.b) == ("a", "d"))

    assert nearest.correlation.low > 0 and nearest.correlation.value < TWIN_EXCESS
    assert twins(pairs(choices, y, NAMES)) == ()


def test_copies_are_twins_however_alike_the_others_are() -> None:
    choices, y = unlike(200, [0.02])

    assert len(twins(pairs(np.repeat(choices, 3, axis=1), y, NAMES))) == 3
    assert len(twins(pairs(np.repeat(choices, 2, axis=1), y, NAMES))) == 1


# --------------------------------------------------------------------------------------------------------------- the pool


def drawn_with_replacement(choices: NDArray[Any]) -> float:
    return float(np.mean(choices[:, :, None] != choices[:, None, :]))


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_der_by_its_definition(seed: int, members: int) -> None:
    choices, y = pool(np.random.default_rng(seed), 50, members, 4)
    error = (choices != y[:, None]).mean()
    found = der(choices, y)

    assert found.value == pytest.approx(drawn_with_replacement(choices) / error if error else 0)
    assert found.low <= found.value <= found.high


def test_the_interval_of_der_covers_it() -> None:
    """Independent, on ten classes: two draws of three members are different ones in 2 of 3 cases."""
    e = 0.2
    truth = 2 / 3 * (2 * e * (1 - e) + e * e * 8 / 9) / e
    found = [der(*unlike(500, [e] * 3, seed)) for seed in range(300)]

    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98


def test_three_times_the_same_member_is_no_ensemble() -> None:
    choices, y = unlike(1000, [0.3])
    copies = np.repeat(choices, 3, axis=1)
    answer = vote(one_hot(copies, 10), ballot(3)).label_index
    gain = paired_gain(right(answer, y), right(copies[:, 0], y))

    assert gain.value == 0.0
    assert mcnemar(right(answer, y), right(copies[:, 0], y)) == 1.0
    assert der(copies, y) == Estimate(0.0, 0.0, 0.0, 1000)
    assert kappa(copies, y).value == 1.0
    assert correlation(copies, y).value == pytest.approx(1)
    assert effective_votes(correlation(copies, y), 3).value == pytest.approx(1)
    assert {pair.kappa.value for pair in pairs(copies, y, NAMES)} == {1.0}


def test_kappa_of_all_members_is_fleiss() -> None:
    """As `statsmodels.stats.inter_rater.fleiss_kappa` has it: agreement beyond what the mean rate gives."""
    choices, y = pool(np.random.default_rng(3), 400, 5, 3)
    ratings = (choices == y[:, None]).sum(axis=1)
    agreed = (ratings * (ratings - 1) + (5 - ratings) * (4 - ratings)) / 20
    rate = ratings.mean() / 5
    by_chance = rate**2 + (1 - rate) ** 2

    assert kappa(choices, y).value == pytest.approx((agreed.mean() - by_chance) / (1 - by_chance))


@given(st.integers(0, 10**6))
def test_kappa_of_two_members_is_that_of_the_pair(seed: int) -> None:
    choices, y = pool(np.random.default_rng(seed), 60, 2, 3)
    (pair,) = pairs(choices, y, NAMES)

    assert kappa(choices, y).value == pytest.approx(pair.kappa.value)
    assert correlation(choices, y).value == pytest.approx(pair.correlation.value)


@given(st.integers(0, 10**6))
def test_the_correlation_of_all_is_the_mean_over_pairs(seed: int) -> None:
    choices, y = pool(np.random.default_rng(seed), 120, 4, 3)
    mean = np.mean([pair.correlation.value for pair in pairs(choices, y, NAMES)])

    assert correlation(choices, y).value == pytest.approx(mean)


@pytest.mark.parametrize("estimate", [kappa, correlation])
def test_the_intervals_of_the_pool_cover_independence(estimate: Any) -> None:
    found = [estimate(*unlike(600, [0.15] * 4, seed)) for seed in range(300)]

    assert 0.91 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.98


@pytest.mark.parametrize(
    ("errors_correlate", "worth"), [(0.0, 5), (1.0, 1), (0.5, 5 / 3), (0.25, 2.5), (-0.25, math.inf), (-0.2, 25)]
)
def test_effective_votes_by_hand(errors_correlate: float, worth: float) -> None:
    exact = Estimate(errors_correlate, errors_correlate, errors_correlate, 100)

    assert effective_votes(exact, 5).value == pytest.approx(worth)


def test_the_more_correlated_the_fewer_effective_votes() -> None:
    found = effective_votes(Estimate(0.3, 0.2, 0.4, 100), 5)

    assert found.low < found.value < found.high


def test_what_is_no_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="found 4 rows and 1 members, expected at least 1 and 2"):
        kappa(np.zeros((4, 1), np.int64), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="found no rows, expected at least 1"):
        der(np.zeros((0, 3), np.int64), np.zeros(0, np.int64))


def test_one_row_says_nothing_of_the_spread() -> None:
    found = kappa(np.array([[0, 1]]), np.array([0]))

    assert (found.low, found.high) == (-math.inf, math.inf)


# ----------------------------------------------------------------------------------------- what diversity promises the vote


@pytest.mark.parametrize(
    ("choices", "is_competent"),
    [
        ([[0, 0, 1], [0, 1, 1]], True),  # one narrow win and one narrow loss
        ([[0, 1, 1], [0, 0, 0]], False),  # a narrow loss and only a clear win
        ([[0, 0, 0], [1, 1, 1]], True),
        ([[1, 1, 1], [0, 1, 1], [0, 0, 1]], False),  # a clear loss that no clear win outweighs
        ([[0, 1]], False),  # half wrong
    ],
)
def test_competence_by_hand(choices: list[list[int]], is_competent: bool) -> None:
    assert competent(np.array(choices), np.zeros(len(choices), np.int64)) == is_competent


def test_the_bounds_of_the_improvement_hold_for_every_competent_pool() -> None:
    rng = np.random.default_rng(2)
    judged, outside_when_incompetent = 0, 0
    while judged < POOLS:
        members, classes = int(rng.integers(2, 8)), int(rng.integers(2, 6))
        choices, y = pool(rng, int(rng.integers(5, 60)), members, classes)
        error = (choices != y[:, None]).mean()
        if not error:
            continue
        answer = vote(one_hot(choices, classes), ballot(members)).label_index
        improvement = (error - (answer != y).mean()) / error
        low, high = improvement_bounds(der(choices, y).value, classes)
        inside = low - 1e-9 <= improvement <= high + 1e-9
        if competent(choices, y):
            assert inside
            judged += 1
        else:
            outside_when_incompetent += not inside

    assert outside_when_incompetent, "competence is needed, or this test could not fail"


# --------------------------------------------------------------------------------------------------------------- mistakes


def split(choices: Any, y: Any, counted: Ballot, label_index: Any) -> dict[str, list[int]]:
    found = mistakes(np.array(choices), np.array(label_index), np.array(y), counted)
    return {name: np.flatnonzero(getattr(found, name)).tolist() for name in found.__slots__}


def test_the_errors_of_a_hard_vote_by_hand() -> None:
    choices = [[1, 1, 1], [1, 2, 3], [0, 1, 1], [0, 1, 2], [0, 0, 1], [0, 1, 2]]
    y = [0, 0, 0, 2, 0, 0]
    answers = vote(one_hot(np.array(choices), 4), ballot(3)).label_index

    assert answers.tolist() == [1, 1, 1, 0, 0, 0]
    assert split(choices, y, ballot(3), answers) == {
        "all_wrong": [0, 1],
        "wrong_majority": [2],
        "lost_ties": [3],
        "rescued": [],
    }


def test_an_abstention_is_a_tie_that_was_lost_where_the_right_class_led() -> None:
    choices, y = [[0, 1], [1, 2], [0, 1]], [0, 0, 1]

    assert split(choices, y, ballot(2, tie_break=TieBreak.ABSTAIN), [-1, -1, -1]) == {
        "all_wrong": [1],
        "wrong_majority": [],
        "lost_ties": [0, 2],
        "rescued": [],
    }


def test_weights_make_ties_and_majorities() -> None:
    choices, y = [[0, 1, 1], [1, 0, 0]], [0, 0]

    assert split(choices, y, ballot(3, weights=[2, 1, 1]), [1, 1])["lost_ties"] == [0, 1]
    assert split(choices, y, ballot(3, weights=[0.1, 0.2, 0.3]), [1, 1])["wrong_majority"] == [0]
    assert split([[0, 0, 1]], [0], ballot(3, weights=[0.1, 0.2, 0.3]), [1])["lost_ties"] == [0], (
        "0.1 + 0.2 ties with 0.3"
    )


def test_votes_that_are_missing_lead_nothing() -> None:
    assert split([[0, 1, -1, -1]], [0], ballot(4), [1])["lost_ties"] == [0]


def test_a_soft_vote_can_be_right_where_every_member_is_wrong() -> None:
    scores = np.array([[[0.5, 0.1, 0.4], [0.1, 0.5, 0.4]], [[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]]])
    average = ballot(2, Rule.PROBABILITY_AVERAGE)
    result = vote(scores, average)

    assert result.label_index.tolist() == [2, 0]
    assert split(result.votes, [2, 1], average, result.label_index) == {
        "all_wrong": [],
        "wrong_majority": [1],
        "lost_ties": [],
        "rescued": [0],
    }


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("tie_break", list(TieBreak))
def test_every_error_has_one_reason(rule: Rule, tie_break: TieBreak) -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.full(3, 0.5), (2000, 4))
    y = rng.integers(0, 3, 2000)
    counted = ballot(4, rule, tie_break, weights=[1, 1, 2, 1])
    result = vote(scores, counted)
    found = mistakes(result.votes, result.label_index, y, counted)
    reasons = found.all_wrong.astype(int) + found.wrong_majority + found.lost_ties

    assert reasons.tolist() == (result.label_index != y).astype(int).tolist()
    assert found.hopeless.tolist() == (result.votes != y[:, None]).all(axis=1).tolist()
    assert rule is not Rule.MAJORITY or not found.rescued.any()


@given(st.integers(0, 10**6))
def test_chunks_split_as_the_whole_does(seed: int) -> None:
    choices, y = pool(np.random.default_rng(seed), 40, 3, 3)
    counted = ballot(3)
    answers = vote(one_hot(choices, 3), counted).label_index
    whole = mistakes(choices, answers, y, counted)
    parts = [mistakes(choices[rows], answers[rows], y[rows], counted) for rows in (slice(15), slice(15, None))]

    assert np.concatenate([part.lost_ties for part in parts]).tolist() == whole.lost_ties.tolist()


# ------------------------------------------------------------------------------------------------------------------- size


def test_a_million_rows_take_little_memory() -> None:
    """Ten numbers a row in single precision is what they may take on top of five small choices and the label."""
    choices, y = np.random.default_rng(0).integers(0, 10, (1_000_000, 5), np.int8), np.zeros(1_000_000, np.int64)
    tracemalloc.start()
    for measure in (der, kappa, correlation, lambda choices, y: pairs(choices, y, NAMES)):
        measure(choices, y)
    mistakes(choices, choices[:, 0].astype(np.int64), y, ballot(5))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 60_000_000
