"""Planning: the front against brute force, the picks, and that the rows that choose never judge."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ensembles import majorities, shortlist
from ensembles.candidates import Rows
from ensembles.front import DECIDED, Candidate, bigger_model
from ensembles.judging import Policy, Threshold, certified, replay
from ensembles.plan_document import document, manifest_changes
from ensembles.planning import Plan, PlanningError, Recorded, Wishes, parts, plan
from ensembles.policy_search import Search, search
from ensembles.stopping import ADDITIVE, Score, decided, members_of
from ensembles.votes import Ballot, Floats, Ints, Rule, TieBreak, part, vote

TIE_BREAKS = list(TieBreak)


def pool(
    rng: np.random.Generator, rows: int, members: int, classes: int, *, coarse: bool = False
) -> tuple[NDArray[np.float32], Ints]:
    """Members of different skill that share what is hard. In quarters, ties are frequent."""
    y = rng.integers(0, classes, rows)
    skill = rng.uniform(0.5, 3, (1, members, 1)) - rng.normal(size=(rows, 1, 1))
    logits = rng.normal(size=(rows, members, classes)) + skill * np.eye(classes)[y][:, None, :]
    scores = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    if coarse:
        scores = np.round(4 * scores) + 1e-9
        scores = np.round(scores / scores.sum(axis=2, keepdims=True), 6)
    return scores.astype(np.float32), y


def ballot(members: int, rule: Rule = Rule.PROBABILITY_AVERAGE, **more: Any) -> Ballot:
    return Ballot(rule, np.ones(members), np.arange(members), **more)


def recorded(scores: NDArray[np.float32], y: Ints, seconds: Any = None, counted: Ballot | None = None) -> Recorded:
    members = scores.shape[1]
    costs = np.ones(members) if seconds is None else np.array(seconds, np.float64)
    names = tuple(f"m{member}" for member in range(members))
    return Recorded(names, tuple(np.moveaxis(scores, 1, 0)), y, costs * 1e-3, counted or ballot(members))


def silent(done: int, total: int) -> None:
    pass


# ------------------------------------------------------------------------------------------------------ against brute force


def brute_force(rows: Rows, counted: Ballot, rules: tuple[Rule, ...], allowed: int) -> list[tuple[float, int]]:
    """The front of all candidates, each counted by `vote` and `decided` alone."""
    found = [
        candidate
        for rule in rules
        for size in range(1, len(rows.costs) + 1)
        for subset in combinations(range(len(rows.costs)), size)
        for candidate in of_subset(rows, replace(counted, rule=rule), np.array(subset), allowed)
    ]
    front: list[tuple[float, int]] = []
    for cost, right in sorted(found, key=lambda each: (round(each[0], 9), -each[1])):
        if not front or right > front[-1][1]:
            front.append((cost, right))
    return front


def of_subset(rows: Rows, counted: Ballot, members: Ints, allowed: int) -> Iterator[tuple[float, int]]:
    scores, costs, own = rows.scores[:, members], rows.costs[members], part(counted, members)
    labels = vote(scores, own).label_index
    yield costs.sum(), int(np.sum(labels == rows.y))
    if own.rule in ADDITIVE:
        yield (
            min(cost_of(order, scores, own, costs) for order in permutations(range(len(members)))),
            int(np.sum(labels == rows.y)),
        )
    for size in range(1, len(members) if allowed >= 0 else 0):
        for first in combinations(range(len(members)), size):
            yield from divided(rows.y, scores, costs, own, np.array(first), labels, allowed)


def cost_of(order: tuple[int, ...], scores: NDArray[np.float32], counted: Ballot, costs: Floats) -> float:
    voted, total = np.zeros(len(costs), np.bool_), 0.0
    for member in order:
        total += costs[member] * np.mean(~decided(scores, voted, counted))
        voted[member] = True
    return total


def divided(
    y: Ints, scores: NDArray[np.float32], costs: Floats, counted: Ballot, first: Ints, labels: Ints, allowed: int
) -> Iterator[tuple[float, int]]:
    early = vote(scores[:, first], part(counted, first))
    rest = costs.sum() - costs[first].sum()
    for score in Score:
        values = getattr(early, score)
        for threshold in np.unique(values):
            leaves = values >= threshold
            if np.sum(leaves & (early.label_index != labels)) <= allowed:
                right = int(np.sum(np.where(leaves, early.label_index, labels) == y))
                yield costs[first].sum() + np.mean(~leaves) * rest, right
                break


@pytest.mark.parametrize("seed", range(16))
def test_the_front_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = int(rng.integers(2, 6))
    scores, y = pool(rng, 80, members, int(rng.integers(2, 5)), coarse=seed % 3 == 0)
    costs = [rng.uniform(0.1, 3, members), np.ones(members), np.zeros(members), rng.integers(1, 3, members) * 1.0]
    counted = Ballot(
        list(Rule)[seed % 5],
        [np.ones(members), rng.integers(1, 4, members) * 1.0][seed % 2],
        rng.permutation(members),
        TIE_BREAKS[seed // 4],
        [1.0, 0.5, 2.0][seed % 3],
    )
    rules = tuple(dict.fromkeys((counted.rule, Rule.MAJORITY, Rule.PROBABILITY_AVERAGE)))
    rows, allowed = Rows(scores, y, costs[seed % 4]), int(rng.integers(-1, 5))
    found = search(rows, counted, rules, allowed, silent)
    expected = brute_force(rows, counted, rules, allowed)

    assert [each.right for each in found.front] == [right for _, right in expected]
    assert [each.cost for each in found.front] == pytest.approx([cost for cost, _ in expected], abs=1e-9)


@pytest.mark.parametrize("tie_break", TIE_BREAKS)
@pytest.mark.parametrize("weights", [[1] * 10, [1, 2, 1, 3, 1, 1, 2, 1, 1, 2], [0.1, 0.2, 0.3, 0.1, 0.4] * 2], ids=str)
def test_a_thousand_majorities_at_once_are_those_of_the_vote(tie_break: TieBreak, weights: list[float]) -> None:
    rng = np.random.default_rng(len(set(weights)))
    scores, y = pool(rng, 150, 10, 4, coarse=True)
    counted = Ballot(Rule.MAJORITY, np.array(weights, np.float64), rng.permutation(10), tie_break)
    right = majorities.right_by_subset(scores, y, counted)

    assert right[0] == 0
    for subset in range(1, 1 << 10, 3):
        members = members_of(subset)
        labels = vote(scores[:, members], part(counted, members)).label_index
        assert right[subset] == np.sum(labels == y), subset


# ----------------------------------------------------------------------------------------------------------- rows and honesty


def test_no_row_does_two_things() -> None:
    divided = parts(1000, 5, 10, seed=3)
    every = np.concatenate([divided.choose, divided.certify, divided.judge])

    assert (len(divided.choose), len(divided.certify), len(divided.judge)) == (400, 300, 300)
    assert sorted(every) == list(range(1000))
    assert parts(1000, 5, 10, seed=3).judge.tolist() == divided.judge.tolist()
    assert parts(1000, 5, 10, seed=4).judge.tolist() != divided.judge.tolist()


def test_rows_that_do_not_fit_into_memory_judge_instead_of_choosing() -> None:
    divided = parts(100_000, 12, 10, seed=0)

    assert len(divided.choose) == 4096
    assert len(divided.certify) == 30_000
    assert len(divided.judge) == 100_000 - 34_096


def test_shuffled_labels_show_a_gain_only_where_they_were_chosen() -> None:
    """Six members that guess: the best of all candidates looks better than chance, and is not."""
    flattered, judged = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scores = rng.dirichlet(np.ones(2), (400, 6)).astype(np.float32)
        made = plan(recorded(scores, rng.permutation(np.arange(400) % 2), rng.uniform(1, 2, 6)), Wishes(0.5, None, 0.1))
        best = [each for each in made.front if each.on_front][-1]
        flattered.append(best.candidate.right / 160)
        judged.append(best.accuracy.value)

    assert np.mean(flattered) > 0.57
    assert abs(np.mean(judged) - 0.5) < 3 * 0.5 / np.sqrt(12 * 120)


def test_what_other_rows_say_changes_no_choice() -> None:
    rng = np.random.default_rng(5)
    scores, y = pool(rng, 1000, 5, 3)
    made = plan(recorded(scores, y, [5, 1, 2, 3, 1]), Wishes(disagreement=0.05))
    spoilt, wrong = scores.copy(), y.copy()
    for rows in (made.parts.certify, made.parts.judge):
        spoilt[rows] = rng.dirichlet(np.ones(3), (len(rows), 5))
        wrong[rows] = rng.integers(0, 3, len(rows))
    other = plan(recorded(spoilt, wrong, [5, 1, 2, 3, 1]), Wishes(disagreement=0.05))

    assert other.ballot.temperature == made.ballot.temperature
    kept = {each.candidate for each in other.front} & {each.candidate for each in made.front}
    assert len(kept) >= len([each for each in made.front if not each.candidate.certified])


def test_labels_certify_nothing() -> None:
    """A certificate compares labels with those of all members, not with the truth."""
    scores, y = pool(np.random.default_rng(6), 1000, 5, 3)
    made = plan(recorded(scores, y), Wishes(disagreement=0.05))
    wrong = y.copy()
    wrong[made.parts.certify] = 0
    other = plan(recorded(scores, wrong), Wishes(disagreement=0.05))

    assert exits(made) == exits(other)
    assert any(isinstance(exit_, Threshold) for exit_ in exits(made))


def exits(made: Plan) -> list[Any]:
    return [each.policy.exit for each in made.front]


def test_certified_cascades_keep_their_word_on_all_rows_that_come_later() -> None:
    """A thousand calibrations of a cascade on 300 rows each: at 95%, at most 6.4% of them may break their word."""
    population, _ = pool(np.random.default_rng(99), 50_000, 4, 3)
    columns, counted = tuple(np.moveaxis(population, 1, 0)), ballot(4, temperature=0.7)
    candidate = Candidate(Rule.PROBABILITY_AVERAGE, ((1, 2), (0, 3)), Score.MARGIN, 0.0, 0)
    early = vote(population[:, [1, 2]], part(counted, np.array([1, 2])))
    differs = early.label_index != vote(population, counted).label_index
    violated = offered = 0
    for seed in range(1000):
        rows = np.random.default_rng(seed).integers(0, len(population), 300)
        policy = certified(candidate, columns, rows, counted, 0.05, 0.95)
        if policy is not None and isinstance(policy.exit, Threshold):
            offered += 1
            violated += np.mean(differs & (early.margin >= np.float32(policy.exit.value))) > 0.05
    assert offered >= 900
    assert 5 <= violated <= 64


def disagreement(policy: Policy, scores: NDArray[np.float32], counted: Ballot) -> float:
    early = replay(policy, scores, counted, np.ones(scores.shape[1]))
    return float(np.mean(early.label_index != vote(scores, counted).label_index))


# --------------------------------------------------------------------------------------------------------------- policies


def test_a_row_runs_the_stages_that_it_needs() -> None:
    scores = np.eye(2, dtype=np.float32)[[[0, 0, 1], [0, 1, 1], [1, 1, 0]]]
    policy = Policy(Rule.MAJORITY, ((0, 1), (2,)), DECIDED)
    done = replay(policy, scores, ballot(3), np.array([1.0, 2.0, 4.0]))

    assert done.label_index.tolist() == [0, 1, 1]
    assert done.runs.tolist() == [2, 3, 2]
    assert done.seconds.tolist() == [3, 7, 3]


@pytest.mark.parametrize("rule", ADDITIVE)
def test_an_exact_exit_has_the_labels_of_the_full_vote(rule: Rule) -> None:
    scores, y = pool(np.random.default_rng(8), 900, 5, 4, coarse=True)
    counted = ballot(5, rule, tie_break=TieBreak.PRIORITY)
    early = plan(recorded(scores, y, [3, 1, 2, 1, 2], counted), Wishes()).named("early_exit")

    assert early is not None
    assert early.runs.value < 5
    assert disagreement(early.policy, scores, counted) == 0


@pytest.mark.parametrize(
    ("costs", "bigger"),
    [([1, 5, 2, 2], 1), ([3, 1, 2], 0), ([2.9, 1, 2], None), ([1, 1, 1], None), ([1, 9], None), ([4], None)],
)
def test_one_bigger_model_costs_what_two_small_ones_would(costs: list[float], bigger: int | None) -> None:
    assert bigger_model(costs) == bigger


def test_what_is_always_shown() -> None:
    scores, y = pool(np.random.default_rng(9), 1000, 4, 3)
    made = plan(recorded(scores, y, [1, 5, 2, 2]), Wishes(disagreement=0.05))
    known = {name for each in made.front for name in each.known_as}

    assert known == {"best_member", "bigger_model", "full", "early_exit", "cascade", "chosen"}
    assert [each.seconds.value for each in made.front] == sorted(each.seconds.value for each in made.front)
    bigger, full = made.named("bigger_model"), made.named("full")
    assert bigger is not None and full is not None
    assert bigger.policy.stages == ((1,),)
    assert full.policy.stages == ((0, 1, 2, 3),)
    assert full.runs == replace(full.runs, value=4, low=4, high=4)
    assert full.accuracy.n == made.parts.judge.size == 300


@pytest.fixture(scope="module")
def unlike() -> Recorded:
    scores, y = pool(np.random.default_rng(10), 3000, 5, 3)
    return recorded(scores, y, [5, 1, 2, 3, 1])


def test_the_cheapest_that_is_accurate_enough_is_picked(unlike: Recorded) -> None:
    made = plan(unlike, Wishes(min_accuracy=0.6))
    chosen = made.named("chosen")

    assert chosen is not None
    enough = [each for each in made.front if each.candidate.right >= 0.6 * len(made.parts.choose)]
    assert chosen.candidate.cost == min(each.candidate.cost for each in enough)


def test_the_most_accurate_that_is_cheap_enough_is_picked(unlike: Recorded) -> None:
    dearest = 1000 * 5e-3 * 0.10 / 3600
    chosen = plan(unlike, Wishes(max_cost=dearest)).named("chosen")
    without_limit = plan(unlike, Wishes(max_cost=1.0)).named("chosen")

    assert chosen is not None and without_limit is not None
    assert chosen.candidate.cost <= 5e-3 < without_limit.candidate.cost
    assert chosen.candidate.right < without_limit.candidate.right


def test_without_a_wish_the_cheapest_that_is_as_good_as_all_together_is_picked(unlike: Recorded) -> None:
    made = plan(unlike, Wishes())
    chosen, full = made.named("chosen"), made.named("full")

    assert chosen is not None and full is not None
    assert chosen.candidate.right >= full.candidate.right
    assert chosen.candidate.cost < full.candidate.cost


def test_nothing_is_picked_where_nothing_is_good_enough(unlike: Recorded) -> None:
    assert plan(unlike, Wishes(min_accuracy=0.999)).named("chosen") is None
    assert plan(unlike, Wishes(max_cost=0.0)).named("chosen") is None


# ------------------------------------------------------------------------------------------------------------ odd pools


def test_one_member_is_its_own_ensemble() -> None:
    scores, y = pool(np.random.default_rng(11), 200, 1, 3)
    made = plan(recorded(scores, y), Wishes(disagreement=0.1))

    assert [each.known_as for each in made.front] == [("best_member", "full", "chosen")]
    assert made.named("early_exit") is None and made.named("cascade") is None


def test_the_same_member_twice_is_run_once() -> None:
    scores, y = pool(np.random.default_rng(12), 1000, 1, 3)
    made = plan(recorded(np.repeat(scores, 2, axis=1), y), Wishes(disagreement=0.05))
    chosen = made.named("chosen")

    assert chosen is not None
    assert chosen.policy.stages == ((0,),)
    assert len([each for each in made.front if each.on_front]) == 1
    assert made.named("bigger_model") is None, "no member is dearer than another"


def test_members_that_cost_nothing_are_all_that_is_on_the_front() -> None:
    scores, y = pool(np.random.default_rng(13), 500, 3, 3)
    made = plan(recorded(scores, y, [0, 0, 0]), Wishes(disagreement=0.1))

    assert len([each for each in made.front if each.on_front]) == 1
    assert {each.seconds.value for each in made.front} == {0.0}


def test_too_few_rows_certify_nothing_and_say_how_many_would() -> None:
    scores, y = pool(np.random.default_rng(14), 600, 3, 3)
    made = plan(recorded(scores, y), Wishes())

    assert made.named("cascade") is None
    assert not any(each.candidate.certified for each in made.front)
    (note,) = made.notes
    assert note.startswith(
        "no cascade: 180 rows are left to certify one, 598 are needed for a disagreement of 0.5% at "
    )
    assert note.endswith("95% confidence, 1994 in all")
    assert allowed_from(1994) >= 598 > allowed_from(1993)


def allowed_from(rows: int) -> int:
    return len(parts(rows, 3, 3, 0).certify)


def test_hardly_any_rows_are_refused() -> None:
    scores, y = pool(np.random.default_rng(15), 9, 3, 3)
    with pytest.raises(PlanningError, match="found 9 rows, expected at least 10 to choose, certify and judge"):
        plan(recorded(scores, y), Wishes())

    scores, y = pool(np.random.default_rng(15), 10, 3, 3)
    assert plan(recorded(scores, y), Wishes()).front


def test_what_was_chosen_runs_without_an_exit_that_cannot_be_certified() -> None:
    """On the rows that certify, the cheap member is sure of nonsense."""
    scores, y = pool(np.random.default_rng(16), 2000, 3, 3)
    wishes = Wishes(disagreement=0.03)
    made = plan(recorded(scores, y, [1, 20, 20]), wishes)
    chosen = made.named("chosen")
    assert chosen is not None and chosen.candidate.certified
    rows = made.parts.certify
    spoilt = scores.copy()
    spoilt[rows] = np.eye(3)[y[rows]][:, None]
    for member in chosen.policy.stages[0]:
        spoilt[rows, member] = 0.05 + 0.85 * np.eye(3)[(y[rows] + 1) % 3]
    other = plan(recorded(spoilt, y, [1, 20, 20]), wishes)
    instead = other.named("chosen")

    assert instead is not None
    assert instead.policy.exit == (DECIDED if instead.policy.rule in ADDITIVE else None)
    assert set(instead.policy.members) == set(chosen.policy.members)
    assert any(line.startswith("the exit that was chosen could not be certified") for line in other.notes)


def test_more_members_than_all_candidates_can_be_looked_at_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With smaller limits: all majorities of seven, and within the five best of them everything else."""
    monkeypatch.setattr(shortlist, "MOST_MEMBERS", 5)
    monkeypatch.setattr(shortlist, "MOST_IN_MAJORITIES", 7)
    scores, y = pool(np.random.default_rng(17), 300, 8, 3)
    rows, counted = Rows(scores, y, np.linspace(1, 2, 8)), ballot(8)
    found = shortlist.find(rows, counted, (Rule.PROBABILITY_AVERAGE,), 3, silent)

    assert found.full.members == tuple(range(8))
    assert found.early_exit is None and found.cascade is None
    (limit,) = shortlist.limits(8)
    assert limit.startswith(
        "found 8 members: all subsets of the 7 that are right most often alone under majority; other "
    )
    assert limit.endswith("among the 5 whose majority is right most often, none for all members together")
    assert shortlist.limits(5) == ()
    assert_reached(found, rows, counted)


