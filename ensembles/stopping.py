"""When may the rest of the vote be left out: exact exits, the cheapest order for them, and thresholds with a certificate. Pure.

An exact exit is a theorem: whatever the members that have not voted may say, the label stays. A certified exit is a statement
with a number: with this confidence, at most this share of rows leaves early with another label than all members would give.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import (
    SUM_TOLERANCE,
    TIE,
    Ballot,
    Floats,
    Ints,
    Mask,
    Result,
    Rule,
    Standing,
    TieBreak,
    most_points,
    places,
    standing,
)

MOST_MEMBERS = 16
"""Of an order that is found by looking at all subsets."""

STRICT = 2 * TIE
"""By how much a lead must exceed all that can still come, in shares: beyond what the tie rule would see as equal."""

EQUAL = TIE / 2
"""By how much a lead may fall short and still end in a tie, in shares."""

ROUNDED_TOLERANCE = 1.01 * SUM_TOLERANCE
"""What a member's probabilities may really be off by: the tally checks them in the member's own precision."""

BELOW_ONE = float(np.nextafter(1.0, 0.0))
"""The largest share that is not all of it."""

ADDITIVE = (Rule.MAJORITY, Rule.PROBABILITY_AVERAGE, Rule.BORDA)
"""Rules whose shares are sums over members, so that a vote still outstanding can move them by a bounded amount only."""


BLOCK_CELLS = 1 << 15
"""Cells (subset x row) that are counted at once: few enough to stay in a core's cache."""


class Score(StrEnum):
    """What a certified exit looks at: a field of `votes.Result`."""

    MARGIN = "margin"
    AGREEMENT = "agreement"


def points(scores: NDArray[np.floating], ballot: Ballot) -> Floats:
    """What each member adds to the share of each class, [n, M, K]; over all members they sum to the shares of `votes.vote`.

    `scores` [n, M, K]: probabilities. Raises ValueError for a rule that is not additive.
    """
    if ballot.rule not in ADDITIVE:
        raise ValueError(f"found {ballot.rule}, expected one of {', '.join(ADDITIVE)}")
    if ballot.rule is Rule.MAJORITY:
        said: NDArray[Any] = scores.argmax(axis=2)[:, :, None] == np.arange(scores.shape[2])
    else:
        said = places(scores) / most_points(scores.shape[2]) if ballot.rule is Rule.BORDA else scores
    shares: Floats = said * ballot.parts[:, None]
    return shares


def reach(rule: Rule, classes: int) -> float:
    """By how much one vote can change the difference of two classes at most, in shares of its member's weight.

    A hard vote moves it by 1, Borda by the K - 1 points between the first and the last place. A row of probabilities may
    sum to 1 + t and hold entries of -t (`votes.SUM_TOLERANCE`): one class less another is then 1 + t + K t at most.
    """
    if rule is Rule.MAJORITY:
        return 1.0
    return 2 / classes if rule is Rule.BORDA else 1 + (classes + 2) * ROUNDED_TOLERANCE


def decided(scores: NDArray[np.floating], voted: Mask, ballot: Ballot) -> Mask:
    """Which rows have the label that all members will give, whatever those who have not voted will say. [n]

    `scores` [n, M, K]: the columns of members not in `voted` count for nothing; what they hold is finite. `voted` [M].
    The leader must lead every rival by more than all outstanding votes can add; with the `first_class` tie rule an equal
    amount is enough against classes that come later (the other tie rules may go either way in a tie).
    Logarithms are unbounded, and a median has no sum: under these two rules a row is decided once all have voted.
    """
    cast = cast_share(ballot, voted)
    if not decidable(ballot, cast):
        return np.zeros(len(scores), np.bool_)
    return leads(standing(scores, ballot, voted[None]), cast)


def cast_share(ballot: Ballot, voted: Mask, members: Mask | None = None) -> float:
    """The share of those who have voted [M] in the weight of all `members` [M] who may; 1 only if every one of them has."""
    parts = ballot.parts if members is None else ballot.parts * members
    cast = outstanding = 0.0
    for part, has in zip(parts.tolist(), voted.tolist(), strict=True):
        if has:
            cast += part
        else:
            outstanding += part
    return min(cast / (cast + outstanding), BELOW_ONE) if outstanding else 1.0


