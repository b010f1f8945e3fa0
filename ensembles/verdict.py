"""What an evaluation says, in sentences; each is made from the content of `evaluation.json` alone. Pure."""

from typing import Any

from ensembles.front import bigger_model

Json = dict[str, Any]

RULES = {
    "majority": "majority",
    "probability_average": "probability average",
    "log_average": "log average",
    "median": "median",
    "borda": "Borda count",
}


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float | None, rows: int = 0) -> str:
    """A share, with as many digits as so many rows bear out."""
    return "unknown" if share is None else f"{share:.{2 if rows >= 5000 else 1}%}"


def points(estimate: Json) -> str:
    """A difference of shares with its interval, in percentage points."""
    digits = 2 if estimate["n"] >= 5000 else 1
    value, low, high = (100 * (estimate[end] or 0.0) for end in ("value", "low", "high"))
    return f"{value:+.{digits}f} points (95% interval {low:+.{digits}f} to {high:+.{digits}f})"


def seconds(value: float | None) -> str:
    """In the unit that suits."""
    if value is None:
        return "unknown"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def dollars(value: float | None) -> str:
    """Small sums in powers of ten."""
    if value is None:
        return "unknown"
    if not 0 < value < 1e-3:
        return f"{value:.3g} USD"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}·10{str(int(power)).translate(SUPERSCRIPTS)} USD"


