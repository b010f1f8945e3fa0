"""The verdict: worth it at what value of a right answer, or not shown by this much data."""

import dataclasses

import pytest

from loadtest import results
from loadtest.records import ArmRecord


def verdict(run) -> dict:
    return results.document(run)["verdict"]


def test_a_better_and_dearer_policy_is_worth_it_from_some_value_of_a_right_answer(side_by_side) -> None:
    """20 of 400 rows won, for 1e-6 USD a row more: one more right answer costs 20 millionths."""
    found = verdict(side_by_side(full=(390, 2e-6), member_cnn=(370, 1e-6)))
    price = found["cost_usd_of_one_more_right"]

    assert found["gain"]["value"] == pytest.approx(0.05) and found["gain"]["n"] == 400
    assert found["extra_cost_usd_per_1000"]["value"] == pytest.approx(0.001, rel=0.03)
    assert price["value"] == pytest.approx(2e-5, rel=0.03)
    assert price["low"] < 2e-5 < price["high"]
    assert found["text"].startswith(
        "The full ensemble is right more often than cnn, the best member, by 5.0 points (95% interval 2.7 to 7.2) and costs 2.0"
    )
    assert "worth it where 1,000 more right answers are worth more than 0.0" in found["text"]


def test_a_better_and_cheaper_policy_is_worth_it_in_any_case(side_by_side) -> None:
    text = verdict(side_by_side(early_exit=(390, 1e-6), member_cnn=(370, 2e-6)))["text"]

    assert text.endswith("worth it whatever a right answer is worth.")
    assert "USD less for 1,000 rows" in text


def test_a_gain_that_is_not_shown_says_how_many_rows_would(side_by_side) -> None:
    """Three of 400 rows won: by McNemar's test that may be chance."""
    found = verdict(side_by_side(full=(373, 2e-6), member_cnn=(370, 1e-6)))

    assert found["gain"]["low"] < 0 < found["gain"]["high"]
    assert found["mcnemar_p"] == pytest.approx(0.25)
    assert found["cost_usd_of_one_more_right"] is None
    assert found["rows_needed"] == 513
    assert "is not shown to be right more often than cnn, the best member, by 400 rows: +0.8 points" in found["text"]
    assert "1,000 right answers would have to be worth at least" in found["text"]
    assert found["text"].endswith("about 513 rows are needed to show a gain of this size.")


def test_no_gain_at_all_says_what_these_rows_could_show(side_by_side) -> None:
    found = verdict(side_by_side(full=(370, 2e-6), member_cnn=(370, 1e-6)))

    assert found["rows_needed"] is None
    assert "so many rows can show a gain of" in found["text"]


def test_a_worse_and_dearer_policy_is_not_worth_it(side_by_side) -> None:
    text = verdict(side_by_side(full=(350, 2e-6), member_cnn=(380, 1e-6)))["text"]

    assert "is right less often than cnn, the best member, by 7.5 points (95% interval 4.8 to 10.1)" in text
    assert text.endswith("not worth it, whatever a right answer is worth.")


def test_a_worse_and_cheaper_policy_is_worth_it_up_to_some_value(side_by_side) -> None:
    found = verdict(side_by_side(cascade=(350, 1e-6), member_cnn=(380, 2e-6)))

    assert found["cost_usd_of_one_more_right"]["value"] == pytest.approx(1e-6 / 0.075, rel=0.05)
    assert "worth it only where 1,000 right answers are worth less than" in found["text"]


def test_the_cheapest_policy_that_is_shown_to_be_better_makes_the_headline(side_by_side) -> None:
    found = verdict(
        side_by_side(full=(392, 3e-6), early_exit=(392, 1.5e-6), cascade=(371, 1.2e-6), member_cnn=(370, 1e-6))
    )

    assert found["policy"] == "early_exit"
    assert [each["policy"] for each in found["policies"]] == ["full", "early_exit", "cascade"]


def test_the_best_of_several_members_is_the_one_to_beat(side_by_side) -> None:
    found = verdict(side_by_side(full=(390, 2e-6), member_cnn=(360, 1e-6), member_mlp=(380, 1e-6)))

    assert found["against"] == "member:mlp"


def test_costs_that_nobody_tells_are_no_reason_for_a_price(side_by_side) -> None:
    found = verdict(side_by_side(full=(390, 0.0), member_cnn=(370, 0.0)))

    assert found["extra_cost_usd_per_1000"] is None
    assert found["text"].endswith("what it costs is unknown, as the target tells no costs.")


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        ({"full": (390, 1e-6)}, "no single member ran beside it; add --policy member:NAME"),
        ({"member_cnn": (390, 1e-6)}, "Only single members ran; add --policy full"),
    ],
)
def test_what_is_missing_for_a_verdict_is_told(side_by_side, policies, told) -> None:
    assert told in verdict(side_by_side(**policies))["text"]


def test_without_labels_nobody_knows_what_is_right(simulated) -> None:
    assert "add --data FILE with x and y" in verdict(simulated(0))["text"]


def test_answers_that_vary_count_with_their_share(side_by_side) -> None:
    """Under load a member is sometimes missing, and the answer to the same row another one."""
    run = side_by_side(full=(380, 1e-6), member_cnn=(370, 1e-6))
    for row in range(100):
        run.arms[0].answers.note(row, (row + 1) % 10)
    document = results.document(run)

    assert document["arms"][0]["accuracy"]["value"] == pytest.approx((280 + 50) / 400)
    assert document["verdict"]["gain"]["value"] == pytest.approx((330 - 370) / 400)
    assert document["verdict"]["mcnemar_p"] is None


def test_asking_a_row_again_tells_nothing_new(side_by_side) -> None:
    once = side_by_side(full=(380, 1e-6))
    often = dataclasses.replace(once, arms=[dataclasses.replace(once.arms[0])])
    for row, label in list(often.arms[0].answers.counts):
        often.arms[0].answers.counts[row, label] *= 50

    assert results.document(often)["arms"][0]["accuracy"] == results.document(once)["arms"][0]["accuracy"]


def test_agreement_is_with_the_full_ensembles_answers_row_by_row(side_by_side) -> None:
    document = results.document(side_by_side(full=(390, 1e-6), cascade=(380, 1e-6)))
    full, cascade = (arm["agreement_with_full"] for arm in document["arms"])

    assert (full["value"], cascade["value"]) == (1.0, pytest.approx(390 / 400))
    assert cascade["low"] < 0.975 < cascade["high"]


def test_an_arm_that_answered_nothing_has_no_numbers(simulated) -> None:
    run = simulated(0)
    run.arms = [ArmRecord("full")]
    (arm,) = results.document(run)["arms"]

    assert arm["latency_seconds"]["p99"] is None
    assert arm["rows_per_second"] is arm["accuracy"] is arm["error_rate"] is None
