"""The pictures of a report, each from a run and its document alone."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ensembles.placing import placed
from ensembles.svg import ENSEMBLE, FRONT, INK, MEMBER, MUTED, SURFACE, WRONG, drawn, plain
from loadtest import slo
from loadtest.histogram import Histogram
from loadtest.records import FULL, ArmRecord, Json, RunRecord
from loadtest.records import MEMBER as PREFIX
from loadtest.report_tables import rows_lot, times
from loadtest.slo import Unit
from loadtest.wording import LOTS, Show, seconds, usd

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (1, 1)))
MARKERS = "osD^v"
LEVELS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
LEGEND, LETTER = 500.0, 5.2
"""How wide legends may be, and a letter of theirs, in points."""

CURVE = 400
"""Points of a curve; more are not seen."""

PLANE = (195.0, 220.0)
"""About how large one panel of the plane is, in points."""


def looks(run: RunRecord) -> dict[str, tuple[str, Any, str]]:
    """Colour, dashes and marker of each policy: the full ensemble, members and other policies each have a colour."""
    found: dict[str, tuple[str, Any, str]] = {}
    for arm in run.arms:
        colour = ENSEMBLE if arm.policy == FULL else MEMBER if arm.policy.startswith(PREFIX) else FRONT
        alike = sum(look[0] == colour for look in found.values())
        found[arm.policy] = colour, DASHES[alike % len(DASHES)], MARKERS[alike % len(MARKERS)]
    return found


def spectrum(run: RunRecord, sentence: str) -> str:
    """Latency against the share of requests that were faster, stretched so that the slowest have room."""
    shown = looks(run)

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        most = 1.0
        for arm in run.arms:
            if arm.delays.count:
                colour, dash, _ = shown[arm.policy]
                x, y = curve(arm.delays)
                most = max(most, x[-1])
                axes.plot(x, y, color=colour, linestyle=dash, linewidth=2, label=arm.policy, drawstyle="steps-pre")
        _service(axes, run.arms, shown)
        _limits(axes, run)
        _levels(axes, most)
        axes.set_ylim(bottom=_least(run))
        _durations(axes)
        _legend(axes)
        axes.set_xlabel("share of requests that took no longer")
        axes.set_ylabel("latency from the planned instant")

    return drawn("spectrum", "Latency by percentile. " + sentence, 4.0, draw)


def _legend(axes: Axes) -> None:
    """Above the picture, where no line can run through it; as many names side by side as have room."""
    names = axes.get_legend_handles_labels()[1]
    room = sum(LETTER * len(name) + 42 for name in names) <= LEGEND
    columns = len(names) if room else max(1, math.ceil(len(names) / 2))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=columns, borderaxespad=0, handlelength=2.4)


def _least(run: RunRecord) -> float:
    """Where the axis of latency begins: the few that were faster say nothing."""
    return min(max(arm.delays.quantile(0.05), 1e-6) / 1.5 for arm in run.arms if arm.delays.count)


def curve(histogram: Histogram) -> tuple[Any, Any]:
    """One over the share that took longer, [k], and how long, in seconds, [k]; up to the share that one request is."""
    middles, counts = histogram.ordered()
    below = np.cumsum(counts)
    x = np.maximum(histogram.count / np.maximum(histogram.count - below, 0.5), 1.0)
    kept = np.unique(np.searchsorted(x, np.geomspace(1.0, x[-1], CURVE)).clip(max=len(x) - 1))
    return x[kept], np.maximum(middles[kept], 1e-6)


def _service(axes: Axes, arms: Sequence[ArmRecord], shown: dict[str, tuple[str, Any, str]]) -> None:
    """Thin, where waiting to be sent made a difference that is seen: what a tool would report that ignores it."""
    told = False
    for arm in arms:
        if arm.service.count and arm.latency.quantile(0.99) > 1.1 * arm.service.quantile(0.99):
            x, y = curve(arm.service)
            label = None if told else "thin: from sending, which hides stalls"
            axes.plot(x, y, color=shown[arm.policy][0], linewidth=0.9, alpha=0.8, label=label)
            told = True


def _limits(axes: Axes, run: RunRecord) -> None:
    """A cross line for each objective on a quantile of latency, up to that quantile."""
    for each in slo.parse_all(run.slos):
        if each.unit is Unit.SECONDS and each.quantile:
            corner = 1 / (1 - each.quantile)
            axes.plot([1, corner, corner], [each.limit, each.limit, each.limit * 1.25], color=INK, linewidth=1.2)
            axes.annotate(each.text, (corner, each.limit), (4, 3), textcoords="offset points", fontsize=9)


def _levels(axes: Axes, most: float) -> None:
    """Percentiles on the stretched axis."""
    levels = [level for level in LEVELS if 1 / (1 - level) <= most * 1.2]
    axes.set_xlim(1, most * 1.1)
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - level) for level in levels]))
    axes.xaxis.set_minor_locator(NullLocator())
    names = {round(1 / (1 - level)): f"{100 * level:.6g}%" for level in levels}
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: names.get(round(value), "")))


def _durations(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 2000 * low else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value)))
    plain(axes, along=True)


def timeline(run: RunRecord, sentence: str) -> str:
    """The median and the 99th percentile of the requests planned for each moment."""
    shown = looks(run)

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        for arm in run.arms:
            colour, dash, _ = shown[arm.policy]
            for q, width, alpha in ((0.5, 1.2, 0.6), (0.99, 2.0, 1.0)):
                x, y = _moments(arm, q)
                label = arm.policy if q > 0.5 else None
                axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, alpha=alpha, label=label)
        _durations(axes)
        axes.set_xlim(0, max(run.seconds, 1e-3))
        _legend(axes)
        axes.set_xlabel("s since the start")
        axes.set_ylabel("p99 (thick) and p50 (thin)")

    return drawn("timeline", "Latency over time. " + sentence, 3.2, draw)


def _moments(arm: ArmRecord, q: float) -> tuple[list[float], list[float]]:
    """A quantile of each slot, at the slot's middle; a gap where nothing was due."""
    x = [(place + 0.5) * arm.slot_seconds for place in range(len(arm.timeline))]
    return x, [max(slot.latency.quantile(q), 1e-6) if slot.latency.count else math.nan for slot in arm.timeline]


