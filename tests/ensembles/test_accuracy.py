"""Losses and calibration against scikit-learn, paired comparison by exact counts and by simulated studies."""

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from ensembles import accuracy
from ensembles.accuracy import (
    BINS,
    Reliability,
    brier_rows,
    detectable_gain,
    mcnemar,
    nll_rows,
    paired_gain,
    right,
    rows_needed,
    selective,
)

STUDIES = 1000


def probabilities(n: int, classes: int = 4, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


def labels_of(shares: NDArray[np.float64], seed: int = 1) -> NDArray[np.int64]:
    """Labels that come as often as the shares say: by construction, these are calibrated."""
    drawn = np.random.default_rng(seed).random((len(shares), 1))
    return np.minimum((drawn > shares.cumsum(axis=1)).sum(axis=1), shares.shape[1] - 1)


# ----------------------------------------------------------------------------------------------------------------- losses


def test_an_abstention_is_wrong() -> None:
    assert right(np.array([2, -1, 0]), np.array([2, 0, 1])).tolist() == [True, False, False]


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_losses_are_scikit_learns(classes: int) -> None:
    shares = probabilities(500, classes)
    y = labels_of(shares)
    every = list(range(classes))

    assert nll_rows(shares, y).mean() == pytest.approx(metrics.log_loss(y, shares, labels=every))
    if classes > 2:  # with two it takes one probability and halves the sum
        assert brier_rows(shares, y).mean() == pytest.approx(metrics.brier_score_loss(y, shares, labels=every))
    else:
        assert brier_rows(shares, y).mean() / 2 == pytest.approx(metrics.brier_score_loss(y, shares[:, 1]))


def test_losses_by_hand() -> None:
    shares = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], np.float32)
    y = np.array([0, 0, 1])

    assert nll_rows(shares, y) == pytest.approx([0, -math.log(1e-12), math.log(2)])
    assert brier_rows(shares, y) == pytest.approx([0, 2, 0.5])


# ------------------------------------------------------------------------------------------------------------- calibration


def by_the_book(confidence: NDArray[np.float64], was_right: NDArray[np.bool_]) -> float:
    total = 0.0
    for low in np.arange(BINS) / BINS:
        inside = (confidence >= low) & (confidence < low + 1 / BINS + 1e-12 * (low + 1 / BINS >= 1))
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - was_right[inside].mean())
    return total


def test_the_calibration_error_by_the_book() -> None:
    shares = probabilities(2000)
    confidence, was_right = shares.max(axis=1), right(shares.argmax(axis=1), labels_of(shares**2, 2))

    assert Reliability.of(confidence, was_right).ece().value == pytest.approx(by_the_book(confidence, was_right))


def test_the_calibration_error_by_hand() -> None:
    """Nine of ten rows claim 0.9 and half of them are right; one claims 1 and is."""
    found = Reliability.of(np.array([0.9] * 8 + [1.0] * 2), np.array([True, False] * 4 + [True] * 2))

    assert found.ece().value == pytest.approx(0.8 * 0.4)


def test_chunks_add_up_to_the_whole() -> None:
    confidence = probabilities(999).max(axis=1).astype(np.float32)
    was_right = np.random.default_rng(0).random(999) < confidence
    parts = [
        Reliability.of(each, kept)
        for each, kept in zip(np.split(confidence, [10, 500]), np.split(was_right, [10, 500]), strict=True)
    ]
    whole, total = Reliability.of(confidence, was_right), parts[0] + parts[1] + parts[2]

    for field in fields(Reliability):
        assert getattr(total, field.name) == pytest.approx(getattr(whole, field.name))
    assert total.ece().value == pytest.approx(whole.ece().value)


@pytest.mark.parametrize("sharpened", [0.0, 0.1])
@pytest.mark.parametrize("n", [200, 2000])
def test_the_interval_of_the_calibration_error_covers_it(sharpened: float, n: int) -> None:
    """Confidences in the middle of the bins, all too high by as much: so the true error is known."""
    rng = np.random.default_rng(7)
    middle = (np.arange(5, BINS) + 0.5) / BINS
    covered = 0
    for _ in range(300):
        confidence = rng.choice(middle, n)
        found = Reliability.of(confidence, rng.random(n) < confidence - sharpened).ece(draws=400)
        assert found.low <= found.value <= found.high
        covered += found.low <= sharpened + 1e-12 and sharpened <= found.high

    assert covered / 300 > 0.93