def p_value(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def count(number: float) -> str:
    return f"{number:,.0f}"


def served(document: Json) -> Json:
    """The ensemble under the manifest's rule."""
    found: Json = next(each for each in document["ensembles"] if each["rule"] == document["ensemble"]["rule"])
    return found


def best(document: Json) -> Json:
    """The best member, by other data."""
    found: Json = next(each for each in document["members"] if each["name"] == document["gain"]["best_member"])
    return found


def headline(document: Json) -> str:
    """Whether the ensemble is worth it, in one sentence."""
    gain = document["gain"]
    name, over = gain["best_member"], gain["over_best_member"]
    if not gain["enough"]:
        return (
            f"Too few rows to say anything: on these {count(gain['rows'])}, even a vote without any error could not be told "
            f"from {name}, the best member. About {count(gain['rows_for_any'])} rows are needed."
        )
    if over["low"] > 0:
        return f"The vote beats {name}, the best member, by {points(over)[1:]}."
    if over["high"] < 0:
        return f"The vote is worse than {name}, the best member: {points(over)}."
    return f"No gain over {name}, the best member, can be shown: {points(over)}."


def evidence(document: Json) -> str:
    """How sure the headline is, and what more rows would bring."""
    gain = document["gain"]
    text = (
        f"McNemar's exact test, {p_value(gain['mcnemar_p'])}. {gain['best_member']} was chosen on "
        f"{'the calibration figures of the manifest' if gain['chosen_on'] == 'calibration' else gain['chosen_on']}; "
        f"{count(gain['rows'])} rows judged. So many rows can show a gain of {100 * gain['detectable']:.2g} points or more."
    )
    shown = gain["over_best_member"]["low"] > 0 or gain["over_best_member"]["high"] < 0
    if gain["rows_needed"] and not shown:
        text += f" To show one as small as the measured one, about {count(gain['rows_needed'])} rows are needed."
    return text


def accuracy(document: Json) -> str:
    ranked = sorted(document["ensembles"], key=lambda each: -each["accuracy"]["value"])
    mine, rows = served(document), document["rows"]
    text = f"Under the manifest's rule, {RULES[mine['rule']]}, the vote is right on {percent(mine['accuracy']['value'], rows)} of rows"
    if mine["accuracy"]["value"] == ranked[0]["accuracy"]["value"]:
        return f"{text}; no other rule does better."
    return f"{text}; {RULES[ranked[0]['rule']]} reaches {percent(ranked[0]['accuracy']['value'], rows)}, which may be chance."


def number(value: Json | float) -> float:
    """Of an estimate or a plain number."""
    return float(value["value"] if isinstance(value, dict) else value)


def bigger(document: Json) -> Json | None:
    """The one bigger model, see `front.bigger_model`."""
    members: list[Json] = document["members"]
    place = bigger_model([each["seconds_per_1000"]["value"] for each in members])
    return None if place is None else members[place]


KNOWN_AS = {
    "best_member": "best single member",
    "bigger_model": "one bigger model",
    "full": "full ensemble",
    "early_exit": "early exit",
    "cascade": "cascade",
    "chosen": "chosen",
}


def known_as(entry: Json) -> str:
    """What an entry of a plan is called; a single member with its name."""
    text = ", ".join(KNOWN_AS.get(name, name) for name in entry["known_as"])
    return f"{entry['members'][0]} ({text})" if len(entry["members"]) == 1 else text


def plane(document: Json, plan: Json | None) -> str:
    """What accuracy costs: the full vote against the best member, and what a plan chose."""
    mine, alone, rows = served(document), best(document), document["rows"]
    times = mine["seconds_per_1000"]["value"] / alone["seconds_per_1000"]["value"]
    text = (
        f"The full vote takes {times:.1f} times as long as {alone['name']}, the best member "
        f"({seconds(mine['seconds_per_1000']['value'])} against {seconds(alone['seconds_per_1000']['value'])} for 1,000 rows), and is "
        f"right on {percent(mine['accuracy']['value'], rows)} instead of {percent(alone['accuracy']['value'], rows)}."
    )
    if plan and plan["front"]:
        return f"{text} {_chosen(plan)}"
    big = bigger(document)
    if big is not None and big is not alone:
        text += f" One bigger model, {big['name']}, reaches {percent(big['accuracy']['value'], rows)}."
    return text


def _chosen(plan: Json) -> str:
    chosen = plan.get("chosen")
    judged = f"All points are from the {count(number(plan.get('judged_on', 0)))} rows that chose nothing in the plan."
    if not chosen:
        return judged
    return (
        f"The plan chose {', '.join(chosen['members'])}: right on {percent(number(chosen['accuracy']))} in "
        f"{seconds(number(chosen['seconds_per_1000']))}. {judged}"
    )


def promise(document: Json) -> str:
    kept, rows = document["promise"], document["rows"]
    split = ", or fewer where wrong votes split" if len(document["ensemble"]["labels"]) > 2 else ""
    text = (
        f"If the members erred independently, a majority vote would err on {percent(kept['independent_error']['value'], rows)} "
        f"of rows{split}; it errs on {percent(kept['measured_error']['value'], rows)}."
    )
    if kept["mean_correlation"]:
        text += (
            f" Their errors go together (mean correlation {kept['mean_correlation']['value']:.2f}); equally good members with "
            f"that correlation would reach {percent(kept['correlated_error'], rows)}."
        )
    if kept["bracket"]:
        low, high = kept["bracket"]
        text += f" Whatever the dependence, {percent(low, rows)} to {percent(high, rows)} was possible."
    if kept["efficiency"]:
        text += f" {_efficiency(kept['efficiency'])}"
    return text


def _efficiency(efficiency: Json) -> str:
    low, high = (f"{100 * (efficiency[end] or 0):.0f}" for end in ("low", "high"))
    return (
        f"Of the gain over the best member that independence promises, {100 * efficiency['value']:.0f}% came true "
        f"(95% interval {low} to {high}%)."
    )


def diversity(document: Json) -> str:
    found = document["diversity"]
    if not found["pairs"]:
        return "There is one member only, and nothing to compare it with."
    text = _one_pair(found) if len(found["pairs"]) == 1 else _pairs(found)
    worth = found["effective_votes"]["value"]
    votes = f"{worth:.1f}" if worth is not None else "more than any number of"
    return (
        f"{text} The disagreement-error ratio is {found['der']['value']:.2f} (votes tend to help much above 1, little below); "
        f"the {len(document['members'])} votes are worth {votes} independent ones."
    )


def _one_pair(found: Json) -> str:
    (pair,) = found["pairs"]
    twins = "They are twins: they err in step." if found["twins"] else ""
    return f"The errors of {pair['a']} and {pair['b']} correlate {pair['correlation']['value']:.2f}. {twins}".strip()


def _pairs(found: Json) -> str:
    alike = max(found["pairs"], key=lambda pair: pair["correlation"]["value"])
    unlike = min(found["pairs"], key=lambda pair: pair["correlation"]["value"])
    twins = (
        "Twins, that err in step: " + "; ".join(f"{a} and {b}" for a, b in found["twins"]) + "."
        if found["twins"]
        else "No pair errs so much more alike than the others that they are twins."
    )
    return (
        f"{alike['a']} and {alike['b']} err together the most (correlation {alike['correlation']['value']:.2f}), "
        f"{unlike['a']} and {unlike['b']} the least ({unlike['correlation']['value']:.2f}). {twins}"
    )


def errors(document: Json) -> str:
    found, rows = document["errors"], document["rows"]
    parts = {name: found[name]["value"] for name in ("all_wrong", "wrong_majority", "lost_ties")}
    total = sum(parts.values())
    if not total:
        return "The majority vote makes no error on these rows."
    return (
        f"The majority vote errs on {percent(total, rows)} of rows: on {percent(parts['all_wrong'], rows)} no member is right, "
        f"on {percent(parts['wrong_majority'], rows)} a right member is outvoted, on {percent(parts['lost_ties'], rows)} a tie is lost. "
        f"No vote for a member's answer can err on fewer than {percent(found['no_member_right']['value'], rows)}."
    )


def calibration(document: Json) -> str:
    mine = served(document)
    before, after = mine["ece"]["value"], mine["calibrated"]["ece"]["value"]
    sharper = "sharpened" if mine["temperature"] < 1 else "softened" if mine["temperature"] > 1 else "unchanged"
    return (
        f"The pooled probabilities are off by {percent(before)} on average, {percent(after)} after a temperature of "
        f"{mine['temperature']:.2f} ({sharper}), fitted on the other half of the rows each time."
    )


def selective(document: Json) -> str:
    curve = document["selective"]["ensemble"]
    place = next(
        (place for place, coverage in enumerate(curve["coverage"]) if coverage >= 0.8), len(curve["coverage"]) - 1
    )
    return (
        f"Answering only the {percent(curve['coverage'][place])} of rows with a margin of at least "
        f"{curve['threshold'][place]:.2f}, the vote is right on {percent(curve['accuracy'][place], document['rows'])} of them."
    )


def marginal(document: Json) -> str:
    found = document["marginal"]
    if not found:
        return "There is one member only."
    needed = [each["member"] for each in found if (each["accuracy_lost"]["low"] or 0) > 0]
    harmful = [each["member"] for each in found if (each["accuracy_lost"]["high"] or 0) < 0]
    dearest = max(found, key=lambda each: each["seconds_saved_per_1000"]["value"])
    total = served(document)["seconds_per_1000"]["value"]
    text = f"Without {_any_of(needed)} the vote is measurably worse. " if needed else ""
    text += f"Without {_any_of(harmful)} it is measurably better. " if harmful else ""
    text = text or "No single member is missed: leaving out any one changes accuracy by no more than chance may. "
    share = dearest["seconds_saved_per_1000"]["value"] / total
    return f"{text}{dearest['member']} takes the most time, {share:.0%} of all, and is worth {points(dearest['accuracy_lost'])}."


def _any_of(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def hopeless(document: Json) -> str:
    found = document["errors"]["no_member_right"]
    total, shown = round(found["value"] * found["n"]), len(document["samples"])
    if not total:
        return "On every row at least one member is right."
    these = f"the {shown} on which the members are surest" if shown < total else "surest first"
    return f"On {count(total)} of {count(found['n'])} rows no member is right, so no vote among them can be; {these}:"


def measured(document: Json) -> str:
    how = document["measured"]
    devices = ", ".join(sorted(set(how["devices"].values())))
    return (
        f"Times are those of the members' runs alone, one member after the other on one thread in batches of {how['batch_rows']} rows "
        f"on {how['machine']} ({devices}); each member used the threads its `run_on` grants. Costs are times at "
        f"{how['price_per_hour_usd']:g} USD an hour and device. Intervals are 95%."
    )