def throughput(run: RunRecord, sentence: str) -> str:
    """What was due, answered and failed in each moment, all policies together."""

    def draw(axes: Axes) -> None:
        width = run.arms[0].slot_seconds
        due, done, errors = (_per_second(run, name) for name in ("due", "done", "errors"))
        edges = np.arange(len(due) + 1) * width
        axes.stairs(due, edges, color=MUTED, linewidth=1.4, label="due" if run.plan.rate else "sent")
        axes.stairs(done, edges, color=FRONT, linewidth=2, label="answered")
        if errors.any():
            axes.stairs(errors, edges, color=WRONG, fill=True, alpha=0.75, label="failed")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, edges[-1])
        axes.margins(y=0.2)
        axes.set_xlabel("s since the start")
        axes.set_ylabel("requests/s")
        _legend(axes)
        plain(axes, along=True)

    return drawn("throughput", "Requests over time. " + sentence, 2.6, draw)


def _per_second(run: RunRecord, name: str) -> Any:
    most = max(len(arm.timeline) for arm in run.arms)
    total = np.zeros(most)
    for arm in run.arms:
        total[: len(arm.timeline)] += [getattr(slot, name) for slot in arm.timeline]
    return total / run.arms[0].slot_seconds


def errors(run: RunRecord, document: Json) -> str:
    """Errors by code, answers with members missing, and requests without an answer, as shares of each policy's requests."""
    shown = looks(run)
    rows = list(_trouble(document))

    def draw(axes: Axes) -> None:
        for place, (policy, _, share) in enumerate(rows):
            axes.barh(place, share, height=0.6, color=shown[policy][0], alpha=0.8)
            axes.annotate(f"{100 * share:.3g}%", (share, place), (5, -3.5), textcoords="offset points", fontsize=9)
        axes.set_yticks(range(len(rows)), [f"{policy}: {what}" for policy, what, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.15 * max(share for _, _, share in rows))
        axes.set_xlabel("of the policy's requests")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
        plain(axes)

    return drawn("errors", "What went wrong.", 0.8 + 0.3 * len(rows), draw) if rows else ""


def _trouble(document: Json) -> Iterator[tuple[str, str, float]]:
    for arm in document["arms"]:
        counts = {**arm["errors"], "no answer": arm["censored"], "a member missing": arm["partial"]}
        for what, count in counts.items():
            if count:
                yield arm["policy"], what, count / arm["requests"]


def plane(run: RunRecord, document: Json, sentence: str) -> str:
    """Accuracy against cost, and against latency, with intervals; the empty text where there is no accuracy."""
    arms = [arm for arm in document["arms"] if arm["accuracy"] and arm["latency_seconds"]["p99"]]
    if not arms:
        return ""
    priced = all(arm["cost_usd_per_1000"] for arm in arms)

    def draw(panels: Any) -> None:
        axes = list(np.ravel(panels))
        first = latencies = [arm["latency_intervals_seconds"]["p99"] for arm in arms]
        if priced:
            n = rows_lot(document)
            first = [times(arm["cost_usd_per_1000"], n / 1000) or {} for arm in arms]
            _points(axes[0], run, arms, first)
            axes[0].set_xlabel(f"cost of {LOTS[n]} rows")
            _few_ticks(axes[0], usd)
        _points(axes[-1], run, arms, latencies)
        axes[-1].set_xlabel("p99 of latency")
        _few_ticks(axes[-1], seconds)
        axes[0].set_ylabel("rows answered rightly")
        accuracies = [(x["value"], arm["accuracy"]["value"], arm["policy"]) for arm, x in zip(arms, first, strict=True)]
        _names(axes[0], accuracies)

    return drawn("plane", "Accuracy, cost and latency. " + sentence, 3.9, draw, panels=2 if priced else 1)


def _points(axes: Axes, run: RunRecord, arms: Sequence[Json], across: Sequence[Json]) -> None:
    shown = looks(run)
    axes.set_xscale("log")
    for arm, x in zip(arms, across, strict=True):
        colour, _, marker = shown[arm["policy"]]
        y = arm["accuracy"]
        axes.plot([x["value"]] * 2, [y["low"], y["high"]], color=colour, linewidth=2, alpha=0.35)
        ends = [x["low"] or x["value"], x["high"] or x["value"]]
        axes.plot(ends, [y["value"]] * 2, color=colour, linewidth=2, alpha=0.35)
        axes.plot(x["value"], y["value"], marker, color=colour, markersize=9, markeredgecolor=SURFACE)
    axes.margins(0.16, 0.1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    plain(axes, along=True)


STEPS: tuple[tuple[float, ...], ...] = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    tuple(np.arange(1, 10, 0.1).round(1)),
)
"""Round numbers within a power of ten, from few to many."""


def _few_ticks(axes: Axes, show: Show) -> None:
    """Some round numbers on a logarithmic axis, so far apart that there is room for their names."""
    low, high = axes.get_xlim()
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    kept: list[float] = []
    for steps in STEPS:
        kept = _apart([step * power for power in powers for step in steps if low <= step * power <= high], high / low)
        if len(kept) >= 3:
            break
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def _apart(ticks: Sequence[float], span: float) -> list[float]:
    """Those that are a quarter of the axis from each other."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or math.log(tick / kept[-1]) > 0.25 * math.log(span):
            kept.append(tick)
    return kept


def _names(axes: Axes, named: Sequence[tuple[float, float, str]]) -> None:
    (left, right), (bottom, top) = np.log(axes.get_xlim()), axes.get_ylim()
    x, y, texts = zip(*named, strict=True)
    across = (np.log(x) - left) / (right - left) * PLANE[0]
    along = (np.array(y) - bottom) / (top - bottom) * PLANE[1]
    corners = placed(across.tolist(), along.tolist(), texts, PLANE[0])
    for a, b, text, corner in zip(x, y, texts, corners, strict=True):
        side = "left" if corner.right else "right"
        axes.annotate(text, (a, b), corner.offset, textcoords="offset points", fontsize=9, ha=side)
