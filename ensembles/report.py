"""`report.html`: one page with pictures that needs nothing else, made from `evaluation.json` (and `plan.json`) alone."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ensembles import document, verdict
from ensembles.verdict import RULES, Json
from ensembles.wording import one_line

FILE = "report.html"
PLAN = "plan.json"
STYLE = Path(__file__).with_name("report.css")
PICTURE = re.compile(r'(?P<head><svg id="(?P<name>[a-z]+)"[^>]*>)(?P<body>.*?</svg>)', re.DOTALL)

Cells = Sequence[str]


class ReportError(ValueError):
    """The report cannot be made. One line."""


def check_drawable() -> None:
    """Raises ReportError where pictures cannot be drawn, before anything is computed for them."""
    try:
        import matplotlib as _  # noqa: F401, ICN001  an extra, which only reports need
    except ImportError:
        raise ReportError(
            "no matplotlib is installed, expected it for the report: pip install 'scrutin[report]'"
        ) from None


def redraw(folder: Path) -> Path:
    """Write `report.html` from the JSON files in the folder; returns its path. Raises ReportError or DocumentError."""
    check_drawable()
    evaluation = document.read(folder)
    plan = document.read(folder, PLAN) if (folder / PLAN).exists() else None
    if plan and plan.get("data", {}).get("digest") != evaluation.get("data", {}).get("digest"):
        plan = None  # of other data: its figures would stand beside those of other rows
    try:
        content = page(evaluation, plan)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        StopIteration,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ReportError(
            f"{folder / document.FILE}: expected all that `ensembles evaluate` writes, found {type(error).__name__} {one_line(error)}"
        ) from error
    document.write(folder / FILE, content)
    return folder / FILE


def apart(folder: Path) -> list[Path]:
    """Write each picture of the folder's `report.html` as an SVG file beside it; returns their paths. Raises DocumentError."""
    colours = STYLE.read_text().partition("\n* {")[0]
    style = f"<style>{colours} svg {{ background: var(--surface); font-family: system-ui, sans-serif; }}</style>"
    files = []
    for found in PICTURE.finditer((folder / FILE).read_text()):
        files.append(folder / f"{found['name']}.svg")
        document.write(files[-1], found["head"] + style + found["body"] + "\n")
    return files


def page(evaluation: Json, plan: Json | None = None) -> str:
    """The HTML of the report. The same content gives the same text."""
    from ensembles import plots  # imports matplotlib, which is an extra

    name = escape(evaluation["ensemble"]["name"])
    body = [
        _header(evaluation),
        _tiles(evaluation),
        _section("accuracy", "Who is right how often", verdict.accuracy(evaluation), plots.accuracy(evaluation)),
        _section("plane", "What accuracy costs", verdict.plane(evaluation, plan), plots.plane(evaluation, plan)),
        _section(
            "promise",
            "What independence promised, and what came true",
            verdict.promise(evaluation),
            plots.promise(evaluation),
        ),
    ]
    if evaluation["diversity"]["pairs"]:
        body += [
            _section("diversity", "Who errs with whom", verdict.diversity(evaluation), plots.diversity(evaluation)),
            _section("marginal", "What each member is worth", verdict.marginal(evaluation), plots.marginal(evaluation)),
        ]
    body += [
        _section("errors", "Where the errors come from", verdict.errors(evaluation), plots.errors(evaluation)),
        _gallery(evaluation),
        _section(
            "reliability",
            "What the probabilities are worth",
            verdict.calibration(evaluation),
            plots.reliability(evaluation),
        ),
        _section("selective", "Abstaining when unsure", verdict.selective(evaluation), plots.selective(evaluation)),
        _tables(evaluation),
        f"<footer><p>{escape(verdict.measured(evaluation))}</p>{_data(evaluation)}</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{name}: is the ensemble worth it?</title><style>{STYLE.read_text()}</style></head>\n"
        f"<body><main>{chr(10).join(body)}</main></body></html>\n"
    )


def _header(evaluation: Json) -> str:
    ensemble = evaluation["ensemble"]
    return (
        f'<header><p class="eyebrow">{escape(ensemble["name"])} version {escape(str(ensemble["version"]))} on '
        f"{escape(evaluation['data']['name'])}, {verdict.count(evaluation['rows'])} rows</p>"
        f"<h1>{escape(verdict.headline(evaluation))}</h1><p>{escape(verdict.evidence(evaluation))}</p></header>"
    )


