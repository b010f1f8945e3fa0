"""`ensembles promise` as it is typed, and what it prints."""

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from ensembles.commands import Fault
from ensembles.commands.promise import EPILOG, promise

app = typer.Typer()
app.command(epilog=EPILOG)(promise)


def typed(arguments: str) -> str:
    """What is printed."""
    done = CliRunner().invoke(app, arguments.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ("0.3 0.3 0.3", "21.6%"),
        ("0.25 0.25 0.25", "15.6%"),
        ("0.3 --members 5", "16.3%"),
        ("0.1 --members 5", "0.86%"),
        ("0.05 --members 9", "0.0033%"),
        ("0.1 0.2 0.3 --weight 3 --weight 1 --weight 1", "10.0%"),
        ("0.3", "30.0%"),
        ("0 0 0", "0.0%"),
        ("0.001 --members 9", "<0.0001%"),
    ],
)
def test_the_first_line_is_the_promise_of_independence(arguments: str, first: str) -> None:
    assert typed(arguments).splitlines()[0] == first


def test_the_lines_below_say_what_becomes_of_it() -> None:
    assert typed("0.3 0.3 0.3 --double-fault 0.15").splitlines()[1:] == [
        "",
        "The majority of 3 members that err 30.0% each, errs",
        "           21.6%  if they err independently (Poisson-binomial)",
        "           22.8%  if errors correlate 0.05 (beta-binomial; 3.5% with ever more members)",
        "           25.5%  if errors correlate 0.2 (beta-binomial; 18.2% with ever more members)",
        "           28.6%  if errors correlate 0.5 (beta-binomial; 27.2% with ever more members)",
        "  15.0% to 45.0%  whatever the dependence (all that the mean error and a double fault of 15.0% allow)",
        "           30.0%  is what the best member alone errs",
        "",
        "A second and a third member, both independent, help the best one (30.0%) if each errs less than 39.6%.",
        "With the second best (30.0%), the third must err less than 50.0%.",
        "For two classes, ties counting half. With more classes wrong votes can split, and the vote may err less.",
    ]


def test_unlike_members_are_taken_at_their_mean_where_errors_correlate() -> None:
    printed = typed("0.1 0.2 0.3 --correlation 0.3")

    assert "The majority of 3 members that err 10.0%, 20.0%, 30.0%, errs" in printed
    assert "16.4%  if errors correlate 0.3 (beta-binomial; as if each erred 20.0%; 12.1% with ever more" in printed
    assert (
        "0.0% to 30.0%  whatever the dependence (all that the mean error allows; --double-fault narrows it)" in printed
    )
    assert "With the second best (20.0%), the third must err less than 30.8%." in printed


def test_correlations_may_be_chosen() -> None:
    assert re.findall(r"errors correlate (\S+)", typed("0.3 --members 3 --correlation 0 --correlation 0.9")) == [
        "0",
        "0.9",
    ]


def test_weights_are_named_and_leave_the_bracket_open() -> None:
    printed = typed("0.1 0.2 0.3 --weight 2 --weight 1 --weight 1")

    assert "that err 10.0%, 20.0%, 30.0% and count 2, 1, 1, errs" in printed
    assert "?  whatever the dependence (known for equal weights only)" in printed


def test_one_member_is_no_vote() -> None:
    assert typed("0.3").splitlines()[1:5] == [
        "",
        "The majority of one member, errs",
        "  30.0%  is what the best member alone errs",
        "",
    ]


def test_many_members_are_not_listed() -> None:
    assert "The majority of 12 members that err 20.0% on average, errs" in typed("0.1 0.3 " * 6)


def test_for_machines() -> None:
    found = json.loads(typed("0.3 0.3 0.3 --double-fault 0.15 --correlation 0.2 --json"))

    assert found["errors"] == [0.3, 0.3, 0.3]
    assert found["weights"] == [1, 1, 1]
    assert found["independent_error"] == pytest.approx(0.216)
    assert found["correlated"] == [
        {"correlation": 0.2, "error": pytest.approx(0.2552), "limit": pytest.approx(0.182, abs=1e-4)}
    ]
    assert found["bracket"] == pytest.approx([0.15, 0.45])
    assert (found["best_error"], found["double_fault"]) == (0.3, 0.15)
    assert (found["others_below"], found["third_below"]) == pytest.approx((0.3956, 0.5), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("1.2 0.3", "found errors [1.2, 0.3], expected at least one, each from 0 to 1"),
        ("nan", "found errors [nan], expected at least one, each from 0 to 1"),
        ("0.3 0.3 --members 5", "--members: found 2 errors beside it, expected one, that of every member"),
        ("0.3 0.3 0.3 --weight 2", "found weights [2.0], expected 3, each above 0"),
        ("0.3 0.3 --weight 2 --weight 0", "found weights [2.0, 0.0], expected 2, each above 0"),
        ("0.3 0.3 --correlation 2", "found correlation 2.0, expected 0 to 1"),
        (
            "0.3 0.3 0.3 --double-fault 0.4",
            "found double fault 0.4, expected 0 to 0.3, which is what 3 members with mean error 0.3 can have",
        ),
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments: str, complaint: str) -> None:
    with pytest.raises(Fault) as raised:
        typed(arguments)

    assert (str(raised.value), raised.value.code) == (complaint, 2)


@pytest.mark.parametrize("arguments", ["", "abc", "0.3 --members 0", "0.3 --members 10001"])
def test_what_is_no_number_is_wrong_usage(arguments: str) -> None:
    assert CliRunner().invoke(app, arguments.split()).exit_code == 2


def test_help_has_an_example() -> None:
    assert "Example: ensembles promise 0.3 0.3 0.3" in typed("--help")
    assert "{ERROR}..." in typed("--help")
