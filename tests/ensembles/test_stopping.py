"""When the rest of the vote may be left out: the exact exit against all that could still come, orders against all others."""

from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from ensembles.stopping import (
    ADDITIVE,
    ROUNDED_TOLERANCE,
    Score,
    allowed_differences,
    certified_threshold,
    cheapest_exact_order,
    clopper_pearson_upper,
    decided,
    leaving,
    members_of,
    points,
    rows_to_certify,
    stages_of,
    undecided_by_subset,
)
from ensembles.tally import Tally
from ensembles.votes import SUM_TOLERANCE, Ballot, Floats, Mask, Rule, TieBreak, vote

RULES = list(Rule)
TIE_BREAKS = list(TieBreak)


def ballot(rule: Rule, weights: Any, tie_break: TieBreak = TieBreak.PROBABILITY, priority: Any = None) -> Ballot:
    weights = np.array(weights, np.float64)
    return Ballot(rule, weights, np.arange(len(weights)) if priority is None else np.array(priority), tie_break)


def one_hot(choices: Any, classes: int) -> NDArray[np.float32]:
    """A table [n, M, K] of members that are sure."""
    return np.eye(classes, dtype=np.float32)[np.array(choices)]


def mask(*voted: int) -> Mask:
    return np.array(voted, np.bool_)


# ---------------------------------------------------------------------------------------------------------------- by hand


def test_two_of_three_equal_votes_decide() -> None:
    table = one_hot([[0, 0, 1], [0, 1, 1]], 3)

    assert decided(table, mask(1, 1, 0), ballot(Rule.MAJORITY, [1, 1, 1])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("tie_break", "expected"),
    [
        (TieBreak.FIRST_CLASS, [True, False]),
        (TieBreak.PROBABILITY, [False, False]),
        (TieBreak.PRIORITY, [False, False]),
        (TieBreak.ABSTAIN, [False, False]),
    ],
)
def test_half_of_the_weight_decides_only_for_the_class_that_wins_ties(
    tie_break: TieBreak, expected: list[bool]
) -> None:
    table = one_hot([[0, 0, 1, 1], [1, 1, 0, 0]], 2)

    assert decided(table, mask(1, 1, 0, 0), ballot(Rule.MAJORITY, [1] * 4, tie_break)).tolist() == expected


def test_a_heavy_member_decides_alone() -> None:
    table = one_hot([[1, 0, 0]], 2)

    assert decided(table, mask(1, 0, 0), ballot(Rule.MAJORITY, [3, 1, 1])).all()
    assert not decided(table, mask(0, 1, 1), ballot(Rule.MAJORITY, [3, 1, 1])).any()


def test_an_average_is_decided_by_a_lead_that_one_member_cannot_turn() -> None:
    table = np.array([[[0.9, 0.1], [0.8, 0.2], [0, 0]], [[0.9, 0.1], [0.6, 0.4], [0, 0]]], np.float32)

    assert decided(table, mask(1, 1, 0), ballot(Rule.PROBABILITY_AVERAGE, [1, 1, 1])).tolist() == [True, False]


def test_ranks_are_decided_by_a_lead_of_more_than_the_places_between_first_and_last() -> None:
    """Two members, three classes: 4 points to 2 and 0; the third can give a rival 2 and the leader none."""
    table = np.array([[[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0, 0, 0]], [[0.6, 0.1, 0.3], [0.6, 0.3, 0.1], [0, 0, 0]]])

    assert decided(table, mask(1, 1, 0), ballot(Rule.BORDA, [1, 1, 1])).tolist() == [False, True]


@pytest.mark.parametrize("rule", [Rule.LOG_AVERAGE, Rule.MEDIAN])
def test_rules_without_sums_are_decided_once_all_have_voted(rule: Rule) -> None:
    table = one_hot([[0, 0, 0]], 2)

    assert not decided(table, mask(1, 1, 0), ballot(rule, [1, 1, 1])).any()
    assert decided(table, mask(1, 1, 1), ballot(rule, [1, 1, 1])).all()
    with pytest.raises(ValueError, match="expected one of majority, probability_average, borda"):
        points(table, ballot(rule, [1, 1, 1]))


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_decided_before_the_first_vote(rule: Rule) -> None:
    assert not decided(one_hot([[0]], 2), mask(0), ballot(rule, [1])).any()
    assert decided(one_hot([[0]], 2), mask(1), ballot(rule, [1])).all()


def test_no_rows_are_all_decided() -> None:
    assert decided(np.zeros((0, 3, 2), np.float32), mask(1, 0, 1), ballot(Rule.MAJORITY, [1, 1, 1])).shape == (0,)