def _tiles(evaluation: Json) -> str:
    served, best, rows = verdict.served(evaluation), verdict.best(evaluation), evaluation["rows"]
    efficiency = evaluation["promise"]["efficiency"]
    tiles = [
        ("the vote", verdict.percent(served["accuracy"]["value"], rows), RULES[served["rule"]]),
        ("best member", verdict.percent(best["accuracy"]["value"], rows), best["name"]),
        (
            "of the promised gain",
            f"{efficiency['value']:.0%}" if efficiency else "–",
            "came true, against independence",
        ),
        (
            "for 1,000 rows",
            verdict.seconds(served["seconds_per_1000"]["value"]),
            verdict.dollars(served["cost_usd_per_1000"]["value"]),
        ),
    ]
    cells = (
        f'<div class="tile"><dt>{escape(what)}</dt><dd>{escape(value)}</dd><dd class="note">{escape(note)}</dd></div>'
        for what, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


READING = {
    "accuracy": "Points are measured, lines their intervals; right of the dashed line is better than the best member.",
    "plane": "Above and to the left is better; on the front of a plan lies what nothing else beats in both.",
    "promise": "The nearer the measured vote comes to the independent promise, the less the members err together.",
    "diversity": "Pale squares are pairs that complement each other; a red frame marks twins.",
    "marginal": "A member far left is not missed; a long bar on the right says what it would save to leave it out.",
    "errors": "Outvoted members and lost ties can be mended by weights or another rule, the rest by better members alone.",
    "reliability": "Points on the dashed diagonal are honest, those above it too modest, those below too sure.",
    "selective": "The higher curve knows better when it may be wrong.",
}
"""How to read each picture."""


def _section(name: str, title: str, sentence: str, picture: str) -> str:
    return (
        f'<section aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>'
        f'<figure class="plot">{picture}<figcaption>{escape(sentence)} <em>{escape(READING[name])}</em></figcaption></figure></section>'
    )


def _gallery(evaluation: Json) -> str:
    names = [member["name"] for member in evaluation["members"]]
    cards = "".join(_card(sample, names) for sample in evaluation["samples"])
    return (
        '<section aria-labelledby="hopeless-title"><h2 id="hopeless-title">What no vote can save</h2>'
        f'<p>{escape(verdict.hopeless(evaluation))}</p><ul class="gallery">{cards}</ul></section>'
    )


def _card(sample: Json, names: Sequence[str]) -> str:
    votes = "".join(
        f"<li><span>{escape(name)}</span> <b>{escape(vote)}</b> <small>{probability:.0%}</small></li>"
        for name, vote, probability in zip(names, sample["votes"], sample["probabilities"], strict=True)
    )
    picture = sample["picture"]
    shown = (
        f'<img src="{escape(picture)}" alt="{escape(sample["name"])}, labelled {escape(sample["label"])}">'
        if isinstance(picture, str) and picture.startswith("data:image/png;base64,")
        else ""
    )
    return (
        f'<li class="card">{shown}<p>truly <b>{escape(sample["label"])}</b></p><ul>{votes}</ul>'
        f"<p><small>{escape(sample['name'])}</small></p></li>"
    )


COLUMNS = (
    "",
    "accuracy",
    "NLL",
    "NLL after temperature",
    "Brier",
    "Brier after",
    "ECE",
    "ECE after",
    "temperature",
    "time, 1,000 rows",
    "cost, 1,000 rows",
)


def _tables(evaluation: Json) -> str:
    rows = [
        *((RULES[each["rule"]], each) for each in evaluation["ensembles"]),
        *((each["name"], each) for each in evaluation["members"]),
    ]
    standings = _table("Members and rules, with 95% intervals", COLUMNS, (_standing(name, each) for name, each in rows))
    pairs = _table(
        "Pairs of members, with 95% intervals",
        ("", "disagreement", "double fault", "Q", "kappa", "correlation of errors"),
        (_pair(pair) for pair in evaluation["diversity"]["pairs"]),
    )
    return (
        '<section aria-labelledby="numbers-title"><h2 id="numbers-title">All numbers</h2>'
        f"{standings}{pairs if evaluation['diversity']['pairs'] else ''}</section>"
    )


def _standing(name: str, each: Json) -> Cells:
    after = each["calibrated"]
    return (
        name,
        _share(each["accuracy"]),
        _number(each["nll"]),
        _number(after["nll"]),
        _number(each["brier"]),
        _number(after["brier"]),
        _share(each["ece"]),
        _share(after["ece"]),
        f"{each['temperature']:.2f}",
        _with_interval(each["seconds_per_1000"], verdict.seconds),
        _with_interval(each["cost_usd_per_1000"], verdict.dollars),
    )


def _pair(pair: Json) -> Cells:
    numbers = [_number(pair[measure]) for measure in ("q", "kappa", "correlation")]
    return (f"{pair['a']}, {pair['b']}", _share(pair["disagreement"]), _share(pair["double_fault"]), *numbers)


def _share(estimate: Json) -> str:
    return _with_interval(estimate, lambda value: verdict.percent(value, estimate["n"]))


def _number(estimate: Json) -> str:
    return _with_interval(estimate, lambda value: "unknown" if value is None else f"{value:.3f}")


def _with_interval(estimate: Json, shown: Any) -> str:
    return f"{shown(estimate['value'])} ({shown(estimate['low'])} to {shown(estimate['high'])})"


def _table(caption: str, columns: Cells, rows: Iterable[Cells]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    value, bracket, interval = escape(text).partition(" (")
    return f"{value}<br><small>{interval.removesuffix(')')}</small>" if bracket else value


def _data(evaluation: Json) -> str:
    data, ensemble = evaluation["data"], evaluation["ensemble"]
    skipped = f" {data['unreadable']} images could not be read and were left out." if data["unreadable"] else ""
    return (
        f"<p>{escape(skipped)} Repository <code>{escape(ensemble['digest'][:16])}</code>, "
        f"data <code>{escape(data['digest'][:16])}</code>.</p>"
    )
