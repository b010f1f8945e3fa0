"""Whether the ensemble is worth it under this load, in one sentence. Pure."""

from collections.abc import Sequence

from ensembles.estimates import Estimate
from loadtest.records import FULL, MEMBER, Json, RunRecord
from loadtest.standing import Standing
from loadtest.wording import LOTS, by, count, interval, lot, points, span, usd
from loadtest.worth import Worth, worths


def verdict(run: RunRecord, standings: Sequence[Standing]) -> Json:
    """The verdict of `results.json`: `text`, and the numbers behind it for each policy."""
    found = worths(run, standings)
    if not found:
        return {"text": _without(run, standings), "policies": []}
    chosen = headline(found, standings)
    sentences = [{**numbers(each), "text": sentence(each)} for each in found]
    return {**numbers(chosen), "text": sentence(chosen), "policies": sentences}


def headline(found: Sequence[Worth], standings: Sequence[Standing]) -> Worth:
    """The cheapest policy that is shown to be better than the best member; if none is, the first."""
    costs = {each.policy: each.cost_usd_per_1000.value for each in standings if each.cost_usd_per_1000}
    better = [each for each in found if each.better]
    return min(better, key=lambda each: costs.get(each.policy, 0.0)) if better else found[0]


def numbers(of: Worth) -> Json:
    return {
        "policy": of.policy,
        "against": of.against,
        "gain": of.gain.as_json(),
        "mcnemar_p": of.p,
        "detectable": of.detectable,
        "rows_needed": of.rows_needed,
        "extra_cost_usd_per_1000": of.extra_cost.as_json() if of.extra_cost else None,
        "cost_ratio": of.cost_ratio,
        "cost_usd_of_one_more_right": of.break_even.as_json() if of.break_even else None,
    }


def known(policy: str) -> str:
    """How sentences call a policy."""
    return (
        "the full ensemble" if policy == FULL else policy.removeprefix(MEMBER) if policy.startswith(MEMBER) else policy
    )


def sentence(of: Worth) -> str:
    """One sentence, with its interval."""
    text = _better(of) if of.better else _worse(of) if of.worse else _unshown(of)
    return text[0].upper() + text[1:] if of.policy == FULL else text


def _better(of: Worth) -> str:
    mine = f"{known(of.policy)} is right more often than {known(of.against)}, the best member, by {by(of.gain)}"
    if of.break_even:
        return f"{mine} and costs {_more(of)}: worth it where {_worth(of.break_even, 'more right')} more than {_price(of.break_even)}."
    if of.extra_cost is None:
        return f"{mine}; what it costs is unknown, as the target tells no costs."
    return f"{mine} and costs {_more(of)}: worth it whatever a right answer is worth."


def _worse(of: Worth) -> str:
    lost = Estimate(-of.gain.value, -of.gain.high, -of.gain.low, of.gain.n)
    mine = f"{known(of.policy)} is right less often than {known(of.against)}, the best member, by {by(lost)}"
    if of.break_even:
        return f"{mine} and costs {_more(of)}: worth it only where {_worth(of.break_even, 'right')} less than {_price(of.break_even)}."
    cost = f" and costs {_more(of)}" if of.extra_cost else ""
    return f"{mine}{cost}: not worth it, whatever a right answer is worth."


def _unshown(of: Worth) -> str:
    rows = f"{count(of.gain.n)} rows"
    text = f"{known(of.policy)} is not shown to be right more often than {known(of.against)}, the best member, by {rows}: {points(of.gain)}"
    if of.cheaper:
        return f"{text}; it costs {_more(of)}, so it is worth it unless a loss matters that these rows cannot show."
    return f"{text}{_at_least(of)}; {_needed(of)}."


def _at_least(of: Worth) -> str:
    """Even the most that the gain may be sets a bound to what it takes."""
    if not of.dearer or of.extra_cost is None or of.gain.high <= 0:
        return f", and costs {_more(of)}" if of.extra_cost else ""
    least = of.extra_cost.low / 1000 / of.gain.high
    price = usd(lot(least) * least)
    worth = (
        _worth(Estimate(least, least, least, 0), "right")
        .replace(" is ", " would have to be ")
        .replace(" are ", " would have to be ")
    )
    return f", and costs {_more(of)}, so that {worth} at least {price}"


def _needed(of: Worth) -> str:
    if of.gain.value > 0 and of.rows_needed:
        return f"about {count(of.rows_needed)} rows are needed to show a gain of this size"
    return f"so many rows can show a gain of {100 * of.detectable:.2g} points or more"


def _worth(each: Estimate, which: str) -> str:
    """`a million more right answers are worth`, of so many that their price can be read."""
    n = lot(each.value)
    return f"one {which} answer is worth" if n == 1 else f"{LOTS[n]} {which} answers are worth"


def _price(each: Estimate) -> str:
    return interval(_times(each, lot(each.value)), usd)


def _times(of: Estimate, n: float) -> Estimate:
    return Estimate(n * of.value, n * of.low, n * of.high, of.n)


def _more(of: Worth) -> str:
    """What it costs against the member."""
    assert of.extra_cost is not None  # noqa: S101
    widest = (
        max(abs(of.extra_cost.low), abs(of.extra_cost.high)) if not (of.dearer or of.cheaper) else of.extra_cost.value
    )
    n = lot(widest / 1000, 1000)
    extra = _times(of.extra_cost, n / 1000)
    if not (of.dearer or of.cheaper):
        return f"about as much (for {LOTS[n]} rows {span(extra.low, extra.high, usd)} more, 95% interval)"
    times = f"{of.cost_ratio:.2f} times as much, " if of.cost_ratio else ""
    return f"{times}{usd(abs(extra.value))} {'more' if of.dearer else 'less'} for {LOTS[n]} rows"


def _without(run: RunRecord, standings: Sequence[Standing]) -> str:
    """Why there is no verdict, and what to add."""
    if not any(each.accuracy for each in standings):
        found = "the data has no labels" if run.data else "no labelled data was sent"
        return f"Whether the ensemble is worth its cost is unknown: {found}, so nobody knows which answers are right; add --data FILE with x and y."
    if not any(each.policy.startswith(MEMBER) for each in standings):
        return "Whether the ensemble is worth its cost is unknown: no single member ran beside it; add --policy member:NAME."
    if all(each.policy.startswith(MEMBER) for each in standings):
        return "Only single members ran; add --policy full to learn whether voting is worth its cost."
    return "Whether the ensemble is worth its cost is unknown: policy and member answered no row in common."