@pytest.mark.parametrize("rule", ADDITIVE)
def test_points_sum_to_the_shares_of_the_vote(rule: Rule) -> None:
    table = np.random.default_rng(3).dirichlet(np.ones(4), (50, 5))
    counted = ballot(rule, [1, 2, 3, 1, 2])

    assert points(table, counted).sum(axis=1) == pytest.approx(vote(table, counted).probabilities, abs=1e-6)


def test_what_members_may_be_off_by_is_counted_in() -> None:
    """The tally takes 1.011 for one class and -0.001 for the others; a lead of 1.005 is then none."""
    most = np.full(10, -SUM_TOLERANCE, np.float32)
    most[1] = 1 + 10 * SUM_TOLERANCE - 1e-5
    first = np.zeros(10, np.float32)
    first[0], first[1] = 1 + SUM_TOLERANCE - 1e-5, 0
    counted = ballot(Rule.PROBABILITY_AVERAGE, [1, 1])
    tally = Tally(counted, 1, 10)
    tally.enter(0, first[None])
    tally.enter(1, most[None])

    assert tally.answer()[0].label_index.tolist() == [1]
    assert not decided(np.stack([first, most])[None], mask(1, 0), counted).any()


# ------------------------------------------------------------------------------------------------- against all that can come


def completions(choices: list[int], outstanding: int, classes: int) -> NDArray[np.int64]:
    return np.array([[*choices, *rest] for rest in product(range(classes), repeat=outstanding)])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=5), st.integers(2, 3), st.sampled_from(TIE_BREAKS), st.data())
def test_a_hard_vote_is_decided_exactly_where_no_completion_changes_it(
    weights: list[int], classes: int, tie_break: TieBreak, data: st.DataObject
) -> None:
    """Where only ties stand in the way, no tie rule but `first_class` is relied on."""
    heard = data.draw(st.integers(1, len(weights) - 1))
    cast = data.draw(st.lists(st.integers(0, classes - 1), min_size=heard, max_size=heard))
    counted = ballot(Rule.MAJORITY, weights, tie_break)
    tables = one_hot(completions(cast, len(weights) - heard, classes), classes)
    found = decided(tables, np.arange(len(weights)) < heard, counted)

    assert found.all() or not found.any(), "what has not been voted yet was looked at"
    asked = counted if tie_break is TieBreak.FIRST_CLASS else replace(counted, tie_break=TieBreak.ABSTAIN)
    labels = vote(tables, asked).label_index
    assert found[0] == (len(np.unique(labels)) == 1 and labels[0] >= 0)


def tables(rng: np.random.Generator, rows: int, members: int, classes: int) -> NDArray[np.float32]:
    """Probabilities in quarters, or none too exact, or any: ties are frequent."""
    kind = rng.integers(3)
    if kind == 0:
        cuts = np.sort(rng.integers(0, 5, (rows, members, classes - 1)), axis=2)
        return (np.diff(cuts, axis=2, prepend=0, append=4) / 4).astype(np.float32)
    sharp = rng.dirichlet(np.full(classes, 0.3), (rows, members))
    off = rng.uniform(-SUM_TOLERANCE, SUM_TOLERANCE, (rows, members, 1)) * (kind - 1)
    return (sharp + off / classes).astype(np.float32)


def turned(scores: NDArray[np.float32], voted: Mask, counted: Ballot, rng: np.random.Generator) -> NDArray[np.float32]:
    """The same where those who have not voted are as hostile to the leader as the tally lets them be."""
    rows, _, classes = scores.shape
    rival = points(scores, counted)[:, voted].sum(axis=1).argsort(axis=1)[:, -2]
    rival = np.where(rng.random(rows) < 0.5, rival, rng.integers(0, classes, rows))
    least = rng.choice([0.0, -SUM_TOLERANCE])
    hostile = np.full((rows, classes), least, np.float32)
    hostile[np.arange(rows), rival] = 1 - (classes - 1) * least
    return np.where(voted[None, :, None], scores, hostile[:, None, :])


def test_a_million_decided_tables_have_the_label_of_the_full_vote() -> None:
    rng = np.random.default_rng(20)
    chunk, seen, were_decided = 10_000, 0, 0
    for rule, tie_break in a_hundred_kinds():
        members, classes = int(rng.integers(2, 7)), int(rng.integers(2, 6))
        voted = np.arange(members) < rng.integers(1, members)
        voted = voted[rng.permutation(members)]
        weights = rng.choice([np.ones(members), rng.integers(1, 4, members), rng.uniform(0.1, 2, members)])
        counted = ballot(rule, weights, tie_break, rng.permutation(members))
        scores = tables(rng, chunk, members, classes)
        if rng.random() < 0.5:
            scores = turned(scores, voted, counted, rng)
        sure = decided(scores, voted, counted)
        full = vote(scores, counted).label_index
        early = vote(scores[sure], counted, np.broadcast_to(voted, (int(sure.sum()), members))) if sure.any() else None

        assert early is None or (early.label_index == full[sure]).all(), (rule, tie_break, weights)
        seen += chunk
        were_decided += int(sure.sum())
    assert seen >= 1_000_000
    assert were_decided >= 100_000