def test_the_calibration_error_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="found no rows, expected at least 1"):
        Reliability.of(np.zeros(0), np.zeros(0, np.bool_)).ece()


# ------------------------------------------------------------------------------------------------------ paired comparison


def study(won: int, lost: int, n: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """n rows of which the first answerer alone has `won`, the second alone has `lost`."""
    rows = np.arange(n)
    return rows >= lost, (rows < lost) | (rows >= lost + won)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (6, 0), (5, 1), (9, 1), (40, 20), (100, 131)])
def test_mcnemar_is_scipys_binomial_test(won: int, lost: int) -> None:
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0

    assert mcnemar(*study(won, lost, 500)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 30, 200, 10_000])
def test_the_interval_of_a_gain_excludes_zero_just_when_mcnemar_is_significant(n: int) -> None:
    for won in range(0, min(n, 60) + 1, 2):
        for lost in range(min(n - won, 60) + 1):
            found = paired_gain(*study(won, lost, n))
            assert found.low <= found.value <= found.high
            assert (found.low > 0 or found.high < 0) == (mcnemar(*study(won, lost, n)) < 0.05), (won, lost)


@pytest.mark.parametrize("cells", [(0.05, 0.05), (0.08, 0.04), (0.3, 0.02), (0.5, 0.1), (0.01, 1e-9)])
@pytest.mark.parametrize("n", [100, 300])
def test_the_interval_of_a_gain_covers_it_in_nineteen_of_twenty_studies(cells: tuple[float, float], n: int) -> None:
    """Exactly: every outcome, weighted by its chance."""
    won, lost = (each.ravel() for each in np.mgrid[: n + 1, : n + 1])
    chance = stats.multinomial.pmf(np.stack([won, lost, n - won - lost], axis=1), n, [*cells, 1 - sum(cells)])
    covered = 0.0
    for row in np.flatnonzero(chance > 1e-7):
        found = paired_gain(*study(won[row], lost[row], n))
        covered += chance[row] * (found.low <= cells[0] - cells[1] <= found.high)

    assert covered > 0.947


def test_equally_good_members_are_called_better_in_one_of_twenty_studies_at_most() -> None:
    """Three members by construction alike: each errs on one row in five, and errors correlate by way of the hard rows."""
    rng = np.random.default_rng(11)
    significant = 0
    for _ in range(STUDIES):
        difficulty = rng.beta(0.4, 1.6, (600, 1))
        one, other = (rng.random((600, 2)) >= difficulty).T
        interval = paired_gain(one, other)
        called = interval.low > 0 or interval.high < 0
        assert called == (mcnemar(one, other) < 0.05)
        significant += called

    assert significant / STUDIES <= 0.064


def test_the_same_answers_gain_exactly_nothing() -> None:
    answers = np.random.default_rng(0).random(1000) < 0.8
    found = paired_gain(answers, answers.copy())

    assert found.value == 0.0
    assert found.low < 0 < found.high, "no difference in 1,000 rows does not prove that there is none"
    assert mcnemar(answers, answers) == 1.0


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 200))
def test_whoever_comes_first_the_comparison_is_the_same(won: int, lost: int, more: int) -> None:
    one, other = study(won, lost, won + lost + more)
    gain, loss = paired_gain(one, other), paired_gain(other, one)

    assert (gain.value, gain.low, gain.high) == pytest.approx((-loss.value, -loss.high, -loss.low))
    assert mcnemar(one, other) == mcnemar(other, one)


@pytest.mark.parametrize(("n", "points"), [(1000, 1.39), (10_000, 0.44), (50_000, 0.20)])
def test_the_gain_that_so_many_rows_can_show(n: int, points: float) -> None:
    assert 100 * detectable_gain(0.05, n) == pytest.approx(points, abs=0.005)
    assert detectable_gain(0.05, n, power=0.8) == pytest.approx(detectable_gain(0.05, n) * 2.80 / 1.96, rel=1e-3)


