"""The table of one batch: a column is entered whole or not at all."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles.stopping import Score, decided
from ensembles.tally import BadVote, Tally
from ensembles.votes import SUM_TOLERANCE, Ballot, Ints, Rule, TieBreak, vote

ROWS, CLASSES = 2, 3
BALLOT = Ballot(Rule.PROBABILITY_AVERAGE, np.array([1.0, 2.0, 1.0]), np.arange(3))
FIRST = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], np.float32)
SECOND = np.array([[0.0, 0.25, 0.75], [0.5, 0.25, 0.25]], np.float32)


@pytest.fixture
def tally() -> Tally:
    return Tally(BALLOT, ROWS, CLASSES)


def test_it_is_empty_at_first_and_has_no_answer(tally: Tally) -> None:
    assert (tally.votes, tally.complete) == (0, False)
    with pytest.raises(ValueError, match="a row without any vote has no answer"):
        tally.answer()


def test_it_is_complete_with_the_last_member(tally: Tally) -> None:
    states = []
    for member in (2, 0, 1):
        tally.enter(member, FIRST)
        states.append((tally.votes, tally.complete))

    assert states == [(1, False), (2, False), (3, True)]


def test_it_answers_with_the_votes_that_are_there(tally: Tally) -> None:
    tally.enter(0, FIRST)
    tally.enter(1, SECOND)
    result, _ = tally.answer()

    table = np.stack([FIRST, SECOND], axis=1)
    alone = vote(table, Ballot(BALLOT.rule, BALLOT.weights[:2], np.arange(2)))
    assert result.label_index.tolist() == alone.label_index.tolist() == [2, 1]
    assert result.probabilities == pytest.approx(alone.probabilities)
    assert result.agreement == pytest.approx([2 / 3, 1 / 3])
    assert result.votes.tolist() == [[0, 2, -1], [1, 0, -1]]


def test_the_order_in_which_members_answer_changes_nothing() -> None:
    columns = {0: FIRST, 1: SECOND, 2: FIRST[::-1]}
    answers = []
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        tally = Tally(BALLOT, ROWS, CLASSES)
        for member in order:
            tally.enter(member, columns[member])
        answers.append(tally.answer()[0])

    assert len({answer.probabilities.tobytes() for answer in answers}) == 1
    assert len({answer.label_index.tobytes() for answer in answers}) == 1


@pytest.mark.parametrize(
    "scores",
    [
        np.array([[1, 0, 0], [0, 0, 1]]),
        np.array([[True, False, False], [False, False, True]]),
        np.array([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7]], np.float16),
        np.array([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7]], np.float64),
        np.array([[0.3, 0.3, 0.4 + 0.9 * SUM_TOLERANCE], [0.1, 0.2, 0.7 - 0.9 * SUM_TOLERANCE]]),
        np.array([[0.3, 0.7 + 1e-8, -1e-8], [0.1, 0.2, 0.7]]),
    ],
    ids=["one-hot", "bool", "half", "double", "nearly one", "nearly zero"],
)
def test_probabilities_of_any_precision_are_votes(tally: Tally, scores: Any) -> None:
    tally.enter(0, scores)

    assert tally.answer()[0].label_index.tolist() == scores.argmax(axis=1).tolist()


NAN, INF = np.nan, np.inf
NO_VOTES = [
    ([[0.5, 0.5], [0.5, 0.5]], r"found scores of shape \[2, 2\], expected \[2, 3\]"),
    ([[1.0, 0.0, 0.0]], r"found scores of shape \[1, 3\], expected \[2, 3\]"),
    ([1.0, 0.0, 0.0], r"found scores of shape \[3\], expected \[2, 3\]"),
    ([[[1.0, 0.0, 0.0]] * 2], r"found scores of shape \[1, 2, 3\], expected \[2, 3\]"),
    ([[0.5, 0.25, 0.25], [NAN, 0.0, 1.0]], "sum to .*nan .*, expected 1 within 0.001"),
    ([[0.5, 0.25, 0.25], [INF, 0.0, 1.0]], "sum to .*inf .*, expected 1 within 0.001"),
    ([[0.5, 0.25, 0.25], [INF, -INF, 1.0]], "sum to .*nan .*, expected 1 within 0.001"),
    ([[0.5, 0.25, 0.25], [3e38, 3e38, 1.0]], "sum to .*inf .*, expected 1 within 0.001"),
    ([[0.5, 0.25, 0.25], [0.5, 0.5, 0.25]], r"sum to (1\.25|1\+0\.25) at the worst, expected 1 within 0.001"),
    ([[0.5, 0.25, 0.25], [0.5, 0.125, 0.125]], r"sum to (0\.75|1-0\.25) at the worst, expected 1 within 0.001"),
    ([[0.5, 0.25, 0.25], [5.0, -3.0, 1.0]], r"sum to (3|1\+2) at the worst, expected 1 within 0.001"),
    ([[0.5, 0.25, 0.25], [0.75, 0.5, -0.25]], r"found the probability -0\.25, expected none below 0"),
]


@pytest.mark.parametrize(("scores", "refusal"), NO_VOTES)
def test_what_is_no_vote_is_refused_in_one_line_and_leaves_the_column_empty(
    tally: Tally, scores: Any, refusal: str
) -> None:
    tally.enter(0, FIRST)
    with pytest.raises(BadVote, match=refusal) as fault:
        tally.enter(1, np.array(scores, np.float32))

    assert len(str(fault.value).splitlines()) == 1
    assert tally.votes == 1
    assert tally.answer()[0].votes.tolist() == [[0, -1, -1], [1, -1, -1]]


# ---------------------------------------------------------------------------------------------------- rows leave on the way

SCORES = [(None, 0.0), (Score.MARGIN, 0.3), (Score.AGREEMENT, 0.9)]


class Followed:
    """Tallies whose rows are known by their numbers, beside a plain account of who had voted on each row when it left."""

    def __init__(self, table: Any, ballot: Ballot, members: Any) -> None:
        self.table, self.ballot, self.members = table, ballot, members
        self.tally = Tally(ballot, len(table), table.shape[2], members)
        self.ids = np.arange(len(table))
        self.voted = np.zeros(table.shape[:2], np.bool_)

    def vote(self, member: int) -> None:
        open_ids = self.ids[self.tally.open]
        self.tally.enter(member, self.table[open_ids, member])
        self.voted[open_ids, member] = True

    def split_and_join(self, where: Ints) -> None:
        """Rows in another order and other company, none lost."""
        self.tally = Tally.join(
            [self.tally.take(where), self.tally.take(np.setdiff1d(np.arange(len(self.ids)), where))]
        )
        self.ids = np.concatenate([self.ids[where], np.setdiff1d(self.ids, self.ids[where], assume_unique=True)])

    def check(self) -> None:
        """Every row has the answer of those who had voted when it left, and is exact where that is the full ensemble's."""
        result, exact = self.tally.answer()
        present = self.voted[self.ids]
        expected = vote(self.table[self.ids], self.ballot, present)
        for found, wanted in zip(result.columns, expected.columns, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
        surely = [
            decided(self.table[[row]], voted, self.ballot)[0] for row, voted in zip(self.ids, present, strict=True)
        ]
        assert exact.tolist() == surely


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(Rule), st.sampled_from(TieBreak), st.sampled_from(SCORES), st.integers(0, 2**32 - 1))
def test_rows_that_left_keep_the_answer_that_they_left_with_whoever_joins_them(
    rule: Rule, tie_break: TieBreak, exits: tuple[Score | None, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    members, rows, classes = int(rng.integers(2, 6)), int(rng.integers(1, 9)), int(rng.integers(2, 5))
    table = rng.dirichlet(np.full(classes, 0.2), (rows, members)).astype(np.float32)
    ballot = Ballot(rule, rng.integers(1, 4, members).astype(float), rng.permutation(members), tie_break)
    order = rng.permutation(members)[: rng.integers(1, members + 1)]
    some = None if len(order) == members else np.isin(np.arange(members), order)
    followed = Followed(table, ballot, some)
    for member in order.tolist():
        if not followed.tally.open_rows:
            break
        followed.vote(member)
        followed.tally.leave(*exits)
        followed.split_and_join(rng.permutation(rows)[: rng.integers(1, rows + 1)])
    followed.check()


def test_a_tie_that_a_member_of_next_to_no_weight_could_break_is_not_decided_before_it_has_voted() -> None:
    light = Ballot(Rule.MAJORITY, np.array([1.0, 1.0, 1e-20]), np.array([2, 0, 1]), TieBreak.PRIORITY)
    table = np.eye(2, dtype=np.float32)[[[0, 1, 1]]]

    assert vote(table, light).label_index.tolist() == [1]
    assert not decided(table, np.array([True, True, False]), light).any()