def a_hundred_kinds() -> list[tuple[Rule, TieBreak]]:
    """A hundred chunks of ten thousand: hard and soft votes mostly, each with every tie rule."""
    kinds = list(product([Rule.MAJORITY, Rule.PROBABILITY_AVERAGE, Rule.MAJORITY, Rule.BORDA], TIE_BREAKS))
    return [kinds[i % len(kinds)] for i in range(100)]


# ------------------------------------------------------------------------------------------------------------------ orders


def pool(rng: np.random.Generator, rows: int, members: int, classes: int) -> NDArray[np.float32]:
    """Members of different skill that share what is hard."""
    y = rng.integers(0, classes, rows)
    hardness = rng.normal(size=(rows, 1, 1))
    skill = rng.uniform(0.5, 3, (1, members, 1))
    logits = rng.normal(size=(rows, members, classes)) + (skill - hardness) * np.eye(classes)[y][:, None, :]
    weights = np.exp(logits)
    return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)


def cost_of(order: tuple[int, ...], scores: NDArray[np.float32], counted: Ballot, costs: Floats) -> float:
    """What an order costs a row, run step by step."""
    voted = np.zeros(len(costs), np.bool_)
    total = 0.0
    for member in order:
        total += costs[member] * np.mean(~decided(scores, voted, counted))
        voted[member] = True
    return total


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rule", ADDITIVE)
def test_no_order_of_all_is_cheaper(rule: Rule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = pool(rng, 60, 5, 3)
    costs = rng.uniform(0.1, 5, 5)
    counted = ballot(rule, rng.integers(1, 3, 5), TIE_BREAKS[seed % 4])
    order, cost = cheapest_exact_order(undecided_by_subset(scores, counted), costs)
    all_costs = [cost_of(other, scores, counted, costs) for other in permutations(range(5))]

    assert cost == pytest.approx(cost_of(order, scores, counted, costs), abs=1e-12)
    assert cost == pytest.approx(min(all_costs), abs=1e-12)


def test_for_three_equal_members_the_expected_runs_are_two_and_the_disagreement() -> None:
    scores = one_hot([[0, 0, 0]] * 8 + [[0, 0, 1], [0, 1, 1]], 2)
    undecided = undecided_by_subset(scores, ballot(Rule.MAJORITY, [1, 1, 1]))
    order, runs = cheapest_exact_order(undecided, np.ones(3))

    assert runs == pytest.approx(2.1)
    assert set(order[:2]) in ({0, 1}, {1, 2})


@pytest.mark.parametrize("rule", RULES)
def test_the_share_of_undecided_rows_is_that_of_decided(rule: Rule) -> None:
    scores = pool(np.random.default_rng(1), 40, 4, 3)
    counted = ballot(rule, [1, 2, 1, 1], TieBreak.FIRST_CLASS)
    undecided = undecided_by_subset(scores, counted)

    for subset, share in enumerate(undecided):
        voted = np.isin(np.arange(4), members_of(subset))
        assert share == np.mean(~decided(scores, voted, counted)), subset


def test_one_member_has_one_order() -> None:
    undecided = undecided_by_subset(one_hot([[0], [1]], 2), ballot(Rule.MAJORITY, [1]))

    assert cheapest_exact_order(undecided, np.array([3.0])) == ((0,), 3.0)


def test_members_that_cost_nothing_have_an_order_too() -> None:
    scores = pool(np.random.default_rng(2), 30, 4, 3)
    undecided = undecided_by_subset(scores, ballot(Rule.MAJORITY, [1] * 4))
    order, cost = cheapest_exact_order(undecided, np.zeros(4))

    assert sorted(order) == [0, 1, 2, 3]
    assert cost == 0


def test_members_between_which_nothing_is_decided_run_together() -> None:
    scores = one_hot([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 0, 1, 0]], 2)
    undecided = undecided_by_subset(scores, ballot(Rule.MAJORITY, [1] * 5))

    assert stages_of(range(5), undecided) == ((0, 1, 2), (3, 4))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="found 17 members, expected 1 to 16"):
        undecided_by_subset(np.zeros((1, 17, 2), np.float32), ballot(Rule.MAJORITY, [1] * 17))
    with pytest.raises(ValueError, match="found 4 subsets, expected 8 of 3 members"):
        cheapest_exact_order(np.ones(4), np.ones(3))


