"""Objectives: read with their units, faults with their place, and held against runs."""

import dataclasses
import math

import pytest

from loadtest import judging, slo
from loadtest.slo import SloError


@pytest.mark.parametrize(
    ("text", "quantity", "sign", "limit"),
    [
        ("p99<50ms", "p99", "<", 0.05),
        ("p99.9 <= 1.5 s", "p99.9", "<=", 1.5),
        ("max<2m", "max", "<", 120),
        ("mean<300us", "mean", "<", 3e-4),
        ("error_rate<0.1%", "error_rate", "<", 0.001),
        ("accuracy>=0.97", "accuracy", ">=", 0.97),
        ("agreement>99%", "agreement", ">", 0.99),
        ("cost_per_1k<0.02usd", "cost_per_1k", "<", 0.02),
        ("rows_per_second>200/s", "rows_per_second", ">", 200),
    ],
)
def test_an_objective_is_read_with_its_unit(text: str, quantity: str, sign: str, limit: float) -> None:
    found = slo.parse(text)

    assert (found.quantity, found.sign, found.limit) == (quantity, sign, pytest.approx(limit))


def test_several_may_stand_between_commas() -> None:
    assert [each.text for each in slo.parse_all(["p99<50ms, error_rate<1%", "max<1s"])] == [
        "p99<50ms",
        "error_rate<1%",
        "max<1s",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("p99<50", "'p99<50', character 7: found the end, expected a duration such as 50ms"),
        ("p99<50kg", "'p99<50kg', character 7: found 'kg', expected a duration such as 50ms"),
        ("p99~50ms", "'p99~50ms', character 4: found '~50ms', expected a quantity, one of < <= > >=, and a number"),
        ("p99<fast", "'p99<fast', character 5: found 'fast', expected a quantity, one of"),
        ("p99>50ms", "'p99>50ms', character 4: found '>50ms', expected < or <=: a latency is kept below something"),
        (
            "p100<1s",
            "'p100<1s', character 1: found 'p100<1s', expected p50, p99, p99.9 … or one of error_rate, accuracy",
        ),
        ("speed<1s", "'speed<1s', character 1: found 'speed<1s', expected p50, p99, p99.9 … or one of error_rate"),
        ("error_rate<5ms", "'error_rate<5ms', character 13: found 'ms', expected a share such as 0.1% or 0.001"),
        ("p99<50ms and max<1s", "'p99<50ms and max<1s', character 10: found 'and max<1s', expected nothing more"),
        ("", "'', character 1: found the end, expected a quantity"),
        ("p99<", "'p99<', character 5: found the end, expected a quantity"),
        ("<50ms", "'<50ms', character 1: found '<50ms', expected a quantity"),
    ],
)
def test_what_cannot_be_read_is_shown_where(text: str, told: str) -> None:
    with pytest.raises(SloError) as fault:
        slo.parse(text)

    assert str(fault.value).startswith(told)
    assert "\n" not in str(fault.value)


def judged(run, *texts):
    return judging.judged(run, run.arms[0], slo.parse_all(texts))


def test_an_objective_is_held_against_all_requests(simulated) -> None:
    """p99 of the simulated queue is 7.7 ms."""
    kept, missed, close = judged(simulated(1), "p99<20ms", "p99<5ms", "p99<7.7ms")

    assert (kept.met, kept.sure) == (True, True)
    assert (missed.met, missed.sure) == (False, True)
    assert not close.sure
    assert close.found.value == pytest.approx(math.log(100) / 600, rel=0.15)


def test_a_server_that_refuses_quickly_is_not_fast(simulated) -> None:
    run = simulated(1)
    arm = run.arms[0]
    for _ in range(arm.requests // 20):
        arm.sent(3.0, 3.0)
        arm.failed(3.0, 3.001, "RESOURCE_EXHAUSTED")
    p50, p99, errors = judged(run, "p50<20ms", "p99<20ms", "error_rate<1%")

    assert p50.met
    assert not p99.met and p99.found.value == math.inf
    assert not errors.met and errors.found.value == pytest.approx(1 / 21, rel=0.01)


def test_what_was_not_measured_is_not_met(simulated) -> None:
    accuracy, cost = judged(simulated(1), "accuracy>0.5", "cost_per_1k<1usd")

    assert not accuracy.met and accuracy.found is None
    assert not cost.met


def test_accuracy_and_cost_have_objectives_too(side_by_side) -> None:
    run = side_by_side(full=(390, 2e-6))
    right, cost, agreement, rate = judged(
        run, "accuracy>0.9", "cost_per_1k<0.003usd", "agreement>=1", "requests_per_second>150/s"
    )

    assert right.met and right.sure
    assert cost.met and cost.found.value == pytest.approx(0.002, rel=0.02)
    assert agreement.met and not agreement.sure
    assert rate.met


def test_goodput_counts_up_to_the_tightest_latency() -> None:
    assert judging.tightest(slo.parse_all(["p99<50ms", "p50<10ms", "error_rate<1%"])) == 0.01
    assert judging.tightest(slo.parse_all(["error_rate<1%"])) == math.inf


def test_all_quantities_have_a_measure(side_by_side) -> None:
    run = side_by_side(full=(390, 2e-6))
    arm = dataclasses.replace(run.arms[0])
    texts = {"share": ">0%", "duration": "<9s", "rate": ">0/s", "amount": "<9usd"}
    for name, quantity in slo.QUANTITIES.items():
        unit = next(text for word, text in texts.items() if word in quantity.unit.value)
        (outcome,) = judging.judged(run, arm, slo.parse_all([name + unit]))
        assert outcome.found is not None, name
