"""What an ensemble is worth, from a table of votes: honest about copies, equals, choices and chance."""

import base64
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles import document, evaluation, pictures, standing
from ensembles.accuracy import mcnemar, nll_rows
from ensembles.evaluation import Evaluation, best_member, evaluate, gain
from ensembles.gallery import gallery
from ensembles.recording import Recording, record
from ensembles.repository import Repository
from ensembles.spec import ImageSpec, InputSpec
from ensembles.standing import Table, Way, alone, stand
from ensembles.temperature import fit_temperature
from ensembles.votes import Ballot, Rule, TieBreak, at_temperature, vote

CLASSES = 4
GIVEN = InputSpec(name="image", datatype="UINT8", shape=(8, 8))
NAMES = tuple("abcdefgh")


def table(scores: Any, y: Any, rule: Rule = Rule.PROBABILITY_AVERAGE, weights: Any = None, **ballot: Any) -> Table:
    """A table of the scores [n, M, K]; every run of 64 rows took each member its number in milliseconds."""
    members = scores.shape[1]
    counted = np.ones(members) if weights is None else np.array(weights, float)
    return Table(
        names=NAMES[:members],
        scores=tuple(np.ascontiguousarray(scores[:, member], np.float32) for member in range(members)),
        y=np.asarray(y),
        ballot=Ballot(rule, counted, np.arange(members), **ballot),
        runs=tuple(np.array([[64, 0.001 * (member + 1)]] * 4) for member in range(members)),
    )


def sure(choices: Any, confidence: float = 0.7, classes: int = CLASSES) -> Any:
    """Scores that give the chosen class the confidence, and the others the rest. [n, M] to [n, M, K]"""
    scores = np.full((*choices.shape, classes), (1 - confidence) / (classes - 1))
    np.put_along_axis(scores, choices[..., None], confidence, axis=-1)
    return scores


