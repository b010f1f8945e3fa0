"""`report.html`: one page that needs nothing else, made from a run and its document alone."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path

from loadtest import report_tables, sentences
from loadtest.records import Json, RunRecord
from loadtest.wording import LOTS, lot, rate, seconds, signed, span, usd

FILE = "report.html"


class ReportError(ValueError):
    """The report cannot be made. One line."""


def check_drawable() -> None:
    """Raises ReportError where pictures cannot be drawn."""
    try:
        import matplotlib as _  # noqa: F401, ICN001  an extra, which only reports need
    except ImportError:
        raise ReportError(
            "no matplotlib is installed, expected it for the report: pip install 'scrutin[report]'"
        ) from None


def page(run: RunRecord, document: Json) -> str:
    """The HTML of the report. The same run gives the same text. Raises ReportError without matplotlib."""
    check_drawable()
    title = f"{run.ensemble.get('name') or run.target} under load"
    style = (files("ensembles") / "report.css").read_text() + Path(__file__).with_name("report.css").read_text()
    body = [each for each in _body(run, document) if each]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><main>{chr(10).join(body)}</main></body></html>\n"
    )


def _body(run: RunRecord, document: Json) -> Iterable[str]:
    from loadtest import plots  # imports matplotlib, which is an extra

    yield _header(run, document)
    yield _alarm(run, document)
    yield _tiles(run, document)
    yield _objectives(document)
    yield _text("Policies side by side", report_tables.policies(document) + _verdicts(document))
    if any(arm["answered"] for arm in document["arms"]):
        said = sentences.plane(document)
        yield _picture("plane", "What accuracy costs", said, plots.plane(run, document, said))
        said = sentences.latency(document)
        yield _picture("spectrum", "How long requests took", said, plots.spectrum(run, said))
        said = sentences.moments(run)
        yield _picture("timeline", "Latency over time", said, plots.timeline(run, said))
    if any(arm.timeline for arm in run.arms):
        said = sentences.outcomes(document)
        yield _picture("throughput", "What was due, and what was answered", said, plots.throughput(run, said))
        said = sentences.failures(document)
        yield _picture("errors", "What went wrong", said, plots.errors(run, document))
    yield _text("All numbers", report_tables.numbers(document))
    if run.server:
        yield _text("What the server's own metrics say of the same span", report_tables.server(run, document))
    yield _footer(run)


def _header(run: RunRecord, document: Json) -> str:
    named = f"{run.ensemble['name']} version {run.ensemble.get('version', '?')}, " if run.ensemble.get("name") else ""
    when = datetime.fromtimestamp(run.started_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f'<header><p class="eyebrow">{escape(named + run.target)}<br>{escape(sentences.load(run))}, {when}</p>'
        f"<h1>{escape(document['verdict']['text'])}</h1></header>"
    )


def _alarm(run: RunRecord, document: Json) -> str:
    """What must be read before any number."""
    told = [*document["invalid_because"], *([f"the run was cut short: {run.stopped}"] if run.stopped else [])]
    told += [sentences.closed(run)] if run.plan.rate is None else []
    if not told:
        return ""
    title = "This run is INVALID" if document["invalid_because"] else "Mind"
    items = "".join(f"<li>{escape(each[0].upper() + each[1:])}</li>" for each in told)
    alarm = "alarm" if document["invalid_because"] or run.stopped else ""
    return f'<section class="{alarm}"><h2>{title}</h2><ul class="plain">{items}</ul></section>'


def _tiles(run: RunRecord, document: Json) -> str:
    cells = (
        f'<div class="tile"><dt>{escape(what)}</dt><dd>{escape(value)}</dd><dd class="note">{escape(note)}</dd></div>'
        for what, value, note in _highlights(run, document)
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _highlights(run: RunRecord, document: Json) -> Iterable[tuple[str, str, str]]:
    verdict = document["verdict"]
    gain, price = verdict.get("gain"), verdict.get("cost_usd_of_one_more_right")
    if gain:
        ends = span(100 * gain["low"], 100 * gain["high"], lambda value: signed(value, 1))
        named = f"{verdict['policy']} right more often than {verdict['against']}"
        yield named, f"{signed(100 * gain['value'], 1)} points", ends
    if gain and price and gain["value"] > 0:
        n = lot(price["value"])
        low, high = (None if price[end] is None else n * price[end] for end in ("low", "high"))
        yield f"for {LOTS[n]} more right answer{'s' * (n > 1)}", usd(n * price["value"]), span(low, high, usd)
    answered, requests = (sum(arm[name] for arm in document["arms"]) for name in ("answered", "requests"))
    per_second = rate(answered / run.seconds) if run.seconds else "–"
    yield "requests answered, all policies", per_second, f"{answered:,} of {requests:,} requests"
    late = max((arm["lateness_seconds"]["p99"] or 0.0 for arm in document["arms"]), default=0.0)
    valid = "valid" if document["valid"] else "INVALID"
    yield "run", valid, f"generator late by {seconds(late)} at p99, {run.generator.busiest:.0%} of a core"


def _objectives(document: Json) -> str:
    if not document["slos"]:
        return ""
    return _text("Objectives", f"<p>{escape(sentences.objectives(document))}</p>{report_tables.objectives(document)}")


def _verdicts(document: Json) -> str:
    """A sentence for each policy, where there is more than one."""
    found: Sequence[Json] = document["verdict"]["policies"]
    return "".join(f'<p class="said">{escape(each["text"])}</p>' for each in found) if len(found) > 1 else ""


def _text(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


READING = {
    "plane": "Above and to the left is better; the marks are the same on both sides. Lines are 95% intervals.",
    "spectrum": "The further right, the rarer; a step up far to the right is what the unluckiest requests met.",
    "timeline": "Each request counts where it was planned, so a stall shows from its beginning to its end.",
    "throughput": "Answers below what is due mean a backlog; answers above it, that the backlog is worked off.",
    "errors": "",
}
"""How to read each picture."""


def _picture(name: str, title: str, sentence: str, picture: str) -> str:
    if not picture:
        return ""
    return (
        f'<section aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>'
        f'<figure class="plot">{picture}<figcaption>{escape(sentence)} <em>{escape(READING[name])}</em></figcaption></figure></section>'
    )


MEASURED = (
    "Latency counts from the instant for which a request was planned, not from when it was sent; requests without an answer count "
    "with their age. Intervals are 95%: of latencies and costs from blocks of time, as neighbouring requests are not independent; "
    "of accuracy from the data's rows, as asking a row again tells nothing new."
)


def _footer(run: RunRecord) -> str:
    origins = [
        f"seed {run.seed}",
        f"schedule {run.schedule_sha256[:16] or 'none'}",
        f"{run.plan.connections} connections, {run.plan.workers} workers",
        *([f"shards {len(run.shards)} of {run.of_shards}"] if run.of_shards > 1 else []),
        *([f"on {', '.join(run.generator.machines)}"] if run.generator.machines else []),
        *([f"data {run.data}"] if run.data else []),
        *([f"ensemble {str(run.ensemble['digest'])[:16]}"] if run.ensemble.get("digest") else []),
    ]
    facts = (MEASURED, f"{sentences.generator(run)} This run: {'; '.join(origins)}.")
    return f"<footer>{''.join(f'<p>{escape(fact)}</p>' for fact in facts)}</footer>"