@given(st.floats(0.001, 1), st.floats(0.001, 0.5))
def test_the_rows_needed_for_a_gain_can_show_it(rate: float, gain: float) -> None:
    n = rows_needed(rate, gain)

    assert detectable_gain(rate, n) <= gain * (1 + 1e-6)
    assert n == 1 or detectable_gain(rate, n - 1) > gain * (1 - 1e-6)


def test_a_gain_of_the_detectable_size_is_shown_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    rate, n = 0.1, 4000
    for power in (0.5, 0.8):
        gain = detectable_gain(rate, n, power)
        drawn = rng.multinomial(n, [(rate + gain) / 2, (rate - gain) / 2, 1 - rate], STUDIES)
        shown = sum(mcnemar(*study(won, lost, n)) < 0.05 for won, lost, _ in drawn)
        assert shown / STUDIES == pytest.approx(power, abs=0.05)


def test_a_comparison_on_no_rows_is_refused() -> None:
    nobody = np.zeros(0, np.bool_)
    with pytest.raises(ValueError, match="found no rows, expected at least 1"):
        paired_gain(nobody, nobody)


# ------------------------------------------------------------------------------------------------------ selective accuracy


def test_the_curve_by_hand() -> None:
    found = selective(np.array([0.2, 0.9, 0.5, 0.7]), np.array([False, True, True, False]))

    assert found.coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert found.accuracy == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert found.threshold == pytest.approx([0.9, 0.7, 0.5, 0.2])
    assert found.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_the_area_of_wrong_answers_is_that_of_the_ranking(rows: list[tuple[int, bool]]) -> None:
    """Traub et al. 2024: (1 - AUROC) accuracy (1 - accuracy) + (1 - accuracy)^2 / 2."""
    score, was_right = np.array([row[0] for row in rows], np.float64), np.array([row[1] for row in rows])
    p = was_right.mean()
    ranking = metrics.roc_auc_score(was_right, score) if 0 < p < 1 else 1.0

    assert selective(score, was_right).augrc == pytest.approx((1 - ranking) * p * (1 - p) + (1 - p) ** 2 / 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_the_order_of_rows_changes_nothing(rows: list[tuple[int, bool]], random) -> None:
    def areas(rows: list[tuple[int, bool]]) -> tuple[float, float]:
        found = selective(np.array([row[0] for row in rows], np.float64), np.array([row[1] for row in rows]))
        return found.aurc, found.augrc

    assert areas(random.sample(rows, len(rows))) == pytest.approx(areas(rows))


def test_equal_scores_count_as_their_orders_do_on_average() -> None:
    rng = np.random.default_rng(0)
    score, was_right = rng.integers(0, 3, 30).astype(np.float64), rng.random(30) < 0.7
    shuffled = [selective(score + rng.random(30) * 1e-6, was_right) for _ in range(3000)]

    assert selective(score, was_right).aurc == pytest.approx(np.mean([each.aurc for each in shuffled]), abs=2e-3)
    assert selective(score, was_right).augrc == pytest.approx(np.mean([each.augrc for each in shuffled]), abs=2e-3)


def test_a_long_curve_is_thinned_and_ends_with_all_rows() -> None:
    rng = np.random.default_rng(0)
    was_right = rng.random(100_000) < 0.9
    found = selective(rng.random(100_000).astype(np.float32), was_right)

    assert len(found.coverage) <= accuracy.CURVE_POINTS
    assert (found.coverage[-1], found.accuracy[-1]) == (1.0, pytest.approx(was_right.mean()))
    assert np.diff(found.coverage).max() < 0.01


def test_a_threshold_answers_as_many_rows_as_it_says() -> None:
    score = np.random.default_rng(0).integers(0, 1000, 5000) / 1000
    found = selective(score, score > 0.3)

    for threshold, coverage, reached in zip(found.threshold, found.coverage, found.accuracy, strict=True):
        assert (score >= threshold).mean() == pytest.approx(coverage)
        assert (score > 0.3)[score >= threshold].mean() == pytest.approx(reached)


def test_selection_from_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="found no rows, expected at least 1"):
        selective(np.zeros(0), np.zeros(0, np.bool_))
