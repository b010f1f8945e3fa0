"""What an ensemble is worth, from all of its members' votes on labelled rows. Pure: a table in, the evaluation out.

The rows that choose never judge: the best member is the one that did best on other data, each row's temperature was fitted on
other rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensembles import accuracy, diversity, estimates, promise
from ensembles.accuracy import Selective
from ensembles.bracket import bracket
from ensembles.diversity import Choices, Mistakes, Pair
from ensembles.estimates import Estimate, Z
from ensembles.standing import Standing, Table, Way, alone, labels, seconds_per_1000, stand
from ensembles.votes import SUM_TOLERANCE, Floats, Ints, Mask, Rule

SHOWN = 24
"""How many of the samples that no vote can save are kept."""

LEAST_ERRORS = 6
"""The fewest rows that one answerer alone must get right for McNemar's exact test to give p < 0.05: 2 / 2^6."""

CHOOSING = 5
"""One row of so many chooses the best member where the manifest does not say."""

STEP = 1e-4
ROUNDING = 1e-6
ADDING = (Rule.MAJORITY, Rule.PROBABILITY_AVERAGE, Rule.BORDA)


@dataclass(frozen=True, slots=True)
class Gain:
    """The vote against the best member, on `rows` rows of which none chose it.

    `chosen_on`: `calibration`, the manifest's figures, or `a fifth of the rows`. `over_best_member`: accuracy, as a fraction.
    `detectable`: the smallest gain that so many rows can show. `rows_needed`: that would show the measured one; None for none.
    `enough`: whether these rows could show any gain at all, and `rows_for_any` how many could: a vote without one error is
    told from a best member only if that errs on `LEAST_ERRORS` rows.
    """

    best_member: str
    chosen_on: str
    rows: int
    over_best_member: Estimate
    mcnemar_p: float
    detectable: float
    rows_needed: int | None
    enough: bool
    rows_for_any: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of the independent promise, for the majority vote, on the rows that judge the best member.

    `independent_error`: were the members' errors independent. `mean_correlation`: of their errors. `correlated_error`: the
    beta-binomial figure at that correlation. `bracket`: all that mean error and double fault allow; None for unlike weights.
    `efficiency`: the share of the promised gain over the best member that came true; None where nothing was promised.
    """

    independent_error: Estimate
    measured_error: Estimate
    best_error: Estimate
    mean_correlation: Estimate | None
    correlated_error: float | None
    bracket: tuple[float, float] | None
    efficiency: Estimate | None


@dataclass(frozen=True, slots=True)
class Diversity:
    """`der`: the disagreement-error ratio. `kappa`, `effective_votes`: of all members. `twins`: pairs that err together."""

    der: Estimate
    kappa: Estimate | None
    effective_votes: Estimate | None
    pairs: tuple[Pair, ...]
    twins: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Marginal:
    """What the ensemble is without one member: accuracy lost, as a fraction, and seconds saved."""

    member: str
    accuracy_lost: Estimate
    mcnemar_p: float
    seconds_saved_per_1000: Estimate


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that the votes say. `members` in the table's order, `ensembles` in that of the rules, `served` the manifest's.

    `gains`: of each rule over the best member. `mistakes` are the majority's. `selective`, `selective_best`: on the rows that
    judge the best member. `shown`: rows that no vote can save, the
    ones on which the members are surest first. `choices` [n, M] int16.
    """

    table: Table
    choices: Choices
    members: tuple[Standing, ...]
    ensembles: tuple[Standing, ...]
    served: Standing
    best: Standing
    gain: Gain
    gains: tuple[Gain, ...]
    promise: Kept
    diversity: Diversity
    mistakes: Mistakes
    shown: Ints
    selective: Selective
    selective_best: Selective
    marginal: tuple[Marginal, ...]


