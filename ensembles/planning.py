"""From recorded votes to policies: chosen on some rows, certified on others, judged on the rest. Pure.

What does best of a million candidates on the rows that choose owes some of it to chance. So the rows are divided by a seed: `CHOOSE`
of them choose members, rule, order, exit and temperature; `CERTIFY` of them set the threshold of certified exits; and the rest,
which took no part in either, say how good and how dear the result is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensembles import estimates
from ensembles.accuracy import right
from ensembles.candidates import Rows
from ensembles.estimates import Estimate
from ensembles.front import Candidate, bigger_model
from ensembles.judging import Policy, Scores, certified, judged, taken
from ensembles.policy_search import Progress, Search, exactly
from ensembles.price import PRICE_PER_HOUR
from ensembles.shortlist import MOST_MEMBERS, find, limits
from ensembles.stopping import allowed_differences, rows_to_certify
from ensembles.temperature import fit_temperature
from ensembles.votes import Ballot, Floats, Ints, Rule, vote

CHOOSE, CERTIFY = 0.4, 0.3
"""Shares of the rows that choose and that certify; the other 0.3 judge."""

LEAST_ROWS = 10

CHOOSING_CELLS = 1 << 24
"""Answers of all subsets to all rows that choose, and votes of the members on them: what fits into half a gigabyte."""

MOST_CHOOSING = 1 << 16
"""More rows hardly choose better: an accuracy has a standard error of a fifth of a point at most on so many."""

SLOW_CELLS = 1 << 21
"""Answers of all subsets that rules are asked for which are counted one by one."""

FAST = (Rule.MAJORITY, Rule.PROBABILITY_AVERAGE)


class PlanningError(ValueError):
    """There is nothing to plan with. One line: what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The members' votes on labelled rows. `y` [n] int64; `seconds` [M] of a row; `ballot`: the manifest's, of all members."""

    names: tuple[str, ...]
    scores: Scores
    y: Ints
    seconds: Floats
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked for. `max_cost`: USD per 1,000 rows. `disagreement` and `confidence` are a certificate's."""

    min_accuracy: float | None = None
    max_cost: float | None = None
    disagreement: float = 0.005
    confidence: float = 0.95
    price_per_hour: float = PRICE_PER_HOUR
    seed: int = 0

    def usd_per_1000(self, seconds: float) -> float:
        """What 1,000 rows cost that take so many seconds each."""
        return 1000 * seconds * self.price_per_hour / 3600


@dataclass(frozen=True, slots=True)
class Parts:
    """Which rows do what; no row does two things."""

    choose: Ints
    certify: Ints
    judge: Ints


@dataclass(frozen=True, slots=True)
class Judged:
    """A policy, what it was chosen for, and what it did on rows that took no part. Seconds are of one row.

    `known_as`: `best_member`, `bigger_model`, `full`, `early_exit`, `cascade`, `chosen`. `on_front`: nothing that was found beats it.
    The intervals are those of rows; that a second run would measure other seconds for the same row is not in them.
    """

    policy: Policy
    candidate: Candidate
    known_as: tuple[str, ...]
    on_front: bool
    accuracy: Estimate
    runs: Estimate
    seconds: Estimate


@dataclass(frozen=True, slots=True)
class Plan:
    """`front`: by increasing cost on the rows that judge. `candidates`: how many were looked at.
    `ballot`: with the temperature fitted. `notes`: what was left out or could not be had, a line each.
    """

    recorded: Recorded
    wishes: Wishes
    parts: Parts
    candidates: int
    ballot: Ballot
    front: tuple[Judged, ...]
    notes: tuple[str, ...]

    def named(self, name: str) -> Judged | None:
        """The one known by a name."""
        return next((each for each in self.front if name in each.known_as), None)


def parts(n: int, members: int, classes: int, seed: int) -> Parts:
    """Divide n rows. Raises PlanningError for fewer than `LEAST_ROWS`."""
    if n < LEAST_ROWS:
        raise PlanningError(
            f"found {n} rows, expected at least {LEAST_ROWS} to choose, certify and judge on different ones"
        )
    order = np.random.default_rng(seed).permutation(n)
    fitting = CHOOSING_CELLS // max(1 << min(members, MOST_MEMBERS), members * classes)
    choose, certify = min(int(CHOOSE * n), fitting, MOST_CHOOSING), int(CERTIFY * n)
    return Parts(*(np.sort(each) for each in np.split(order, [choose, choose + certify])))


def _nothing(done: int, total: int) -> None:
    """Nobody wants to know."""


def plan(recorded: Recorded, wishes: Wishes, progress: Progress = _nothing) -> Plan:
    """Choose, certify and judge. Raises PlanningError when there are too few rows."""
    divided = parts(len(recorded.y), len(recorded.names), recorded.scores[0].shape[1], wishes.seed)
    rows = Rows(taken(recorded.scores, divided.choose), recorded.y[divided.choose], recorded.seconds)
    ballot = replace(recorded.ballot, temperature=_temperature(rows, recorded.ballot))
    rules = _rules(rows, ballot.rule)
    allowed = _allowed(divided, wishes)
    found = find(rows, ballot, rules, allowed, progress)
    chosen = pick(found, len(rows.y), wishes)
    front: list[Judged] = []
    failed: list[str] = []
    for candidate, names in _named(found, chosen):
        policy = certified(candidate, recorded.scores, divided.certify, ballot, wishes.disagreement, wishes.confidence)
        failed += names if policy is None else ()
        if policy is None and candidate == chosen:
            front.append(_judged(recorded, divided, ballot, *_instead(rows, ballot, candidate), names, on_front=False))
        elif policy is not None:
            on_front = candidate in found.front
            front.append(_judged(recorded, divided, ballot, candidate, policy, names, on_front=on_front))
    return Plan(
        recorded=recorded,
        wishes=wishes,
        parts=divided,
        candidates=found.size,
        ballot=ballot,
        front=tuple(sorted(front, key=lambda each: (each.seconds.value, -each.accuracy.value))),
        notes=(*limits(len(recorded.names)), *_left_out(rules), *_uncertified(divided, wishes, allowed, failed)),
    )


