"""The voting rules: by hand, by laws, against exact arithmetic and against scikit-learn.

Tables of laws are drawn on a grid of sixteenths, so that equal shares are equal and unequal ones far apart; tables of any
floats are compared only where the first class leads by more than rounding.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from math import prod
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from ensembles.votes import (
    LEAST_PROBABILITY,
    MOST_DUELLISTS,
    TIE,
    Ballot,
    Mask,
    Result,
    Rule,
    TieBreak,
    _places_by_duels,
    _places_by_order,
    vote,
)

RULES = list(Rule)
TIE_BREAKS = list(TieBreak)
GRID = 16
ROUNDING = 1e-6

# ---------------------------------------------------------------------------------------------------------------- by hand

THREE = [[0.5, 0.3, 0.2], [0.5, 0.4, 0.1], [0.0, 0.1, 0.9]]
"""Two members for class 0, one that is sure of class 2."""


def ballot(rule: Rule, weights: Any = (1, 1, 1), tie_break: TieBreak = TieBreak.ABSTAIN, **more: Any) -> Ballot:
    weights = np.array(weights, np.float64)
    return Ballot(rule, weights, more.pop("priority", np.arange(len(weights))), tie_break, **more)


def count(table: Any, counted: Ballot, present: Any = None) -> Result:
    """The answer to one row, given as [M, K]."""
    mask = None if present is None else np.array([present], np.bool_)
    return vote(np.array([table], np.float64), counted, mask)


@pytest.mark.parametrize(
    ("rule", "label", "shares", "agreement"),
    [
        (Rule.MAJORITY, 0, [2 / 3, 0, 1 / 3], 2 / 3),
        (Rule.PROBABILITY_AVERAGE, 2, [1 / 3, 0.8 / 3, 0.4], 1 / 3),
        # the cube roots of .5 * .5 * 1e-12, .3 * .4 * .1 and .2 * .1 * .9 are as 0.000063 : 0.228943 : 0.262074
        (Rule.LOG_AVERAGE, 2, [0.000128, 0.466203, 0.533669], 1 / 3),
        (Rule.MEDIAN, 0, [0.5, 0.3, 0.2], 2 / 3),
        (Rule.BORDA, 0, [4 / 9, 3 / 9, 2 / 9], 2 / 3),
    ],
)
def test_each_rule_by_hand(rule: Rule, label: int, shares: list[float], agreement: float) -> None:
    result = count(THREE, ballot(rule))

    assert result.label_index.tolist() == [label]
    assert result.probabilities[0] == pytest.approx(shares, abs=1e-6)
    assert result.votes.tolist() == [[0, 0, 2]]
    assert result.agreement == pytest.approx([agreement])
    assert result.margin == pytest.approx([sorted(shares)[-1] - sorted(shares)[-2]], abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "label", "shares", "agreement"),
    [
        (Rule.MAJORITY, 2, [2 / 5, 0, 3 / 5], 3 / 5),
        (Rule.PROBABILITY_AVERAGE, 2, [1 / 5, 1 / 5, 3 / 5], 3 / 5),
        # the fifth roots of .5 * .5 * 1e-36, .3 * .4 * .1 ** 3 and .2 * .1 * .9 ** 3 are as 4.79e-8 : 0.164375 : 0.429286
        (Rule.LOG_AVERAGE, 2, [8.1e-8, 0.276882, 0.723118], 3 / 5),
        (Rule.MEDIAN, 2, [0, 0.1, 0.9], 3 / 5),
        (Rule.BORDA, 2, [4 / 15, 5 / 15, 6 / 15], 3 / 5),
    ],
)
def test_each_rule_by_hand_where_the_third_member_counts_three_times(
    rule: Rule, label: int, shares: list[float], agreement: float
) -> None:
    result = count(THREE, ballot(rule, weights=(1, 1, 3)))

    assert result.label_index.tolist() == [label]
    assert result.probabilities[0] == pytest.approx(shares, abs=1e-6)
    assert result.agreement == pytest.approx([agreement])


@pytest.mark.parametrize(
    ("rule", "label", "shares", "agreement"),
    [
        (Rule.MAJORITY, -1, [1 / 2, 0, 1 / 2], 0),
        (Rule.PROBABILITY_AVERAGE, 2, [0.25, 0.2, 0.55], 1 / 2),
        # the square roots of .5 * 1e-12, .3 * .1 and .2 * .9 are as 7.07e-7 : 0.173205 : 0.424264
        (Rule.LOG_AVERAGE, 2, [0.000001, 0.289898, 0.710101], 1 / 2),
        (Rule.MEDIAN, 2, [0.25, 0.2, 0.55], 1 / 2),
        (Rule.BORDA, -1, [2 / 6, 2 / 6, 2 / 6], 0),
    ],
)
def test_each_rule_by_hand_where_the_second_member_is_missing(
    rule: Rule, label: int, shares: list[float], agreement: float
) -> None:
    result = count(THREE, ballot(rule), present=[True, False, True])

    assert result.label_index.tolist() == [label]
    assert result.probabilities[0] == pytest.approx(shares, abs=1e-6)
    assert result.votes.tolist() == [[0, -1, 2]]
    assert result.agreement == pytest.approx([agreement])


@pytest.mark.parametrize("classes", [2, 3, 10, MOST_DUELLISTS, MOST_DUELLISTS + 1])
def test_places_are_the_same_by_duels_and_by_order(classes: int) -> None:
    scores = np.random.default_rng(classes).integers(0, 5, (40, 3, classes)).astype(np.float32)

    assert np.array_equal(_places_by_duels(scores), _places_by_order(scores))


def test_classes_that_a_member_likes_alike_share_the_points_of_their_places() -> None:
    result = count([[0.4, 0.4, 0.1, 0.1]], ballot(Rule.BORDA, weights=[1]))

    assert result.probabilities[0] == pytest.approx([2.5 / 6, 2.5 / 6, 0.5 / 6, 0.5 / 6])


def test_medians_that_are_all_zero_give_even_shares() -> None:
    result = count(np.eye(3), ballot(Rule.MEDIAN))

    assert result.probabilities[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert result.label_index.tolist() == [-1]


def test_one_member_cannot_veto_a_class_for_all() -> None:
    sure = [[0.999, 0.001]] * 5
    result = count([*sure, [0.0, 1.0]], ballot(Rule.LOG_AVERAGE, weights=[1] * 6))

    assert result.label_index.tolist() == [0]


TIED = [[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.55, 0.35, 0.1], [0.1, 0.65, 0.25]]
"""Two votes for class 0, two for class 1, one for class 2; the mean probabilities are 0.29, 0.4 and 0.31."""


@pytest.mark.parametrize(
    ("tie_break", "priority", "label", "agreement"),
    [
        (TieBreak.PROBABILITY, [0, 1, 2, 3, 4], 1, 2 / 5),
        (TieBreak.PRIORITY, [0, 1, 2, 3, 4], 0, 2 / 5),
        (TieBreak.PRIORITY, [1, 0, 2, 3, 4], 1, 2 / 5),
        (
            TieBreak.PRIORITY,
            [2, 4, 0, 1, 3],
            1,
            2 / 5,
        ),  # the most trusted voted for none of the tied, so the next is asked
        (TieBreak.FIRST_CLASS, [4, 3, 2, 1, 0], 0, 2 / 5),
        (TieBreak.ABSTAIN, [0, 1, 2, 3, 4], -1, 0),
    ],
)
def test_each_tie_rule_by_hand(tie_break: TieBreak, priority: list[int], label: int, agreement: float) -> None:
    counted = ballot(Rule.MAJORITY, [1] * 5, tie_break, priority=np.array(priority))
    result = count(TIED, counted)

    assert result.label_index.tolist() == [label]
    assert result.agreement == pytest.approx([agreement])
    assert result.probabilities[0] == pytest.approx([2 / 5, 2 / 5, 1 / 5]), "a tie rule does not touch the shares"
    assert result.margin == pytest.approx([0])


@pytest.mark.parametrize("tie_break", TIE_BREAKS)
def test_where_a_class_leads_no_tie_rule_is_asked(tie_break: TieBreak) -> None:
    assert count(THREE, ballot(Rule.MAJORITY, tie_break=tie_break, priority=np.array([2, 1, 0]))).label_index == [0]


@pytest.mark.parametrize("tie_break", [TieBreak.PROBABILITY, TieBreak.PRIORITY, TieBreak.FIRST_CLASS])
def test_a_tie_that_its_rule_cannot_resolve_goes_to_the_first_class(tie_break: TieBreak) -> None:
    """The means of classes 1 and 2 are equal; the two members voted for 0 and for 3."""
    table = [[0.4, 0.3, 0.3, 0.0], [0.0, 0.3, 0.3, 0.4]]
    assert count(table, ballot(Rule.PROBABILITY_AVERAGE, [1, 1], tie_break)).label_index == [1]


def test_the_mean_that_breaks_a_tie_is_weighted_and_of_those_who_voted() -> None:
    table = [[0.6, 0.4], [0.3, 0.7], [0.0, 1.0]]
    mean = TieBreak.PROBABILITY

    assert count(table, ballot(Rule.MAJORITY, [2, 2, 9], mean), present=[True, True, False]).label_index == [1]
    assert count(table[::-1], ballot(Rule.MAJORITY, [9, 2, 2], mean), present=[False, True, True]).label_index == [1]
    assert count([[0.9, 0.1], [0.3, 0.7]], ballot(Rule.MAJORITY, [2, 2], mean)).label_index == [0]


def test_rounding_picks_no_winner() -> None:
    """0.1 + 0.2 is not 0.3 in floating point."""
    against = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    for rule in (Rule.MAJORITY, Rule.PROBABILITY_AVERAGE, Rule.BORDA):
        result = count(against, ballot(rule, [0.1, 0.2, 0.3]))
        assert result.label_index.tolist() == [-1], rule

    assert count([[0.5 + 2 * TIE, 0.5 - 2 * TIE]], ballot(Rule.PROBABILITY_AVERAGE, [1])).label_index == [0]


def test_the_logarithms_of_single_precision_pick_no_winner() -> None:
    """10 x 4 = 5 x 8: the geometric means of the first two classes are equal, in the precision that members answer in."""
    table = np.array([[[10, 5, 1], [4, 8, 4]]], np.float32) / GRID
    result = vote(table, ballot(Rule.LOG_AVERAGE, [1, 1], TieBreak.ABSTAIN))

    assert result.label_index.tolist() == [-1]


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [(1.0, [0.6, 0.3, 0.1]), (0.5, [36 / 46, 9 / 46, 1 / 46]), (2.0, [0.473, 0.334, 0.193])],
)
def test_temperature_sharpens_below_one_and_flattens_above(temperature: float, shares: list[float]) -> None:
    result = count([[0.6, 0.3, 0.1]], ballot(Rule.PROBABILITY_AVERAGE, [1], temperature=temperature))

    assert result.probabilities[0] == pytest.approx(shares, abs=1e-3)
    assert result.margin == pytest.approx([shares[0] - shares[1]], abs=1e-3)


def test_an_abstention_has_no_agreement_but_its_shares() -> None:
    result = count([[0.9, 0.1], [0.1, 0.9]], ballot(Rule.PROBABILITY_AVERAGE, [1, 1], TieBreak.ABSTAIN))

    assert (result.label_index.tolist(), result.agreement.tolist()) == ([-1], [0])
    assert result.probabilities[0] == pytest.approx([0.5, 0.5])


def test_no_rows_have_no_answers() -> None:
    for rule, tie_break in product(RULES, TIE_BREAKS):
        result = vote(np.zeros((0, 3, 4), np.float32), ballot(rule, tie_break=tie_break))
        assert (result.label_index.shape, result.probabilities.shape, result.votes.shape) == ((0,), (0, 4), (0, 3))


@pytest.mark.parametrize("rule", RULES)
def test_a_row_without_any_vote_is_refused(rule: Rule) -> None:
    present = np.array([[True, True, True], [False, False, False]])

    with pytest.raises(ValueError, match="a row without any vote has no answer"):
        vote(np.array([THREE, THREE]), ballot(rule), present)


def test_types_and_shapes_are_those_of_the_wire() -> None:
    result = vote(np.array([THREE] * 4, np.float32), ballot(Rule.MEDIAN))
    found = {name: (getattr(result, name).dtype.name, getattr(result, name).shape) for name in Result.__slots__}

    assert found == {
        "label_index": ("int64", (4,)),
        "probabilities": ("float32", (4, 3)),
        "votes": ("int64", (4, 3)),
        "agrees": ("bool", (4, 3)),
        "agreement": ("float32", (4,)),
        "margin": ("float32", (4,)),
    }


# ---------------------------------------------------------------------------------------------------------------- by laws


@dataclass(frozen=True)
class Election:
    """A table with its ballot and mask."""

    scores: NDArray[Any]
    ballot: Ballot
    present: Mask | None

    def result(self) -> Result:
        return vote(self.scores, self.ballot, self.present)

    def of_members(self, order: NDArray[np.int64]) -> "Election":
        """The same with members in another order; weights, priority and mask move along."""
        place = np.argsort(order)
        moved = replace(self.ballot, weights=self.ballot.weights[order], priority=place[self.ballot.priority])
        return Election(self.scores[:, order], moved, None if self.present is None else self.present[:, order])

    def of_rows(self, order: NDArray[np.int64]) -> "Election":
        return Election(self.scores[order], self.ballot, None if self.present is None else self.present[order])

    def weighing(self, weights: NDArray[np.float64]) -> "Election":
        return replace(self, ballot=replace(self.ballot, weights=weights))


def sixteenths(draw: st.DrawFn, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Rows of probabilities in sixteenths: the gaps between random cuts."""
    rows, members, classes = shape
    cuts = np.sort(draw(arrays(np.int64, (rows, members, classes - 1), elements=st.integers(0, GRID))), axis=2)
    return np.diff(cuts, axis=2, prepend=0, append=GRID) / GRID