def decidable(ballot: Ballot, cast: float) -> bool:
    """Whether any row can be decided once this share of the weight has voted: no lead is larger than what it adds up to."""
    return cast == 1 or (cast > 0.5 - TIE and ballot.rule in ADDITIVE)


def leads(so_far: Standing, cast: float) -> Mask:
    """Which rows have a leader that no outstanding vote can overtake, as `decided` says. [n]

    `cast`: see `cast_share`; `decidable` with it.
    """
    if cast == 1:
        return np.ones(len(so_far.margin), np.bool_)
    ballot, classes = so_far.ballot, so_far.shares.shape[1]
    needed = (1 - cast) * reach(ballot.rule, classes) / cast  # the shares are those of the weight that was cast
    sure: Mask
    if ballot.tie_break is TieBreak.FIRST_CLASS:
        sure = _lead_over_later(so_far.shares, EQUAL / cast, STRICT / cast) > needed
    else:
        sure = so_far.margin > needed + STRICT / cast
    return sure


def _lead_over_later(shares: Floats, equal: float, strict: float) -> Floats:
    """How far the leader is ahead of its nearest rival, where it needs less of a lead over the classes behind it. [n]"""
    rows, leader = np.arange(len(shares)), shares.argmax(axis=1)
    gaps = shares[rows, leader][:, None] - shares
    gaps += np.where(np.arange(shares.shape[1]) > leader[:, None], equal, -strict)
    gaps[rows, leader] = np.inf
    nearest: Floats = gaps.min(axis=1)
    return nearest


def leaving(result: Result, score: Score, threshold: float) -> Mask:
    """Which rows leave a certified cascade after a stage: those whose margin or agreement reaches the threshold. [n]"""
    values: NDArray[np.float32] = getattr(result, score)
    return values >= np.float32(threshold)


# -------------------------------------------------------------------------------------------------------------------- order


def members_of(subset: int) -> Ints:
    """The members in a subset, whose bit j stands for member j."""
    return np.array([j for j in range(subset.bit_length()) if subset >> j & 1], dtype=np.int64)


