"""The temperature that serves best, against labels drawn at a known one, against all others, and against a general minimiser."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ensembles import temperature
from ensembles.accuracy import nll_rows
from ensembles.temperature import fit_temperature, logs, tempered
from ensembles.votes import Ballot, Rule, at_temperature, vote


def probabilities(n: int, classes: int = 4, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


def labels_of(shares: NDArray[np.float64], seed: int = 1) -> NDArray[np.int64]:
    """Labels that come as often as the shares say: by construction, these are calibrated."""
    drawn = np.random.default_rng(seed).random((len(shares), 1))
    return np.minimum((drawn > shares.cumsum(axis=1)).sum(axis=1), shares.shape[1] - 1)


def nll_when_served_at(shares: NDArray[np.float64], y: NDArray[np.int64], temperature: float) -> float:
    alone = Ballot(Rule.PROBABILITY_AVERAGE, np.ones(1), np.arange(1), temperature=temperature)
    return float(nll_rows(vote(shares[:, None], alone).probabilities, y).mean())


@pytest.mark.parametrize("true_temperature", [0.3, 0.8, 1.0, 2.5, 6.0])
def test_the_temperature_that_made_the_labels_is_found(true_temperature: float) -> None:
    shares = probabilities(20_000, 5)
    softer = shares ** (1 / true_temperature)
    y = labels_of(softer / softer.sum(axis=1, keepdims=True))

    assert fit_temperature(shares, y) == pytest.approx(true_temperature, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_serves_better(seed: int) -> None:
    shares = probabilities(300, 3, seed)
    y = labels_of(np.roll(shares, 1, axis=0) * 0.5 + shares * 0.5)
    best = nll_when_served_at(shares, y, fit_temperature(shares, y))

    for other in np.geomspace(temperature.COLDEST, temperature.HOTTEST, 200):
        assert best <= nll_when_served_at(shares, y, float(other)) + 1e-5


def test_hard_votes_never_become_worse_by_their_temperature() -> None:
    """Where the true class has no vote, no temperature can give it a share."""
    shares = np.array([[1.0, 0.0, 0.0], [2 / 3, 1 / 3, 0.0], [0.0, 2 / 3, 1 / 3]] * 50)
    y = np.array([1, 0, 0] * 50)

    assert nll_when_served_at(shares, y, fit_temperature(shares, y)) <= nll_when_served_at(shares, y, 1.0)


def test_rows_that_no_temperature_can_save_do_not_move_it() -> None:
    shares = np.array([[0.9, 0.1, 0.0]] * 100)
    y = np.array([0] * 70 + [1] * 25 + [2] * 5)

    assert fit_temperature(shares, y) == pytest.approx(fit_temperature(shares[:95], y[:95]), rel=1e-3)
    assert fit_temperature(shares, y) == pytest.approx(math.log(9) / math.log(70 / 25), rel=1e-3)


def test_a_temperature_stays_within_its_bounds() -> None:
    sure, even = np.array([[0.6, 0.4]] * 40), np.array([0, 1] * 20)

    assert fit_temperature(sure, np.zeros(40, np.int64)) == pytest.approx(temperature.COLDEST, rel=0.01)
    assert fit_temperature(sure, even) == pytest.approx(temperature.HOTTEST, rel=0.01)
    assert fit_temperature(np.full((40, 2), 0.5), even) == 1.0, "a temperature that changes nothing is 1"


def test_the_temperature_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="found no rows, expected at least 1"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64))


@pytest.mark.parametrize(("n", "classes", "sharper"), [(30, 3, 2.0), (700, 10, 0.4), (5000, 10, 1.7), (400, 200, 3.0)])
def test_it_is_the_temperature_that_a_general_minimiser_finds(n: int, classes: int, sharper: float) -> None:
    shares = probabilities(n, classes)
    y = labels_of(tempered(logs(shares), 1 / sharper).astype(np.float64))
    found = minimize_scalar(
        lambda log: nll_rows(tempered(logs(shares), math.exp(log)), y).mean(),
        bounds=(math.log(0.05), math.log(20)),
        method="bounded",
        options={"xatol": 1e-6},
    )

    assert fit_temperature(shares, y) == pytest.approx(math.exp(found.x), rel=1e-3)


@pytest.mark.parametrize("degrees", [0.05, 0.7, 1.0, 20.0])
def test_a_temperature_does_what_it_does_when_served(degrees: float) -> None:
    shares = np.concatenate([probabilities(50, 7), np.eye(7), np.full((1, 7), 1 / 7)])

    assert tempered(logs(shares), degrees) == pytest.approx(at_temperature(shares, degrees), abs=1e-6)
    each = np.full((len(shares), 1), degrees, np.float32)
    assert np.array_equal(tempered(logs(shares), each), tempered(logs(shares), degrees))
