"""The true labels of an answer score the vote and each member, on the rows where they are known."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.feedback import Score, _named, scored
from serving.receipts import Receipt


def receipt(label_index: list[int], votes: list[list[int]], cost_usd: float = 6.0) -> Receipt:
    return Receipt("full", cost_usd, 0.0, b"", np.array(label_index), np.array(votes))


def test_votes_and_answers_are_right_where_they_are_the_truth() -> None:
    found = scored(receipt([0, 1, 2], [[0, 0], [0, 1], [2, 0]]), ["a", "b"], np.array([0, 1, 1]))

    assert found == Score(rows=3, right=2, voted={"a": 3, "b": 3}, members={"a": 1, "b": 2}, cost_usd=6.0)


def test_a_row_whose_truth_is_unknown_is_not_counted_and_not_paid_for() -> None:
    found = scored(receipt([0, 1, 2], [[0, 0], [0, 1], [2, 0]]), ["a", "b"], np.array([0, -1, -1]))

    assert found == Score(rows=1, right=1, voted={"a": 1, "b": 1}, members={"a": 1, "b": 1}, cost_usd=2.0)


def test_an_abstention_is_not_right_and_who_did_not_vote_is_not_scored() -> None:
    found = scored(receipt([-1, -1], [[0, -1], [1, -1]]), ["a", "b"], np.array([0, 0]))

    assert found == Score(rows=2, right=0, voted={"a": 2}, members={"a": 1}, cost_usd=6.0)


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2), st.integers(-1, 2)), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_member_is_right_on_no_more_rows_than_it_voted_on(rows: list[tuple[int, int, int]]) -> None:
    labels, votes, truth = (np.array(column) for column in zip(*rows, strict=True))
    found = scored(receipt(labels, votes[:, None]), ["a"], truth)

    assert found.right <= found.rows == (truth >= 0).sum()
    assert found.members.get("a", 0) <= found.voted.get("a", 0) <= found.rows
    assert found.members.get("a", 0) == ((votes == truth) & (truth >= 0)).sum()


def test_of_many_labels_some_are_named() -> None:
    assert _named(["no", "yes"]) == "one of 'no', 'yes'"
    assert _named([str(number) for number in range(1000)]).endswith("'8', '9' and 990 more")