def floats(draw: st.DrawFn, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    raw = draw(arrays(np.float64, shape, elements=st.floats(1e-6, 1)))
    return raw / raw.sum(axis=2, keepdims=True)


def distinct(draw: st.DrawFn, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Rows in which no member likes two classes alike: 0, 1, 2 … in some order, normalised."""
    rows, members, classes = shape
    keys = draw(arrays(np.float64, shape, elements=st.floats(0, 1)))
    places = keys.argsort(axis=2, kind="stable").argsort(axis=2)
    return places / places.sum(axis=2, keepdims=True)


@st.composite
def elections(
    draw: st.DrawFn, scores: Any = sixteenths, tie_breaks: Any = tuple(TIE_BREAKS), masked: Any = st.booleans()
) -> Election:
    rows, members, classes = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(2, 5))
    table = scores(draw, (rows, members, classes))
    weights = np.array(draw(st.lists(st.integers(1, 4), min_size=members, max_size=members)), np.float64)
    priority = np.array(draw(st.permutations(range(members))))
    counted = Ballot(
        draw(st.sampled_from(RULES)),
        weights,
        priority,
        draw(st.sampled_from(tie_breaks)),
        draw(st.sampled_from([1.0, 0.5, 3.0])),
    )
    present = None
    if draw(masked):
        present = draw(arrays(np.bool_, (rows, members)))
        present[np.arange(rows), draw(arrays(np.int64, rows, elements=st.integers(0, members - 1)))] = True
    return Election(table, counted, present)


def assert_same(found: Result, expected: Result, *, votes: bool = True) -> None:
    assert found.label_index.tolist() == expected.label_index.tolist()
    if votes:
        assert found.votes.tolist() == expected.votes.tolist()
    for name in ("probabilities", "agreement", "margin"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=ROUNDING), name


@settings(deadline=None, max_examples=200)
@given(elections(), st.data())
def test_the_order_of_members_changes_nothing(election: Election, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(election.scores.shape[1]))))
    found, before = election.of_members(order).result(), election.result()

    assert_same(found, replace(before, votes=before.votes[:, order], agrees=before.agrees[:, order]))


@settings(deadline=None, max_examples=100)
@given(elections(), st.data())
def test_each_row_is_answered_by_itself(election: Election, data: st.DataObject) -> None:
    order = np.array(data.draw(st.lists(st.integers(0, len(election.scores) - 1), min_size=1, max_size=6)))
    found, before = election.of_rows(order).result(), election.result()

    assert_same(
        found,
        Result(
            before.label_index[order],
            before.probabilities[order],
            before.votes[order],
            before.agrees[order],
            before.agreement[order],
            before.margin[order],
        ),
    )


@settings(deadline=None, max_examples=200)
@given(elections(distinct, tie_breaks=(TieBreak.ABSTAIN, TieBreak.PROBABILITY, TieBreak.PRIORITY)), st.data())
def test_the_order_of_classes_changes_nothing_that_first_class_did_not_decide(
    election: Election, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(election.scores.shape[2]))))
    found, before = replace(election, scores=election.scores[:, :, order]).result(), election.result()
    place = np.argsort(order)

    by_rule = np.array([len(exactly_left(row, election)) <= 1 for row in range(len(before.votes))])
    renamed = np.where(before.label_index < 0, -1, place[before.label_index])
    assert found.label_index[by_rule].tolist() == renamed[by_rule].tolist()
    assert found.agreement[by_rule] == pytest.approx(before.agreement[by_rule])
    assert found.probabilities == pytest.approx(before.probabilities[:, order], abs=ROUNDING)
    assert found.votes.tolist() == np.where(before.votes < 0, -1, place[before.votes]).tolist()


@settings(deadline=None, max_examples=100)
@given(elections(), st.sampled_from([0.125, 0.3, 7.0]))
def test_equal_weights_are_weights_of_one(election: Election, weight: float) -> None:
    ones = np.ones_like(election.ballot.weights)

    assert_same(election.weighing(ones * weight).result(), election.weighing(ones).result())


@settings(deadline=None, max_examples=100)
@given(elections(), st.sampled_from([1e-3, 0.3, 64.0, 1e5]))
def test_scaling_all_weights_changes_nothing(election: Election, factor: float) -> None:
    assert_same(election.weighing(election.ballot.weights * factor).result(), election.result())


@settings(deadline=None, max_examples=300)
@given(elections(), st.data())
def test_a_weight_of_two_is_the_member_twice(election: Election, data: st.DataObject) -> None:
    member = data.draw(st.integers(0, election.scores.shape[1] - 1))
    doubled = election.ballot.weights.copy()
    doubled[member] *= 2

    order = np.append(np.arange(election.scores.shape[1]), member)
    at = election.ballot.priority.tolist().index(member)
    priority = np.insert(election.ballot.priority, at + 1, len(order) - 1)
    twice = Election(
        election.scores[:, order],
        replace(election.ballot, weights=election.ballot.weights[order], priority=priority),
        None if election.present is None else election.present[:, order],
    )

    assert_same(twice.result(), election.weighing(doubled).result(), votes=False)


@settings(deadline=None, max_examples=100)
@given(elections(distinct), st.integers(1, 5))
def test_copies_of_one_member_give_its_label(election: Election, copies: int) -> None:
    one = election.scores[:, :1]
    counted = replace(election.ballot, weights=np.arange(1.0, copies + 1), priority=np.arange(copies))
    result = vote(np.repeat(one, copies, axis=1), counted)

    assert result.label_index.tolist() == one[:, 0].argmax(axis=1).tolist()
    assert result.agreement == pytest.approx(1)


@settings(deadline=None, max_examples=200)
@given(elections(masked=st.just(True)), st.sampled_from([np.nan, np.inf, -np.inf, -7.0, 1e30]))
def test_a_missing_member_is_no_member_whatever_stands_in_its_column(election: Election, garbage: float) -> None:
    assert election.present is not None
    filled = np.where(election.present[:, :, None], election.scores, garbage)
    found = replace(election, scores=filled).result()

    assert_same(found, election.result())
    for row, here in enumerate(election.present):
        priority = election.ballot.priority[here[election.ballot.priority]]
        place = np.cumsum(here) - 1
        smaller = replace(election.ballot, weights=election.ballot.weights[here], priority=place[priority])
        alone = vote(election.scores[row : row + 1, here], smaller)
        assert alone.label_index == found.label_index[row]
        assert alone.votes[0].tolist() == found.votes[row, here].tolist()
        assert found.votes[row, ~here].tolist() == [-1] * (~here).sum()
        assert alone.agreement[0] == pytest.approx(found.agreement[row])
        assert alone.probabilities[0] == pytest.approx(found.probabilities[row], abs=ROUNDING)


@settings(deadline=None, max_examples=100)
@given(st.one_of(elections(), elections(floats)))
def test_shares_are_a_distribution_and_the_label_has_the_largest(election: Election) -> None:
    result = election.result()
    best = result.probabilities.max(axis=1)
    chosen = result.probabilities[np.arange(len(best)), result.label_index]

    assert result.probabilities.sum(axis=1) == pytest.approx(1, abs=ROUNDING)
    assert (result.probabilities >= 0).all()
    assert ((chosen >= best - ROUNDING) | (result.label_index < 0)).all()
    assert (result.margin >= 0).all() and (result.margin <= 1 + ROUNDING).all()


@settings(deadline=None, max_examples=100)
@given(elections(), st.floats(0.01, 100))
def test_temperature_never_changes_the_label(election: Election, temperature: float) -> None:
    found = replace(election, ballot=replace(election.ballot, temperature=temperature)).result()
    before = replace(election, ballot=replace(election.ballot, temperature=1.0)).result()

    assert found.label_index.tolist() == before.label_index.tolist()
    assert found.agreement.tolist() == before.agreement.tolist()
    assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=ROUNDING)


@settings(deadline=None, max_examples=100)
@given(elections())
def test_agreement_is_the_share_of_the_weight_that_voted(election: Election) -> None:
    result = election.result()
    for row, label in enumerate(result.label_index):
        voted = result.votes[row] >= 0
        behind = election.ballot.weights[(result.votes[row] == label) & voted].sum()
        assert result.agreement[row] == pytest.approx(behind / election.ballot.weights[voted].sum())


@settings(deadline=None, max_examples=100)
@given(elections(floats), st.data())
def test_laws_hold_off_the_grid_where_a_class_leads_by_more_than_rounding(
    election: Election, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(election.scores.shape[1]))))
    before = replace(election, ballot=replace(election.ballot, temperature=1.0)).result()
    leads = before.margin > ROUNDING

    for other in (election.of_members(order), election.weighing(election.ballot.weights * 0.3)):
        assert other.result().label_index[leads].tolist() == before.label_index[leads].tolist()


# ---------------------------------------------------------------------------------------------------- in exact arithmetic


def exact_shares(rule: Rule, table: list[list[Fraction]], weights: list[int]) -> list[Fraction]:
    """What is compared, class by class, not normalised; of `log_average` the product, whose root is the geometric mean."""
    pairs = list(zip(table, weights, strict=True))
    least = Fraction(LEAST_PROBABILITY)

    def share(k: int) -> Fraction:
        match rule:
            case Rule.MAJORITY:
                return Fraction(sum(w for row, w in pairs if row.index(max(row)) == k))
            case Rule.PROBABILITY_AVERAGE:
                return sum((w * row[k] for row, w in pairs), Fraction(0))
            case Rule.LOG_AVERAGE:
                return prod((max(row[k], least) ** w for row, w in pairs), start=Fraction(1))
            case Rule.MEDIAN:
                return median([row[k] for row, w in pairs for _ in range(w)])
            case Rule.BORDA:
                return sum((w * points(row, k) for row, w in pairs), Fraction(0))

    return [share(k) for k in range(len(table[0]))]


def points(row: list[Fraction], k: int) -> Fraction:
    """A point for each class that is liked less, half a one for each that is liked as much."""
    return Fraction(sum(other < row[k] for other in row) * 2 + row.count(row[k]) - 1, 2)


def exactly_left(row: int, election: Election) -> list[int]:
    """The classes that the tie rule leaves: one where it decides, none for an abstention, the first one of several wins."""
    here = [True] * election.scores.shape[1] if election.present is None else election.present[row].tolist()
    members = [m for m in range(len(here)) if here[m]]
    table = [[Fraction(p).limit_denominator(1000) for p in election.scores[row, m].tolist()] for m in members]
    weights = [int(election.ballot.weights[m]) for m in members]
    shares = exact_shares(election.ballot.rule, table, weights)
    tied = [k for k, share in enumerate(shares) if share == max(shares)]
    if len(tied) == 1:
        return tied
    match election.ballot.tie_break:
        case TieBreak.ABSTAIN:
            return []
        case TieBreak.FIRST_CLASS:
            return tied
        case TieBreak.PROBABILITY:
            means = exact_shares(Rule.PROBABILITY_AVERAGE, table, weights)
            return [k for k in tied if means[k] == max(means[j] for j in tied)]
        case TieBreak.PRIORITY:
            asked = [m for m in election.ballot.priority.tolist() if m in members]
            choices = [table[members.index(m)].index(max(table[members.index(m)])) for m in asked]
            return next(([choice] for choice in choices if choice in tied), tied)


def exact_labels(election: Election) -> list[int]:
    left = [exactly_left(row, election) for row in range(len(election.scores))]
    return [classes[0] if classes else -1 for classes in left]


@settings(deadline=None, max_examples=300)
@given(st.one_of(elections(), elections(distinct)))
def test_every_rule_and_tie_rule_is_that_of_exact_arithmetic(election: Election) -> None:
    assert election.result().label_index.tolist() == exact_labels(election)


@settings(deadline=None, max_examples=100)
@given(elections().filter(lambda election: election.ballot.rule is not Rule.LOG_AVERAGE))
def test_so_it_is_in_single_precision(election: Election) -> None:
    """Sixteenths are exact in it; their logarithms are not, see above."""
    single = replace(election, scores=election.scores.astype(np.float32))

    assert single.result().label_index.tolist() == exact_labels(election)


@pytest.mark.parametrize("rule", RULES)
def test_every_table_of_two_members_and_two_classes(rule: Rule) -> None:
    """All of them, on a grid of eighths."""
    grid = np.arange(9) / 8
    table = np.array([[[a, 1 - a], [b, 1 - b]] for a, b in product(grid, grid)])
    for tie_break, weights in product(TIE_BREAKS, ([1, 1], [1, 3])):
        election = Election(table, ballot(rule, weights, tie_break), None)
        assert election.result().label_index.tolist() == exact_labels(election)


# ------------------------------------------------------------------------------------------------- against scikit-learn


@pytest.fixture(scope="module")
def wine() -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any]]:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return x[order[:60]], y[order[:60]], x[order[60:]], y[order[60:]]


def estimators() -> list[tuple[str, Any]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    return [
        ("bayes", GaussianNB()),
        ("neighbours", KNeighborsClassifier(3)),
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression())),
        ("tree", DecisionTreeClassifier(max_depth=2, max_features=2, random_state=1)),
    ]


@pytest.mark.parametrize("weights", [None, [1, 1, 1, 1], [3, 1, 1, 2], [0.3, 0.15, 0.22, 0.1]])
@pytest.mark.parametrize(("voting", "rule"), [("hard", Rule.MAJORITY), ("soft", Rule.PROBABILITY_AVERAGE)])
def test_the_vote_is_that_of_scikit_learn(wine: Any, voting: str, rule: Rule, weights: Any) -> None:
    from sklearn.ensemble import VotingClassifier

    x, y, rows, _ = wine
    classifier = VotingClassifier(estimators(), voting=voting, weights=weights).fit(x, y)
    table = np.stack([member.predict_proba(rows) for member in classifier.estimators_], axis=1)
    result = vote(table, ballot(rule, weights or [1] * 4, TieBreak.FIRST_CLASS))

    assert result.label_index.tolist() == classifier.predict(rows).tolist()
    assert len({tuple(votes) for votes in result.votes.tolist()}) > 5, "the members do not all say the same"
    if voting == "soft":
        assert result.probabilities == pytest.approx(classifier.predict_proba(rows), abs=ROUNDING)