def evaluate(table: Table, calibration: Sequence[float | None], seed: int = 0) -> Evaluation:
    """Everything about the table. `calibration` [M]: each member's accuracy on other data, None where there is none."""
    everyone = tuple(range(len(table.names)))
    members = tuple(stand(table, alone(member), seed) for member in everyone)
    ensembles = tuple(stand(table, Way(everyone, rule), seed) for rule in Rule)
    by_rule = dict(zip(Rule, ensembles, strict=True))
    served, majority = by_rule[table.ballot.rule], by_rule[Rule.MAJORITY]
    choices = np.stack([member.label_index.astype(np.int16) for member in members], axis=1)
    rights = [member.right for member in members]
    best, judging, chosen_on = best_member(rights, calibration, seed)
    gains = tuple(
        gain(standing.right[judging], rights[best][judging], table.names[best], chosen_on) for standing in ensembles
    )
    mistakes = diversity.mistakes(choices, majority.label_index.astype(np.int64), table.y, majority.way.ballot(table))
    return Evaluation(
        table=table,
        choices=choices,
        members=members,
        ensembles=ensembles,
        served=served,
        best=members[best],
        gain=gains[ensembles.index(served)],
        gains=gains,
        promise=_kept(table, members, majority, best, judging),
        diversity=_diversity(choices, table),
        mistakes=mistakes,
        shown=_shown(table, mistakes.hopeless),
        selective=accuracy.selective(served.margin[judging], served.right[judging]),
        selective_best=accuracy.selective(members[best].margin[judging], members[best].right[judging]),
        marginal=tuple(_marginal(table, served, member) for member in everyone) if len(everyone) > 1 else (),
    )


