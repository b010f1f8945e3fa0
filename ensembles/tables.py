"""An evaluation in the terminal, from the content of `evaluation.json` alone."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ensembles import verdict
from ensembles.verdict import RULES, Json

MOST_PAIRS = 10
WIDTH = 120
"""Where the output is no terminal."""


def console() -> Console:
    """To the standard output; as wide as the terminal, and plain and of one width where it is none."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def tables(evaluation: Json) -> RenderableType:
    """All that fits a terminal, the verdict last, where the eye is."""
    return Group(*_parts(evaluation))


def _parts(evaluation: Json) -> Iterator[RenderableType]:
    yield _standings(evaluation)
    yield _said(verdict.accuracy(evaluation))
    yield _calibrations(evaluation)
    yield _said(verdict.calibration(evaluation))
    if evaluation["diversity"]["pairs"]:
        yield _pairs(evaluation)
        yield _said(verdict.diversity(evaluation))
        yield _marginal(evaluation)
        yield _said(verdict.marginal(evaluation))
    yield _said(verdict.promise(evaluation), verdict.errors(evaluation), verdict.selective(evaluation))
    yield _said(verdict.measured(evaluation))
    yield Text(verdict.headline(evaluation), style="bold")
    yield Text(verdict.evidence(evaluation))


def _said(*sentences: str) -> RenderableType:
    return Padding(Text("\n".join(sentences)), (0, 0, 1, 0))


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _standings(evaluation: Json) -> Table:
    """Accuracy and what it costs."""
    served = evaluation["ensemble"]["rule"]
    table = _table(
        ["", "accuracy", f"more than {evaluation['gain']['best_member']}", "p", "time / 1,000", "USD / 1,000"]
    )
    for each in evaluation["members"]:
        table.add_row(each["name"], share_right(each), "", "", *time_and_cost(each))
    table.add_section()
    for each in evaluation["ensembles"]:
        gain = [_interval(each["gain"]["over_best_member"], 100, 1), f"{each['gain']['mcnemar_p']:.2g}"]
        mine = each["rule"] == served
        table.add_row(
            _rule(each, served), share_right(each), *gain, *time_and_cost(each), style="bold" if mine else None
        )
    table.caption = "* the manifest's rule; brackets: 95% intervals; gains in points, p: McNemar's exact test"
    table.caption_justify = "left"
    return table


def _calibrations(evaluation: Json) -> Table:
    served = evaluation["ensemble"]["rule"]
    table = _table(["", "NLL", "Brier", "ECE", "ECE at T", "T"])
    for each in evaluation["members"]:
        table.add_row(each["name"], *_losses(each))
    table.add_section()
    for each in evaluation["ensembles"]:
        mine = each["rule"] == served
        table.add_row(_rule(each, served), *_losses(each), style="bold" if mine else None)
    table.caption = (
        "T: temperature of the pooled probabilities; ECE at T is measured with one fitted on the other half of the rows"
    )
    table.caption_justify = "left"
    return table


def _rule(each: Json, served: str) -> str:
    return RULES[each["rule"]] + (" *" if each["rule"] == served else "")


def share_right(each: Json) -> str:
    """The accuracy of a member, of a rule or of an entry of a plan."""
    return _interval(each["accuracy"], 100, 2 if each["accuracy"]["n"] >= 5000 else 1, "%")


def time_and_cost(each: Json) -> tuple[str, str]:
    """Of 1,000 rows; the cost in USD."""
    cost = verdict.dollars(each["cost_usd_per_1000"]["value"]).removesuffix(" USD")
    return verdict.seconds(each["seconds_per_1000"]["value"]), cost


def _losses(each: Json) -> tuple[str, ...]:
    return (
        _interval(each["nll"], 1, 3),
        _interval(each["brier"], 1, 3),
        _interval(each["ece"], 100, 1, "%"),
        _interval(each["calibrated"]["ece"], 100, 1, "%"),
        f"{each['temperature']:.2f}",
    )


def _interval(estimate: Json, scale: float, digits: int, unit: str = "") -> str:
    value, low, high = (
        "?" if estimate[end] is None else f"{scale * estimate[end]:.{digits}f}" for end in ("value", "low", "high")
    )
    return f"{value}{unit} [{low}, {high}]"


def _pairs(evaluation: Json) -> Table:
    """Those most alike first."""
    pairs = sorted(evaluation["diversity"]["pairs"], key=lambda pair: -pair["correlation"]["value"])
    table = _table(["pair", "disagreement", "double fault", "Q", "kappa", "correlation of errors"])
    for pair in pairs[:MOST_PAIRS]:
        numbers = [_interval(pair[measure], 1, 2) for measure in ("q", "kappa", "correlation")]
        shares = [_interval(pair[measure], 100, 1, "%") for measure in ("disagreement", "double_fault")]
        table.add_row(f"{pair['a']}, {pair['b']}", *shares, *numbers)
    if len(pairs) > MOST_PAIRS:
        table.caption = f"the {MOST_PAIRS} most alike of {len(pairs)} pairs"
        table.caption_justify = "left"
    return table


def _marginal(evaluation: Json) -> Table:
    table = _table(["without", "accuracy lost, points", "p", "time saved / 1,000", "USD saved / 1,000"])
    for each in evaluation["marginal"]:
        table.add_row(
            each["member"],
            _interval(each["accuracy_lost"], 100, 2),
            f"{each['mcnemar_p']:.2g}",
            verdict.seconds(each["seconds_saved_per_1000"]["value"]),
            verdict.dollars(each["cost_saved_usd_per_1000"]["value"]).removesuffix(" USD"),
        )
    return table
