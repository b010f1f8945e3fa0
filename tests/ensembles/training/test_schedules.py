"""Learning rates over a training."""

import numpy as np
import pytest

from ensembles.training.schedules import SCHEDULES, one_cycle

DONE = np.linspace(0, 1, 201)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_rate_is_a_share_of_the_highest(schedule):
    rates = [schedule(done) for done in DONE]
    assert max(rates) == pytest.approx(1)
    assert min(rates) >= 0


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_a_rate_that_falls_falls_to_nothing(name):
    rates = [SCHEDULES[name](done) for done in DONE[50:]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_one_cycle_warms_up_first():
    assert 0 < one_cycle(0) < one_cycle(0.1) < one_cycle(0.2) == 1