# ------------------------------------------------------------------------------------------------------------ certificates


def test_the_upper_limit_is_that_of_clopper_and_pearson() -> None:
    assert clopper_pearson_upper(0, 100, 0.95) == pytest.approx(0.0295, abs=5e-5)
    assert clopper_pearson_upper(7, 7, 0.95) == 1
    for k, n in [(1, 20), (3, 50), (40, 90)]:
        assert binom.cdf(k, n, clopper_pearson_upper(k, n, 0.95)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("disagreement", "confidence", "rows"),
    [
        (0.001, 0.95, 2995),
        (0.005, 0.95, 598),
        (0.01, 0.95, 299),
        (0.02, 0.95, 149),
        (0.03, 0.95, 99),
        (0.005, 0.99, 919),
    ],
)
def test_the_rows_that_a_certificate_needs(disagreement: float, confidence: float, rows: int) -> None:
    assert rows_to_certify(disagreement, confidence) == rows
    assert allowed_differences(rows, disagreement, confidence) == 0
    assert allowed_differences(rows - 1, disagreement, confidence) == -1


def test_the_differences_allowed_are_the_most_that_keep_the_limit() -> None:
    for n in (299, 500, 1000, 10_000):
        k = allowed_differences(n, 0.01, 0.95)
        assert clopper_pearson_upper(k, n, 0.95) <= 0.01 < clopper_pearson_upper(k + 1, n, 0.95)


def test_the_threshold_is_the_loosest_that_leaves_out_one_difference_too_many() -> None:
    score = np.linspace(0, 1, 1000)
    differs = np.zeros(1000, np.bool_)
    differs[[100, 300, 500, 700, 900]] = True
    allowed = allowed_differences(1000, 0.01, 0.95)

    assert allowed == 4
    assert certified_threshold(score, differs, 0.01, 0.95) == score[101]


def test_rows_with_the_same_score_leave_together_or_not_at_all() -> None:
    score = np.repeat([0.2, 0.9], 300).astype(np.float32)
    differs = np.zeros(600, np.bool_)
    differs[:60] = True
    assert certified_threshold(score, differs, 0.01, 0.95) == score[-1]

    differs[300:360] = True
    assert certified_threshold(score, differs, 0.01, 0.95) is None


def test_too_few_rows_certify_nothing() -> None:
    assert certified_threshold(np.ones(597), np.zeros(597, np.bool_), 0.005, 0.95) is None
    assert certified_threshold(np.ones(598), np.zeros(598, np.bool_), 0.005, 0.95) == 1


def test_the_rows_that_leave_are_those_that_reach_the_threshold() -> None:
    table = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.9, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.3, 0.7]]])
    result = vote(table, ballot(Rule.PROBABILITY_AVERAGE, [1, 1]))

    assert result.margin == pytest.approx([0.5, 0, 0.2])
    assert leaving(result, Score.MARGIN, float(result.margin[2])).tolist() == [True, False, True]
    assert leaving(result, Score.AGREEMENT, 0.75).tolist() == [True, False, False]


@pytest.mark.parametrize("levels", [None, 20], ids=["any score", "coarse scores"])
def test_certificates_are_violated_no_more_often_than_they_say(levels: int | None) -> None:
    """A thousand calibrations at 95%: 5% may be violated, and 6.4% is what chance makes of that."""
    rng = np.random.default_rng(7)
    disagreement, violated = 0.02, 0
    for _ in range(1000):
        score = rng.random(1000)
        score = score if levels is None else np.floor(score * levels) / levels
        differs = rng.random(1000) < 0.2 * (1 - score) ** 2
        threshold = certified_threshold(score, differs, disagreement, 0.95)
        if threshold is not None:
            violated += leaving_and_different(threshold, levels) > disagreement
    assert violated <= 64
    assert violated >= 5, "a threshold that is never wrong gives savings away"


def leaving_and_different(threshold: float, levels: int | None) -> float:
    """How often a row of that population leaves early with another label: the integral of its rate of differing."""
    if levels is None:
        return 0.2 * (1 - threshold) ** 3 / 3
    scores = np.arange(round(threshold * levels), levels) / levels
    return float(np.sum(0.2 * (1 - scores) ** 2) / levels)


def test_the_tolerance_is_that_of_the_tally() -> None:
    assert ROUNDED_TOLERANCE > SUM_TOLERANCE