def _named(found: Search, chosen: Candidate | None) -> Iterable[tuple[Candidate, tuple[str, ...]]]:
    """All that is to be judged, each once, with what it is known as."""
    bigger = bigger_model([each.cost for each in found.singles])
    known = {
        "best_member": max(found.singles, key=lambda each: (each.right, -each.cost)),
        "bigger_model": None if bigger is None else found.singles[bigger],
        "full": found.full,
        "early_exit": found.early_exit,
        "cascade": found.cascade,
        "chosen": chosen,
    }
    names: dict[Candidate, list[str]] = {each: [] for each in found.front}
    for name, candidate in known.items():
        if candidate is not None:
            names.setdefault(candidate, []).append(name)
    return [(candidate, tuple(given)) for candidate, given in names.items()]


def _instead(rows: Rows, ballot: Ballot, candidate: Candidate) -> tuple[Candidate, Policy]:
    """The same members and rule without an exit that needs a certificate."""
    exact = exactly(rows, replace(ballot, rule=candidate.rule), np.array(candidate.members))
    return exact, Policy(exact.rule, exact.stages, exact.exit)


def _judged(
    recorded: Recorded,
    divided: Parts,
    ballot: Ballot,
    candidate: Candidate,
    policy: Policy,
    names: tuple[str, ...],
    *,
    on_front: bool,
) -> Judged:
    done = judged(policy, recorded.scores, divided.judge, ballot, recorded.seconds)
    return Judged(
        policy=policy,
        candidate=candidate,
        known_as=names,
        on_front=on_front,
        accuracy=estimates.proportion(right(done.label_index, recorded.y[divided.judge])),
        runs=estimates.mean(done.runs.astype(np.float64)),
        seconds=estimates.mean(done.seconds),
    )


def _temperature(rows: Rows, ballot: Ballot) -> float:
    """The temperature of the full ensemble's pooled shares, to so many digits as the manifest will say."""
    pooled = vote(rows.scores, replace(ballot, temperature=1.0)).probabilities
    return round(fit_temperature(pooled, rows.y), 4)


def _rules(rows: Rows, own: Rule) -> tuple[Rule, ...]:
    """The ensemble's own rule first, then those that time allows."""
    slow = len(rows.y) << len(rows.costs) <= SLOW_CELLS
    return tuple(dict.fromkeys((own, *(Rule if slow else FAST))))


def _allowed(divided: Parts, wishes: Wishes) -> int:
    """How many of the choosing rows may leave a certified exit with another label; -1 if other rows could not certify any."""
    few = min(len(divided.choose), len(divided.certify))
    if few < rows_to_certify(wishes.disagreement, wishes.confidence):
        return -1
    return allowed_differences(len(divided.choose), wishes.disagreement, wishes.confidence)


def pick(found: Search, n: int, wishes: Wishes) -> Candidate | None:
    """What to serve, by the `n` rows that choose; None where nothing is good and cheap enough.

    The cheapest of those that are accurate enough, which without a wish is as the full ensemble; where only the cost is bounded,
    the most accurate of those that are cheap enough.
    """
    cheap = [
        each for each in found.front if wishes.max_cost is None or wishes.usd_per_1000(each.cost) <= wishes.max_cost
    ]
    if wishes.min_accuracy is None and wishes.max_cost is not None:
        return cheap[-1] if cheap else None
    enough = found.full.right if wishes.min_accuracy is None else wishes.min_accuracy * n
    return next((each for each in cheap if each.right >= enough), None)


def _left_out(rules: Sequence[Rule]) -> tuple[str, ...]:
    slow = [rule.value for rule in Rule if rule not in rules]
    return (f"too many subsets and rows for the slow rules {', '.join(slow)}: left out",) if slow else ()


def _uncertified(divided: Parts, wishes: Wishes, allowed: int, names: Sequence[str]) -> tuple[str, ...]:
    """Why there is no cascade, or another policy than was chosen."""
    what = f"a disagreement of {100 * wishes.disagreement:.3g}% at {100 * wishes.confidence:.6g}% confidence"
    found = len(divided.certify)
    if allowed < 0:
        needed = rows_to_certify(wishes.disagreement, wishes.confidence)
        total = int(np.ceil(needed / CERTIFY))
        return (f"no cascade: {found} rows are left to certify one, {needed} are needed for {what}, {total} in all",)
    lines = {
        "cascade": f"no cascade: even of the surest of {found} rows too many leave with another label for {what}",
        "chosen": f"the exit that was chosen could not be certified for {what}: its members exit exactly instead",
    }
    return tuple(line for name, line in lines.items() if name in names)