def assert_reached(found: Search, rows: Rows, counted: Ballot) -> None:
    """The front is worth what it says, and beats all majorities of the seven best members."""
    alone = [int(np.sum(rows.scores[:, member].argmax(axis=1) == rows.y)) for member in range(8)]
    seven = np.sort(np.argsort(alone)[::-1][:7])
    for size in (1, 3, 6):
        for subset in combinations(seven.tolist(), size):
            members = np.array(subset)
            labels = vote(rows.scores[:, members], part(replace(counted, rule=Rule.MAJORITY), members)).label_index
            cost, right = rows.costs[members].sum(), np.sum(labels == rows.y)
            assert any(each.cost <= cost + 1e-9 and each.right >= right for each in found.front), subset


# --------------------------------------------------------------------------------------------------------------- documents


def test_the_document_has_what_the_contract_names(unlike: Recorded) -> None:
    content = document(plan(unlike, Wishes(price_per_hour=0.36)))

    assert {"schema", "candidates", "front", "chosen", "judged_on"} <= content.keys()
    for entry in content["front"]:
        assert {
            "members",
            "rule",
            "stages",
            "exit",
            "accuracy",
            "expected_member_runs",
            "seconds_per_1000",
            "cost_usd_per_1000",
        } <= entry.keys()
        assert entry["accuracy"].keys() == {"value", "low", "high", "n"}
        assert entry["cost_usd_per_1000"]["value"] == pytest.approx(1e-4 * entry["seconds_per_1000"]["value"])
    assert content["judged_on"] == content["chosen"]["accuracy"]["n"] == 900