def noisy(n: int, errors: Any, seed: int = 0) -> tuple[Any, Any]:
    """Scores of members that err independently this often, and the labels."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, n)
    wrong = random.random((n, len(errors))) < np.array(errors)
    choices = np.where(wrong, (y[:, None] + random.integers(1, CLASSES, wrong.shape)) % CLASSES, y[:, None])
    return sure(choices), y


def evaluated(n: int = 400, errors: Any = (0.3, 0.3, 0.3), **more: Any) -> Evaluation:
    return evaluate(table(*noisy(n, errors), **more), [1 - error for error in errors])


# --------------------------------------------------------------------------------------------------------------- honesty


def test_the_same_member_three_times_gains_exactly_nothing() -> None:
    scores, y = noisy(300, [0.3])
    found = evaluate(table(np.repeat(scores, 3, axis=1), y), [None, None, None])

    assert found.gain.over_best_member.value == 0 and found.gain.mcnemar_p == 1
    assert all(each.over_best_member.value == 0 for each in found.gains)
    assert found.diversity.der.value == 0
    assert found.diversity.kappa is not None and found.diversity.kappa.value == 1
    assert [pair.kappa.value for pair in found.diversity.pairs] == [1, 1, 1]
    assert len(found.diversity.twins) == 3
    assert found.promise.efficiency is not None and found.promise.efficiency.value == 0
    assert all(each.accuracy_lost.value == 0 for each in found.marginal)
    assert found.mistakes.wrong_majority.sum() == found.mistakes.lost_ties.sum() == 0


def test_equal_answerers_seldom_differ_significantly() -> None:
    random = np.random.default_rng(5)
    studies = [gain(*(random.random((2, 400)) < 0.8), "a", "calibration") for _ in range(1000)]

    assert sum(study.mcnemar_p < 0.05 for study in studies) <= 64
    assert all(
        (study.mcnemar_p < 0.05) == (study.over_best_member.low > 0 or study.over_best_member.high < 0)
        for study in studies
    )


def test_rows_that_choose_the_best_member_never_judge_it() -> None:
    """Ten members that are right by chance alone: the one that looks best is no better on the rows that judge."""
    random = np.random.default_rng(6)
    judged, everywhere, significant = [], [], 0
    for seed in range(1000):
        rights = list(random.random((10, 200)) < 0.5)
        best, judging, chosen_on = best_member(rights, [None] * 10, seed)
        other = random.random(200) < 0.5
        judged.append(rights[best][judging].mean())
        everywhere.append(max(right.mean() for right in rights))
        significant += mcnemar(other[judging], rights[best][judging]) < 0.05

    assert chosen_on == "a fifth of the rows" and judging.sum() == 160
    assert np.mean(judged) == pytest.approx(0.5, abs=0.005)
    assert np.mean(everywhere) > 0.54, "which choosing and judging on the same rows would have shown"
    assert significant <= 64


def test_rows_that_choose_the_best_member_are_in_none_of_its_comparisons() -> None:
    """All that is set against the best member is counted on the rows that judge it."""
    scores, y = noisy(500, [0.4] * 8)
    found = evaluate(table(scores, y), [None] * 8)
    _, judging, _ = best_member([member.right for member in found.members], [None] * 8)

    assert found.promise.best_error.value == pytest.approx(1 - found.best.right[judging].mean())
    assert found.promise.measured_error.value - found.promise.best_error.value == pytest.approx(
        -found.gains[list(Rule).index(Rule.MAJORITY)].over_best_member.value
    )
    assert found.promise.best_error.n == found.gain.rows == 400
    assert found.selective_best.accuracy[-1] == pytest.approx(found.best.right[judging].mean())


def test_shuffled_labels_show_no_gain() -> None:
    scores, y = noisy(2000, [0.2, 0.25, 0.3])
    found = evaluate(table(scores, np.random.default_rng(1).permutation(y)), [None] * 3)

    assert found.gain.over_best_member.low < 0 < found.gain.over_best_member.high
    assert found.served.accuracy.value == pytest.approx(1 / CLASSES, abs=0.04)


def test_the_best_member_is_that_of_the_manifest_even_if_another_looks_better_here() -> None:
    scores, y = noisy(300, [0.1, 0.3, 0.3])
    found = evaluate(table(scores, y), [0.6, 0.9, 0.7])

    assert (found.gain.best_member, found.gain.chosen_on, found.gain.rows) == ("b", "calibration", 300)


# ------------------------------------------------------------------------------------------------------------ gain, promise


def test_independent_members_keep_the_promise() -> None:
    """Wrong votes split over three classes here, so the vote does even better than 21.6%."""
    random = np.random.default_rng(2)
    y = random.integers(0, 2, 20_000)
    choices = np.where(random.random((20_000, 3)) < 0.3, 1 - y[:, None], y[:, None])
    kept = evaluate(table(sure(choices, classes=2), y), [0.7] * 3).promise

    assert kept.independent_error.value == pytest.approx(0.216, abs=0.005)
    assert kept.independent_error.low < 0.216 < kept.independent_error.high
    assert kept.measured_error.value == pytest.approx(0.216, abs=0.01)
    assert kept.efficiency is not None and kept.efficiency.low < 1 < kept.efficiency.high
    assert kept.bracket is not None and kept.bracket[0] < kept.measured_error.value < kept.bracket[1]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_bracket_is_never_violated(data: st.DataObject) -> None:
    n, members = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 5))
    choices = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 2), min_size=members, max_size=members), min_size=n, max_size=n))
    )
    tie_break = data.draw(st.sampled_from(TieBreak))
    found = evaluate(table(sure(choices, classes=3), np.zeros(n, int), tie_break=tie_break), [0.5] * members)

    bracket = found.promise.bracket
    assert bracket is not None
    assert bracket[0] - 1e-9 <= found.promise.measured_error.value <= bracket[1] + 1e-9


def test_unlike_weights_have_no_bracket() -> None:
    assert evaluated(weights=[3, 1, 1]).promise.bracket is None


def test_too_few_rows_are_told_with_the_number_needed() -> None:
    few = gain(np.ones(50, bool), np.arange(50) >= 5, "a", "calibration")
    none = gain(np.ones(50, bool), np.ones(50, bool), "a", "calibration")
    some = gain(np.ones(60, bool), np.arange(60) >= 6, "a", "calibration")

    assert (few.enough, few.rows_for_any) == (False, 60) and few.mcnemar_p > 0.05
    assert (some.enough, some.rows_for_any) == (True, 60) and some.mcnemar_p < 0.05
    assert not none.enough and none.rows_for_any > 50 and none.rows_needed is None


def test_a_gain_too_small_to_show_comes_with_the_rows_that_would_show_it() -> None:
    right, other = np.ones(1000, bool), np.ones(1000, bool)
    right[:20], other[10:40] = False, False
    found = gain(right, other, "a", "calibration")

    assert found.over_best_member.value == pytest.approx(0.01)
    assert found.detectable == pytest.approx(1.96 * math.sqrt(0.03 / 1000), rel=1e-3)
    assert found.rows_needed == pytest.approx((1.96 / 0.01) ** 2 * 0.03, rel=0.01)


# ------------------------------------------------------------------------------------------------------- ways and standings


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_some_members_answer_as_if_the_others_had_not_voted(data: st.DataObject) -> None:
    members = data.draw(st.integers(2, 4))
    scores = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=20 * members * 3, max_size=20 * members * 3)), float
    )
    scores = scores.reshape(20, members, 3) + 0.25
    scores /= scores.sum(axis=2, keepdims=True)
    chosen = tuple(sorted(data.draw(st.sets(st.integers(0, members - 1), min_size=1))))
    rule, tie_break = data.draw(st.sampled_from(Rule)), data.draw(st.sampled_from(TieBreak))
    found = table(
        scores,
        np.zeros(20, int),
        weights=data.draw(st.permutations([1.0, 1.0, 2.0, 2.0]))[:members],
        tie_break=tie_break,
    )
    priority = np.array(data.draw(st.permutations(range(members))))
    found = dataclasses.replace(found, ballot=dataclasses.replace(found.ballot, rule=rule, priority=priority))
    present = np.isin(np.arange(members), chosen)

    expected = vote(found.stacked(range(members), slice(None)), found.ballot, np.broadcast_to(present, (20, members)))
    assert np.array_equal(Way(chosen, rule).answer(found, slice(None)).label_index, expected.label_index)


@pytest.mark.parametrize(("members", "label"), [((0, 1), 0), ((1, 2), 2), ((0, 2), 2), ((1, 3), 3)])
def test_some_members_keep_their_order_of_trust(members: tuple[int, ...], label: int) -> None:
    found = table(sure(np.array([[0, 1, 2, 3]])), [0], rule=Rule.MAJORITY, tie_break=TieBreak.PRIORITY)
    trusted = dataclasses.replace(found, ballot=dataclasses.replace(found.ballot, priority=np.array([2, 3, 0, 1])))

    assert Way(members, Rule.MAJORITY).answer(trusted, slice(None)).label_index.tolist() == [label]


def test_no_row_is_judged_at_a_temperature_that_it_helped_to_fit() -> None:
    found = table(*noisy(200, [0.2, 0.3]))
    first = standing._halves(200, 0)
    shuffled = found.y.copy()
    shuffled[first] = np.random.default_rng(0).permutation(shuffled[first])
    way = Way((0, 1), Rule.PROBABILITY_AVERAGE)
    pieces = [standing._Piece.of(rows, answer) for rows, answer in way.answers(found)]

    before, after = (standing._fitted_elsewhere(pieces, first, y) for y in (found.y, shuffled))
    assert first.sum() == 100
    assert before[0] == after[0], "the first half's rows never saw their own labels"
    assert before[1] != after[1]


def test_each_half_is_judged_at_the_temperature_of_the_other() -> None:
    found = table(*noisy(400, [0.2, 0.3]))
    first = standing._halves(400, 0)
    way = Way((0, 1), Rule.PROBABILITY_AVERAGE)
    pooled = way.answer(found, slice(None)).probabilities
    of_first, of_second = (fit_temperature(pooled[half], found.y[half]) for half in (first, ~first))

    scaled = at_temperature(pooled, np.where(first, of_second, of_first)[:, None])
    assert of_first != of_second
    assert stand(found, way).calibrated.nll.value == pytest.approx(nll_rows(scaled, found.y).mean(), abs=1e-6)


def test_a_temperature_mends_what_members_overstate() -> None:
    scores, y = noisy(4000, [0.4])
    found = stand(table(sure(scores.argmax(axis=2), 0.98), y), alone(0))

    assert found.temperature > 1.5
    assert found.calibrated.ece.value < 0.03 < found.plain.ece.value
    assert found.calibrated.nll.value < found.plain.nll.value
    assert found.calibrated.brier.value < found.plain.brier.value
    assert found.accuracy.value == pytest.approx(0.6, abs=0.03)


def test_time_is_the_sum_of_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table(*noisy(20, [0.3, 0.3]))

    assert standing.seconds_per_1000(found, (1,)).value == pytest.approx(1000 * 0.002 / 64)
    assert standing.seconds_per_1000(found, (0, 1)).value == pytest.approx(1000 * 0.003 / 64)
    assert standing.cost(standing.seconds_per_1000(found, (0,)), 3600).value == pytest.approx(1000 * 0.001 / 64)


def test_unsteady_runs_widen_the_interval_of_the_time() -> None:
    found = table(*noisy(20, [0.3]))
    unsteady = dataclasses.replace(found, runs=(np.array([[64, 0.0005], [64, 0.0015]] * 20),))
    time = standing.seconds_per_1000(unsteady, (0,))

    assert time.value == pytest.approx(1000 * 0.001 / 64)
    assert time.low < 0.95 * time.value and time.high > 1.05 * time.value
    assert standing.seconds_per_1000(found, (0,)).low == pytest.approx(1000 * 0.001 / 64)


def test_fitting_on_some_of_many_rows_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    every = evaluated(4000)
    monkeypatch.setattr(standing, "FIT_ROWS", 1000)
    some = evaluated(4000)

    for one, other in zip((*every.members, *every.ensembles), (*some.members, *some.ensembles), strict=True):
        assert np.array_equal(one.label_index, other.label_index)
        assert one.plain.nll.value == pytest.approx(other.plain.nll.value)
        assert one.calibrated.nll.value == pytest.approx(other.calibrated.nll.value, abs=0.02)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluated(700)
    monkeypatch.setattr(standing, "CHUNK_VALUES", 1)
    parts = evaluated(700)

    for one, other in zip((*whole.members, *whole.ensembles), (*parts.members, *parts.ensembles), strict=True):
        assert np.array_equal(one.label_index, other.label_index)
        assert one.accuracy == other.accuracy
        assert one.calibrated.nll.value == pytest.approx(other.calibrated.nll.value)
        assert one.plain.ece.value == pytest.approx(other.plain.ece.value)


# ------------------------------------------------------------------------------------------------------- errors and members


def test_the_errors_of_the_majority_are_split_without_a_rest() -> None:
    found = evaluated(500, (0.4, 0.4, 0.5, 0.5))
    split = found.mistakes
    majority = found.ensembles[0]

    assert majority.way.rule is Rule.MAJORITY
    total = split.all_wrong.sum() + split.wrong_majority.sum() + split.lost_ties.sum()
    assert total == np.count_nonzero(~majority.right)
    assert min(split.all_wrong.sum(), split.wrong_majority.sum(), split.lost_ties.sum()) > 0


def test_the_samples_shown_are_those_nobody_got_right_the_surest_first() -> None:
    choices = np.array([[1, 1], [0, 1], [2, 3], [1, 2], [3, 3]])
    scores = sure(choices)
    scores[4] = sure(choices[4:5], 0.9)[0]
    found = evaluate(table(scores, np.array([0, 0, 0, 1, 0])), [0.5, 0.5])

    assert found.shown.tolist() == [4, 0, 2]


def test_no_more_samples_are_shown_than_fit() -> None:
    found = evaluate(table(*noisy(400, [0.9, 0.9])), [0.1, 0.1])

    assert len(found.shown) == evaluation.SHOWN < found.mistakes.hopeless.sum()


def test_a_member_that_carries_the_vote_is_missed_and_a_bad_one_is_not() -> None:
    carried = evaluated(1000, (0.02, 0.6, 0.6), weights=[2.5, 1, 1])
    lost = {each.member: each.accuracy_lost for each in carried.marginal}

    assert lost["a"].low > 0.2
    assert lost["b"].high < 0.05
    assert carried.marginal[2].seconds_saved_per_1000.value == pytest.approx(1000 * 0.003 / 64)


@pytest.mark.parametrize("weights", [None, (3, 1, 1, 2)])
@pytest.mark.parametrize("rule", list(Rule))
def test_what_is_left_without_a_member_is_the_vote_of_the_others(rule: Rule, weights: Any) -> None:
    random = np.random.default_rng(1)
    found = table(random.dirichlet(np.full(CLASSES, 0.5), (300, 4)), random.integers(0, CLASSES, 300), rule, weights)
    served = stand(found, Way((0, 1, 2, 3), rule))

    for member in range(4):
        others = tuple(other for other in range(4) if other != member)
        expected = Way(others, rule).answer(found, slice(None)).label_index
        assert np.array_equal(evaluation._without(found, served, member), expected)


def test_one_member_alone_can_be_evaluated() -> None:
    found = evaluated(100, (0.3,))

    assert found.gain.over_best_member.value == 0
    assert found.diversity.pairs == found.marginal == () and found.diversity.kappa is None


# ---------------------------------------------------------------------------------------------------------- evaluation.json


@pytest.fixture(scope="module")
def recorded(digits: Repository, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(digits, digits.path / "samples.npz", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def content(recorded: Recording) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document.text(document.evaluated(recorded, 0.36)))
    return found


def test_the_document_says_what_the_contract_names(content: dict[str, Any]) -> None:
    estimate = {"value", "low", "high", "n"}
    scored = {"accuracy", "nll", "brier", "ece", "seconds_per_1000", "cost_usd_per_1000"}

    assert content["schema"] == 1 and content["rows"] == 600
    assert [member["name"] for member in content["members"]] == ["mlp", "cnn", "forest", "logistic", "bayes"]
    assert [each["rule"] for each in content["ensembles"]] == [rule.value for rule in Rule]
    assert all(set(each[key]) == estimate for each in content["members"] + content["ensembles"] for key in scored)
    assert set(content["gain"]) >= {"best_member", "over_best_member", "mcnemar_p", "detectable"}
    assert set(content["promise"]) >= {"independent_error", "measured_error", "bracket", "efficiency"}
    assert len(content["diversity"]["pairs"]) == 10 and set(content["diversity"]["der"]) == estimate
    assert set(content["diversity"]["pairs"][0]) >= {"a", "b", "disagreement", "double_fault", "q", "kappa"}
    assert set(content["errors"]) >= {"all_wrong", "wrong_majority", "lost_ties"}
    assert set(content["marginal"][0]) >= {"member", "accuracy_lost", "cost_saved_usd_per_1000"}


def test_its_numbers_are_those_of_the_vote(content: dict[str, Any], samples: Any, scores: Any, expected: Any) -> None:
    served = content["ensembles"][1]

    assert served["rule"] == "probability_average"
    assert served["accuracy"]["value"] == pytest.approx((expected.label_index == samples[1]).mean())
    alone = (scores.argmax(axis=2) == samples[1][:, None]).mean(axis=0)
    assert [member["accuracy"]["value"] for member in content["members"]] == pytest.approx(alone.tolist())
    assert content["gain"]["best_member"] == "cnn"
    assert served["cost_usd_per_1000"]["value"] == pytest.approx(served["seconds_per_1000"]["value"] * 1e-4)
    total = sum(member["seconds_per_1000"]["value"] for member in content["members"])
    assert served["seconds_per_1000"]["value"] == pytest.approx(total)


def test_its_samples_are_shown_with_the_votes_they_got(content: dict[str, Any], samples: Any, scores: Any) -> None:
    hopeless = np.flatnonzero((scores.argmax(axis=2) != samples[1][:, None]).all(axis=1))

    assert {sample["name"] for sample in content["samples"]} == {f"row {row}" for row in hopeless}
    for sample in content["samples"]:
        row = int(sample["name"].removeprefix("row "))
        assert sample["label"] == str(samples[1][row])
        assert sample["votes"] == [str(choice) for choice in scores[row].argmax(axis=1)]
        picture = base64.b64decode(sample["picture"].removeprefix("data:image/png;base64,"))
        image = ImageSpec(mode="L", width=8, height=8, range=(0, 16))
        assert np.array_equal(pictures.row(picture, GIVEN, image), samples[0][row])


def test_rows_that_are_no_pictures_are_shown_without(recorded: Recording) -> None:
    plain = recorded.repository.spec.input.model_copy(update={"image": None})
    spec = recorded.repository.spec.model_copy(update={"input": plain})
    blind = dataclasses.replace(recorded, repository=dataclasses.replace(recorded.repository, spec=spec))

    (sample,) = gallery(blind, np.array([3]))
    assert sample.picture is None and sample.name == "row 3"


def test_the_same_recording_gives_the_same_bytes(recorded: Recording, content: dict[str, Any]) -> None:
    assert document.text(document.evaluated(recorded, 0.36)) == document.text(content)


def test_a_document_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("earlier")
    (tmp_path / "file").write_text("")

    with pytest.raises(document.DocumentError, match="file/evaluation.json: found File exists"):
        document.write(tmp_path / "file" / "evaluation.json", "x")
    document.write(tmp_path / "new" / "evaluation.json", "later")
    assert (tmp_path / "new" / "evaluation.json").read_text() == "later"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "found No such file or directory, expected what `ensembles` wrote"),
        ("hello", "expected JSON, found Expecting value"),
        ("[]", "found schema 'list', expected 1"),
        ('{"schema": 2}', "found schema 2, expected 1"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused(tmp_path: Path, text: str | None, line: str) -> None:
    if text is not None:
        (tmp_path / "evaluation.json").write_text(text)

    with pytest.raises(document.DocumentError) as fault:
        document.read(tmp_path)
    assert line in str(fault.value)