def best_member(rights: Sequence[Mask], calibration: Sequence[float | None], seed: int = 0) -> tuple[int, Mask, str]:
    """The best member by other data, the rows [n] that are to judge it, and what it was chosen on.

    `rights`: for each member where it is right, [n]. The manifest's calibration figures choose; where one is missing, a random
    fifth of the rows does, which then does not judge.
    """
    judging = np.ones(len(rights[0]), np.bool_)
    known = [each for each in calibration if each is not None]
    if len(known) == len(rights):
        return int(np.argmax(known)), judging, "calibration"
    choosing = np.random.default_rng(seed).permutation(len(judging))[: max(1, len(judging) // CHOOSING)]
    judging[choosing] = False
    return int(np.argmax([right[choosing].mean() for right in rights])), judging, "a fifth of the rows"


def gain(right: Mask, other: Mask, best: str, chosen_on: str) -> Gain:
    """The vote, `right` [n], against the best member, `other` [n], on rows that did not choose it."""
    rows, errors = len(right), int(np.count_nonzero(~other))
    over = accuracy.paired_gain(right, other)
    discordant = float((right != other).mean())
    error = errors / rows if errors else estimates.proportion(~other).high
    return Gain(
        best_member=best,
        chosen_on=chosen_on,
        rows=rows,
        over_best_member=over,
        mcnemar_p=accuracy.mcnemar(right, other),
        detectable=accuracy.detectable_gain(max(discordant, 1 / rows), rows),
        rows_needed=accuracy.rows_needed(discordant, abs(over.value)) if over.value else None,
        enough=errors >= LEAST_ERRORS,
        rows_for_any=max(rows, math.ceil(LEAST_ERRORS / error)),
    )


def _kept(table: Table, members: Sequence[Standing], majority: Standing, best: int, judging: Mask) -> Kept:
    wrong = ~np.stack([*(member.right for member in members), majority.right], axis=1)[judging]
    weights = table.ballot.weights.tolist()
    several = len(members) > 1
    choices = np.stack([member.label_index for member in members], axis=1)[judging]
    correlation = diversity.correlation(choices, table.y[judging]) if several else None
    mean = float(wrong[:, :-1].mean())

    def independent(errors: Floats) -> float:
        return promise.independent_majority_error(errors[:-1].tolist(), weights)

    def efficiency(errors: Floats) -> float:
        found = promise.efficiency(float(errors[best]), float(errors[-1]), independent(errors))
        return math.nan if found is None else found

    return Kept(
        independent_error=_through(independent, wrong),
        measured_error=estimates.proportion(wrong[:, -1]),
        best_error=estimates.proportion(wrong[:, best]),
        mean_correlation=correlation,
        correlated_error=promise.beta_binomial_error(
            mean, len(members), float(np.clip(correlation.value, 0, 1)), weights
        )
        if correlation
        else None,
        bracket=_bracket(wrong[:, :-1], weights, table.scores[0].shape[1]),
        efficiency=_some(_through(efficiency, wrong)),
    )


def _some(estimate: Estimate) -> Estimate | None:
    return estimate if math.isfinite(estimate.value) else None


def _bracket(wrong: Mask, weights: Sequence[float], classes: int) -> tuple[float, float] | None:
    if min(weights) < max(weights):
        return None
    members = wrong.shape[1]
    together = wrong.sum(axis=1, dtype=np.int64)
    double_fault = float((together * (together - 1)).mean()) / (members * (members - 1)) if members > 1 else None
    return bracket(float(wrong.mean()), double_fault, members, classes)


def _through(function: Callable[[Floats], float], wrong: Mask) -> Estimate:
    """A function of error rates, with the interval that linearisation gives it. `wrong` [n, k]: rates of columns."""
    n = len(wrong)
    rates = wrong.mean(axis=0)
    ones = wrong.astype(np.float32)
    covariance = (ones.T @ ones).astype(np.float64) / n - np.outer(rates, rates)
    slope = np.array([_slope(function, rates, column) for column in range(len(rates))])
    half = Z * math.sqrt(max(0.0, float(slope @ covariance @ slope)) / n)
    value = function(rates)
    return Estimate(value, value - half, value + half, n)


def _slope(function: Callable[[Floats], float], rates: Floats, column: int) -> float:
    step = np.eye(len(rates))[column] * STEP
    low, high = np.maximum(0.0, rates - step), np.minimum(1.0, rates + step)
    return (function(high) - function(low)) / float(high[column] - low[column])


def _diversity(choices: Choices, table: Table) -> Diversity:
    members = choices.shape[1]
    pairs = diversity.pairs(choices, table.y, table.names)
    correlation = diversity.correlation(choices, table.y) if members > 1 else None
    return Diversity(
        der=diversity.der(choices, table.y),
        kappa=diversity.kappa(choices, table.y) if members > 1 else None,
        effective_votes=diversity.effective_votes(correlation, members) if correlation else None,
        pairs=pairs,
        twins=diversity.twins(pairs),
    )


def _shown(table: Table, hopeless: Mask) -> Ints:
    """Of the rows that no member got right, those on which the members are surest of what they say."""
    rows = np.flatnonzero(hopeless)
    sureness = np.zeros(len(rows))
    for scores in table.scores:
        sureness += scores[rows].max(axis=1) if len(rows) else 0.0
    return rows[np.argsort(-sureness, kind="stable")[:SHOWN]]


def _marginal(table: Table, served: Standing, member: int) -> Marginal:
    right = accuracy.right(_without(table, served, member), table.y)
    return Marginal(
        member=table.names[member],
        accuracy_lost=accuracy.paired_gain(served.right, right),
        mcnemar_p=accuracy.mcnemar(served.right, right),
        seconds_saved_per_1000=seconds_per_1000(table, (member,)),
    )


def _without(table: Table, served: Standing, member: int) -> Ints:
    """The labels [n] without the member. Under rules that add up votes, one vote turns no margin that is larger than its share."""
    others = tuple(other for other in served.way.members if other != member)
    weights = table.ballot.weights
    reach = weights[member] / weights.sum() * (1 + 2 * SUM_TOLERANCE) + ROUNDING if served.way.rule in ADDING else 1.0
    rows = np.flatnonzero(served.margin <= reach)
    label_index = served.label_index.astype(np.int64)
    label_index[rows] = labels(table, replace(served.way, members=others), rows)
    return label_index
