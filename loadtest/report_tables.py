"""The tables of the HTML report."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from loadtest.records import FULL, MEMBER, Json, RunRecord
from loadtest.standing import QUANTILES
from loadtest.wording import LOTS, Show, amount, count, lot, percent, rate, signed, span, usd


def rows_lot(document: Json) -> int:
    """For how many rows costs are told, so that they can be read."""
    costs = [arm["cost_usd_per_1000"]["value"] for arm in document["arms"] if arm["cost_usd_per_1000"]]
    return lot(min(costs, default=0.0) / 1000, 1000)


def right_lot(document: Json) -> int:
    """The same of more right answers."""
    prices = [each["cost_usd_of_one_more_right"] for each in document["verdict"]["policies"]]
    return lot(min((price["value"] for price in prices if price), default=0.0), 1000)


def policies(document: Json) -> str:
    """What each policy gives, and what it takes."""
    worth = {each["policy"]: each for each in document["verdict"]["policies"]}
    best = next((each["against"] for each in worth.values()), "the best member")
    rows, right = LOTS[rows_lot(document)], LOTS[right_lot(document)]
    gives = ["", "right", "agrees with full", f"gain over {best.removeprefix(MEMBER)}, points", f"USD for {rows} rows"]
    gives += [f"USD for {rows} right answers", f"USD for {right} more right answers"]
    takes = ["", "p50", "p99", "p99.9", "rows/s", "good rows/s", "failed or unanswered", "a member missing"]
    given = [_gives(document, arm, worth.get(arm["policy"])) for arm in document["arms"]]
    return table("Accuracy and cost, with 95% intervals", gives, given) + table(
        "Latency and throughput, with 95% intervals", takes, [_takes(arm) for arm in document["arms"]]
    )


def _gives(document: Json, arm: Json, worth: Json | None) -> list[str]:
    thousands = rows_lot(document) / 1000
    price = worth["cost_usd_of_one_more_right"] if worth else None
    return [
        key(arm["policy"]) + escape(arm["policy"]),
        _share(arm["accuracy"]),
        _share(arm["agreement_with_full"]),
        estimate(worth["gain"] if worth else None, lambda value: signed(100 * value, 1)),
        estimate(times(arm["cost_usd_per_1000"], thousands), dollars),
        estimate(times(arm["cost_usd_per_1000_right"], thousands), dollars),
        estimate(times(price, right_lot(document)), dollars),
    ]


def dollars(value: float) -> str:
    """Where the unit stands in the head of the column."""
    return usd(value).removesuffix(" USD")


def _takes(arm: Json) -> list[str]:
    quantiles = arm["latency_intervals_seconds"]
    return [
        key(arm["policy"]) + escape(arm["policy"]),
        *(estimate(quantiles.get(name), amount) for name in ("p50", "p99", "p99_9")),
        _plain(arm["rows_per_second"], rate),
        _plain(arm["goodput_per_second"], rate),
        _share(arm["error_rate"], 3),
        _share(arm["partial_rate"], 3),
    ]


def key(policy: str) -> str:
    """The colour in which the pictures show a policy."""
    role = "ensemble" if policy == FULL else "member" if policy.startswith(MEMBER) else "front"
    return f'<span class="key" style="background:var(--{role})"></span>'


def objectives(document: Json) -> str:
    """A row for each policy, a column for each objective."""
    names = [each["slo"] for each in document["arms"][0]["slos"]]
    rows = [
        [key(arm["policy"]) + escape(arm["policy"]), *(f"{_met(each)} {_found(each)}" for each in arm["slos"])]
        for arm in document["arms"]
    ]
    return table("", ["", *names], rows)


def _met(each: Json) -> str:
    """In words, as colours alone do not reach everybody."""
    word = ("met" if each["met"] else "missed") + ("" if each["sure"] else ", perhaps by chance")
    return f'<span class="{"met" if each["met"] else "missed"}">{word}</span><br>'


def _found(each: Json) -> str:
    name = each["slo"].split("<")[0].split(">")[0].strip()
    if each["found"] is None:
        return "not measured"
    if each["found"]["value"] is None:
        return "too many failed"
    if name.startswith("cost"):
        return estimate(each["found"], usd)
    if name.endswith("per_second"):
        return estimate(each["found"], rate)
    if name in {"error_rate", "accuracy", "agreement", "partial_rate"}:
        return _share(each["found"], 3 if name.endswith("rate") else 1)
    return estimate(each["found"], amount)


def numbers(document: Json) -> str:
    """Every quantile of every kind of duration."""
    levels = [*QUANTILES, "max"]
    rows = []
    for arm in document["arms"]:
        intervals = arm["latency_intervals_seconds"]
        cells = [estimate(intervals[name], amount) if name in intervals else "–" for name in QUANTILES]
        rows.append(
            [key(arm["policy"]) + escape(arm["policy"]), "latency", *cells, amount(arm["latency_seconds"]["max"])]
        )
        durations = {"from sending": arm["service_seconds"], "sent late by": arm["lateness_seconds"]}
        durations |= {f"until {code}": found for code, found in arm["failure_seconds"].items()}
        for called, found in durations.items():
            if found["max"] is not None:
                rows.append(["", escape(called), *(amount(found[level]) for level in levels)])
    head = ["", "", *(level.replace("_", ".") for level in levels)]
    counts = [
        [key(arm["policy"]) + escape(arm["policy"]), *(count(arm[name]) for name in ("requests", "answered", "rows", "partial", "degraded", "censored")),
         escape(", ".join(f"{code} {count(number)}" for code, number in arm["errors"].items()) or "none"),
         estimate(arm["device_seconds_per_1000"], amount)]
        for arm in document["arms"]
    ]  # fmt: skip
    heads = [
        "",
        "requests",
        "answered",
        "rows",
        "a member missing",
        "degraded",
        "no answer",
        "errors",
        "device time of 1,000 rows",
    ]
    return table("Durations, with 95% intervals of latency", head, rows) + table("Counts", heads, counts)


REQUEST = re.compile(r"ensemble_request_seconds\{(?P<labels>.*)\}")
LABEL = re.compile(r'(\w+)="([^"]*)"')


def server(run: RunRecord, document: Json) -> str:
    """Latency as the server saw it beside ours, and below all series that grew."""
    rows = [[f"<code>{escape(name)}</code>", f"{value:,.6g}"] for name, value in sorted(run.server.items())]
    series = table("", ["", "in the span"], rows)
    return f"{_beside(run, document)}<details><summary>All {count(len(rows))} series that grew, the warm-up included</summary>{series}</details>"


def _beside(run: RunRecord, document: Json) -> str:
    theirs = _seen_by_server(run)
    if not theirs:
        return ""
    head = ["", "p50, from sending", "p50, by the server", "p99, from sending", "p99, by the server"]
    rows = [
        [
            key(arm["policy"]) + escape(arm["policy"]),
            *(
                amount(value)
                for name, q in (("p50", "0.5"), ("p99", "0.99"))
                for value in (arm["service_seconds"][name], theirs.get((arm["policy"], q)))
            ),
        ]
        for arm in document["arms"]
    ]
    return table(
        "Between ours and the server's lie the wire and what waits at its door; the server's are read from buckets",
        head,
        rows,
    )


def _seen_by_server(run: RunRecord) -> dict[tuple[str, str], float]:
    """By policy and quantile, in seconds."""
    found = {}
    for name, value in run.server.items():
        series = REQUEST.fullmatch(name)
        labels = dict(LABEL.findall(series["labels"])) if series else {}
        if {"policy", "quantile"} <= labels.keys():
            found[labels["policy"], labels["quantile"]] = value
    return found


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already; columns and the caption are text. A column that says nothing of anybody is left out."""
    columns, rows = told(columns, rows)
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption or "table")}"><table>{title}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def told(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns of dashes."""
    found = list(rows)
    kept = [place for place in range(len(columns)) if not place or any(row[place] != "–" for row in found)]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in found]


def times(of: Json | None, n: float) -> Json | None:
    """Of so many of what an estimate is for."""
    if of is None:
        return None
    return {name: value if name == "n" or value is None else n * value for name, value in of.items()}


def estimate(of: Json | None, show: Show) -> str:
    """The value, and its interval below; an end without bound says so."""
    if of is None or of["value"] is None:
        return "–"
    return f"{escape(show(of['value']))}<br><small>{escape(span(of['low'], of['high'], show))}</small>"


def _share(of: Json | None, digits: int = 1) -> str:
    return estimate(of, lambda value: percent(value) if digits == 1 else f"{100 * value:.{digits}g}%")


def _plain(value: float | None, show: Show) -> str:
    return "–" if value is None else show(value)
