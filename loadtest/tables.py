"""A run in the terminal, from its document alone."""

from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loadtest import sentences
from loadtest.comparison import Change, Kind
from loadtest.records import Json, RunRecord
from loadtest.report_tables import dollars, right_lot, rows_lot, times, told
from loadtest.wording import LOTS, amount, change, percent, rate, signed, usd, without_unit

WIDTH = 120
"""Where the output is no terminal."""


def console() -> Console:
    """To the standard output; as wide as the terminal, and plain and of one width where it is none."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def tables(run: RunRecord, document: Json) -> RenderableType:
    """All that fits a terminal, the verdict last, where the eye is."""
    return Group(*_parts(run, document))


def _parts(run: RunRecord, document: Json) -> Iterator[RenderableType]:
    yield _latencies(document)
    yield _answers(document)
    for each in document["verdict"]["policies"]:
        yield Padding(Text(each["text"]), (0, 0, 1, 0))
    yield Text(sentences.outcomes(document))
    yield Text(sentences.generator(run))
    if sentences.closed(run):
        yield Text(sentences.closed(run), style="yellow")
    yield from _objectives(document)
    if run.stopped:
        yield Text(f"Cut short: {run.stopped}", style="yellow")
    for reason in document["invalid_because"]:
        yield Text(f"INVALID: {reason}", style="bold red")
    if len(document["verdict"]["policies"]) != 1:
        yield Text(document["verdict"]["text"], style="bold")


def _table(columns: Sequence[str], caption: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption=caption, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _latencies(document: Json) -> Table:
    """What it takes."""
    caption = "latency from the planned instant; brackets: 95% intervals; late: p99 of the generator's own lateness"
    heads = ["", "p50", "p95", "p99", "p99.9", "max", "service p99", "late", "rows/s", "good/s", "failed"]
    table = _table(heads, caption)
    for arm in document["arms"]:
        found, intervals = arm["latency_seconds"], arm["latency_intervals_seconds"]
        p99 = interval(intervals.get("p99"), amount)
        table.add_row(
            arm["policy"],
            *(amount(found[name]) for name in ("p50", "p95")),
            p99,
            *(amount(found[name]) for name in ("p99_9", "max")),
            amount(arm["service_seconds"]["p99"]),
            amount(arm["lateness_seconds"]["p99"]),
            *(rate(arm[name]) if arm[name] is not None else "–" for name in ("rows_per_second", "goodput_per_second")),
            percent(arm["error_rate"]["value"]) if arm["error_rate"] else "–",
        )
    return table


def _answers(document: Json) -> Table:
    """What it gives, and at what cost."""
    worth = {each["policy"]: each for each in document["verdict"]["policies"]}
    best = next((each["against"] for each in worth.values()), None)
    gain = f"gain in points over {best} on the same rows; " if best else ""
    caption = f"{gain}brackets: 95% intervals"
    rows, right = rows_lot(document), right_lot(document)
    costs = [f"USD for {LOTS[rows]} rows", f"for {LOTS[rows]} right", "gain", f"for {LOTS[right]} more right"]
    rows_of = [
        [
            arm["policy"],
            interval(arm["accuracy"], percent),
            interval(arm["agreement_with_full"], percent),
            *(_usd(times(arm[name], rows / 1000)) for name in ("cost_usd_per_1000", "cost_usd_per_1000_right")),
            interval(worth[arm["policy"]]["gain"] if arm["policy"] in worth else None, _points),
            _usd(times(_price(worth.get(arm["policy"])), right), with_interval=True),
        ]
        for arm in document["arms"]
    ]
    columns, kept = told(["", "right", "like full", *costs], rows_of)
    table = _table(columns, caption)
    for row in kept:
        table.add_row(*row)
    return table


def _points(gain: float) -> str:
    return signed(100 * gain, 1)


def _price(worth: Json | None) -> Json | None:
    return worth["cost_usd_of_one_more_right"] if worth else None


def _usd(of: Json | None, *, with_interval: bool = False) -> str:
    if of is None or of["value"] is None:
        return "–"
    return interval(of, dollars) if with_interval else dollars(of["value"])


def interval(of: Json | None, show: Callable[[float], str]) -> str:
    """`22.2 ms [18.6, 26.2]`, the unit once where it is the same."""
    if of is None or of["value"] is None:
        return "–"
    value = show(of["value"])
    ends = [without_unit(show(of[end]), value) if of[end] is not None else "?" for end in ("low", "high")]
    return f"{value} [{', '.join(ends)}]"


def _objectives(document: Json) -> Iterator[Text]:
    for arm in document["arms"]:
        for each in arm["slos"]:
            word = ("met" if each["met"] else "MISSED") + ("" if each["sure"] else ", perhaps by chance")
            yield Text(f"{arm['policy']}: {each['slo']} {word}", style="green" if each["met"] else "bold red")


def changes(found: Sequence[Change]) -> Table:
    """A comparison."""
    table = _table(["", "", "before", "after", "change", ""], "95% intervals that hold for all changes together")
    last = ""
    for each in found:
        word, style = ("worse", "bold red") if each.worse else ("better", "green") if each.better else ("", "")
        shown = _shower(each)
        table.add_row(
            each.policy if each.policy != last else "",
            each.measure.name,
            shown(each.before.value),
            shown(each.after.value),
            _changed(each),
            Text(word, style=style),
        )
        last = each.policy
    return table


def _shower(of: Change) -> Callable[[float], str]:
    return {"s": amount, "/s": rate, "USD": usd, "share": lambda value: f"{100 * value:.4g}%"}[of.measure.unit]


def _changed(of: Change) -> str:
    if of.measure.kind is Kind.RELATIVE:
        return f"{change(of.change.value)} [{change(of.change.low)}, {change(of.change.high)}]"
    value, low, high = (signed(100 * each, 2) for each in (of.change.value, of.change.low, of.change.high))
    return f"{value} points [{low}, {high}]"