def test_the_manifest_gets_what_was_found(unlike: Recorded) -> None:
    made = plan(unlike, Wishes())
    changes = manifest_changes(made, lambda policy: "a digest")
    cascade, chosen = made.named("cascade"), made.named("chosen")

    assert changes["vote"] == {"temperature": made.ballot.temperature}
    assert changes["policies"]["early_exit"]["exit"] == "decided"
    assert cascade is not None and isinstance(cascade.policy.exit, Threshold)
    assert changes["policies"]["cascade"]["exit"] == {cascade.policy.exit.score.value: cascade.policy.exit.value}
    assert changes["policies"]["cascade"]["certificate"] == {
        "disagreement": 0.005,
        "confidence": 0.95,
        "n": 900,
        "digest": "a digest",
    }
    assert chosen is not None and not set(chosen.known_as) & {"cascade", "early_exit", "full"}
    assert changes["policies"]["planned"]["stages"] == [
        [unlike.names[member] for member in stage] for stage in chosen.policy.stages
    ]


def test_a_policy_that_the_plan_has_not_goes() -> None:
    scores, y = pool(np.random.default_rng(18), 300, 1, 3)
    changes = manifest_changes(plan(recorded(scores, y), Wishes()), lambda policy: "")

    assert changes["policies"] == {"early_exit": None, "cascade": None, "planned": None}