def undecided_by_subset(scores: NDArray[np.floating], ballot: Ballot) -> Floats:
    """The share of rows that are not decided once the members of a subset have voted, [2^M]; bit j stands for member j."""
    n, members, classes = scores.shape
    _check_members(members)
    undecided = np.ones(1 << members)
    undecided[-1] = 0.0
    if ballot.rule not in ADDITIVE:
        return undecided
    each = np.ascontiguousarray(points(scores, ballot).transpose(1, 2, 0)).reshape(members, -1)
    share = ballot.parts
    step = max(BLOCK_CELLS // max(n, 1), 1)
    for first in range(1, len(undecided) - 1, step):
        subsets = np.arange(first, min(first + step, len(undecided) - 1))
        include = (subsets[:, None] >> np.arange(members) & 1).astype(np.float64)
        lead = lead_of((include @ each).reshape(len(subsets), classes, n), ballot.tie_break)
        undecided[subsets] = np.mean(lead <= ((1 - include) @ share)[:, None] * reach(ballot.rule, classes), axis=1)
    return undecided


def first_two(standing: Floats) -> tuple[NDArray[np.int16], Floats, Floats]:
    """The leading class, its share and that of the second, of many subsets: [b, K, n] to [b, n] each."""
    leader = np.zeros((len(standing), standing.shape[2]), np.int16)
    top, second = standing[:, 0].copy(), np.full(leader.shape, -np.inf)
    for label in range(1, standing.shape[1]):
        share = standing[:, label]
        np.copyto(leader, label, where=share > top)
        np.maximum(second, np.minimum(top, share), out=second)
        np.maximum(top, share, out=top)
    return leader, top, second


def lead_of(standing: Floats, tie_break: TieBreak) -> Floats:
    """The lead as `decided` compares it, of many subsets: [b, K, n] to [b, n]."""
    if tie_break is TieBreak.FIRST_CLASS:
        standing = standing - (STRICT + EQUAL) * np.arange(standing.shape[1])[:, None]
    _, top, second = first_two(standing)
    return top - second - STRICT


def cheapest_exact_order(undecided: Floats, costs: Floats) -> tuple[tuple[int, ...], float]:
    """The order of members that costs least when each row stops once it is decided, and its expected cost a row.

    `undecided` [2^M]: the share of rows not decided after each subset, never larger for a larger subset. `costs` [M].
    Whether a row is decided depends on who has voted and not on their order, so the cheapest way on from a subset S is
    V(S) = min over j not in S of cost_j * undecided(S) + V(S + j): optimal over all M! orders, in M 2^M steps.
    Raises ValueError when the sizes do not fit.
    """
    members = len(costs)
    _check_members(members)
    if len(undecided) != 1 << members:
        raise ValueError(f"found {len(undecided)} subsets, expected {1 << members} of {members} members")
    ahead, following = np.zeros(len(undecided)), np.zeros(len(undecided), np.int64)
    for subsets, missing in _steps(members):
        options = costs[missing] * undecided[subsets, None] + ahead[subsets[:, None] | 1 << missing]
        best = options.argmin(axis=1)
        rows = np.arange(len(subsets))
        following[subsets], ahead[subsets] = missing[rows, best], options[rows, best]
    return _followed(following, members), float(ahead[0])


@cache
def _steps(members: int) -> tuple[tuple[Ints, Ints], ...]:
    """Subsets by falling size, all but the full one, and who is missing in each: [k] and [k, M - size]."""
    subsets = np.arange(1 << members)
    size = np.bitwise_count(subsets)
    steps = []
    for count in reversed(range(members)):
        some = subsets[size == count]
        missing = np.nonzero(~some[:, None] >> np.arange(members) & 1)[1]
        steps.append((some, missing.reshape(len(some), members - count)))
    return tuple(steps)


def _followed(following: Ints, members: int) -> tuple[int, ...]:
    order: list[int] = []
    subset = 0
    for _ in range(members):
        order.append(int(following[subset]))
        subset |= 1 << order[-1]
    return tuple(order)


def _check_members(members: int) -> None:
    if not 1 <= members <= MOST_MEMBERS:
        raise ValueError(f"found {members} members, expected 1 to {MOST_MEMBERS}")


def stages_of(order: Iterable[int], undecided: Floats) -> tuple[tuple[int, ...], ...]:
    """The order as stages: members between which no row is decided run together."""
    stages: list[list[int]] = [[]]
    seen = 0
    open_before = 1.0
    for member in order:
        if undecided[seen] < open_before:
            stages.append([])
            open_before = undecided[seen]
        stages[-1].append(member)
        seen |= 1 << member
    return tuple(map(tuple, stages))


# ------------------------------------------------------------------------------------------------------------- certificates


def clopper_pearson_upper(k: int, n: int, confidence: float) -> float:
    """The upper limit, at this one-sided confidence, of a probability that was seen k times in n rows.

    The quantile of Beta(k + 1, n - k) (Clopper and Pearson, 1934): it covers with at least this confidence, for every n.
    """
    if k >= n:
        return 1.0
    from scipy.special import betaincinv  # a server, which decides and certifies nothing, need not load scipy

    return float(betaincinv(k + 1, n - k, confidence))


def rows_to_certify(disagreement: float, confidence: float) -> int:
    """The fewest rows with which a disagreement can be certified, none of them differing: (1 - disagreement)^n <= 1 - confidence."""
    return int(np.ceil(np.log1p(-confidence) / np.log1p(-disagreement)))


def allowed_differences(n: int, disagreement: float, confidence: float) -> int:
    """How many of n rows may differ at most for the certificate; -1 when n rows are too few for any."""
    if clopper_pearson_upper(0, n, confidence) > disagreement:
        return -1
    low, high = 0, n  # low is allowed, high is not
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson_upper(middle, n, confidence) <= disagreement:
            low = middle
        else:
            high = middle
    return low


def certified_threshold(
    score: NDArray[np.floating], differs: Mask, disagreement: float, confidence: float
) -> float | None:
    """The loosest threshold with which, at this confidence, at most `disagreement` of all rows leave with another label.

    `score` [n]: a row leaves when its score reaches the threshold. `differs` [n]: it would leave with another label.
    The rows must have chosen nothing: neither members, order nor what the score is.
    Thresholds are tried from strict to loose until the first that fails. The share of rows that leave and differ only
    grows on the way, so this is a fixed-sequence test, and one confidence holds for all (Learn then Test, 2021).
    None when even the strictest fails.
    """
    allowed = allowed_differences(len(score), disagreement, confidence)
    if allowed < 0:
        return None
    wrong = np.sort(score[differs])[::-1]
    passing = score if len(wrong) <= allowed else score[score > wrong[allowed]]
    return float(passing.min()) if len(passing) else None
