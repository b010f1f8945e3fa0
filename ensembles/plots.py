"""The pictures of a report, each from the content of `evaluation.json` (and `plan.json`) alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ensembles import verdict
from ensembles.placing import placed
from ensembles.svg import ENSEMBLE, FRONT, INK, MEMBER, MUTED, SURFACE, WRONG, drawn, plain
from ensembles.verdict import RULES, Json, number

PLANE = (430.0, 225.0)
"""About how large the plane of accuracy and time is, in points."""

MOST_NUMBERED = 14
"""A matrix of more members than this has no room for numbers."""


def _estimates(axes: Axes, found: Sequence[Json], places: Sequence[float], colour: str, marker: str = "o") -> None:
    """Values with their intervals, lying."""
    value = np.array([each["value"] for each in found], float)
    ends = np.array([[each["low"], each["high"]] for each in found], float).T
    for y, low, high in zip(places, *ends, strict=True):
        axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="round", alpha=0.45)
    axes.plot(value, places, marker, color=colour, markersize=8, markeredgecolor=SURFACE, markeredgewidth=1.5)


def _named(axes: Axes, names: Sequence[str]) -> None:
    """Names on the left, from above."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)


def _percents(axis: Any) -> None:
    """With the digits that a tick has: rounded ones would be unevenly far apart."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def accuracy(document: Json) -> str:
    members = sorted(document["members"], key=lambda each: -each["accuracy"]["value"])
    ensembles = sorted(document["ensembles"], key=lambda each: -each["accuracy"]["value"])
    served, best = document["ensemble"]["rule"], verdict.best(document)

    def draw(axes: Axes) -> None:
        names = [RULES[each["rule"]] + (" (served)" if each["rule"] == served else "") for each in ensembles]
        _named(axes, [*names, *(each["name"] for each in members)])
        split = len(ensembles)
        axes.axvline(best["accuracy"]["value"], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        _estimates(axes, [each["accuracy"] for each in ensembles], range(split), ENSEMBLE, "D")
        _estimates(axes, [each["accuracy"] for each in members], range(split, split + len(members)), MEMBER)
        axes.set_xlabel(f"rows answered rightly; dashed: {best['name']}, the best member")
        plain(axes)
        _percents(axes.xaxis)

    description = "Accuracy of members and voting rules. " + verdict.headline(document)
    return drawn("accuracy", description, 0.9 + 0.3 * (len(members) + len(ensembles)), draw)


def plane(document: Json, plan: Json | None) -> str:
    """Accuracy against time: members and the full vote, or what a plan found, which was judged on fewer rows."""
    planned = plan["front"] if plan else []

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        named = _front(axes, planned) if planned else _members_and_vote(axes, document)
        axes.margins(0.08, 0.12)
        axes.set_xlabel("time of the members' runs for 1,000 rows")
        axes.set_ylabel("accuracy")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 2, 3, 4, 6)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: verdict.seconds(value)))
        _labels(axes, named)
        plain(axes, along=True)
        _percents(axes.yaxis)

    return drawn("plane", "Accuracy against time. " + verdict.plane(document, plan), 4.2, draw)


Named = list[tuple[float, float, str]]


def _members_and_vote(axes: Axes, document: Json) -> Named:
    """Points with their intervals; returns where they are and what they are called."""
    served, best, bigger = verdict.served(document), verdict.best(document), verdict.bigger(document)
    named = [_dot(axes, served, ENSEMBLE, "D", f"full ensemble, {RULES[served['rule']]}")]
    for each in document["members"]:
        notes = ["best member"] * (each is best) + ["one bigger model"] * (each is bigger)
        named.append(_dot(axes, each, MEMBER, "o", each["name"] + (f" ({', '.join(notes)})" if notes else "")))
    return named


def _front(axes: Axes, planned: Sequence[Json]) -> Named:
    """The front as a line, and what has a name on it or off it."""
    points = [
        (number(each["seconds_per_1000"]), number(each["accuracy"])) for each in planned if each.get("on_front", True)
    ]
    axes.step(*zip(*sorted(points), strict=True), where="post", color=FRONT, linewidth=2, alpha=0.7)
    axes.plot(*zip(*points, strict=True), "s", color=FRONT, markersize=5, label="front of the plan")
    axes.legend(loc="lower right")
    known = [each for each in planned if each.get("known_as")]
    named = [_dot(axes, each, *_look(each), verdict.known_as(each)) for each in known]
    return [*named, *((x, y, "") for x, y in points)]


def _look(each: Json) -> tuple[str, str]:
    """Colour and marker of a choice that has a name."""
    if len(each["members"]) == 1:
        return MEMBER, "o"
    return (ENSEMBLE, "D") if "full" in each["known_as"] else (FRONT, "s")


def _dot(axes: Axes, each: Json, colour: str, marker: str, text: str) -> tuple[float, float, str]:
    x, y = number(each["seconds_per_1000"]), number(each["accuracy"])
    if isinstance(each["accuracy"], dict):
        low, high = each["accuracy"]["low"], each["accuracy"]["high"]
        axes.plot([x, x], [low, high], color=colour, linewidth=2, alpha=0.3, solid_capstyle="round")
    axes.plot(x, y, marker, color=colour, markersize=9, markeredgecolor=SURFACE, markeredgewidth=1.5)
    return x, y, text


def _labels(axes: Axes, named: Named) -> None:
    """A name beside each point."""
    (left, right), (bottom, top) = np.log(axes.get_xlim()), axes.get_ylim()
    x, y, texts = zip(*named, strict=True) if named else ((), (), ())
    across = (np.log(x) - left) / (right - left) * PLANE[0]
    along = (np.array(y) - bottom) / (top - bottom) * PLANE[1]
    corners = placed(across.tolist(), along.tolist(), texts, PLANE[0])
    for a, b, text, corner in zip(x, y, texts, corners, strict=True):
        ha = "left" if corner.right else "right"
        axes.annotate(text, (a, b), corner.offset, textcoords="offset points", fontsize=9, ha=ha)


def promise(document: Json) -> str:
    kept = document["promise"]

    def draw(axes: Axes) -> None:
        lines: list[tuple[str, Json, str]] = [
            (f"best member, {document['gain']['best_member']}", kept["best_error"], MEMBER),
            ("majority vote, measured", kept["measured_error"], ENSEMBLE),
            ("promised at the measured correlation", _point(kept["correlated_error"]), MUTED),
            ("promised by independence", kept["independent_error"], FRONT),
        ]
        lines = [line for line in lines if line[1]["value"] is not None]
        if kept["bracket"]:
            low, high = kept["bracket"]
            axes.barh(len(lines), high - low, left=low, height=0.42, color=MUTED, alpha=0.25)
        _named(
            axes, [*(name for name, _, _ in lines), *(["possible, whatever the dependence"] if kept["bracket"] else [])]
        )
        for place, (_, estimate, colour) in enumerate(lines):
            _estimates(axes, [estimate], [place], colour, "D" if colour == ENSEMBLE else "o")
        axes.set_xlim(left=0)
        axes.set_xlabel("rows answered wrongly")
        plain(axes)
        _percents(axes.xaxis)

    return drawn("promise", verdict.promise(document), 2.5, draw)


def _point(value: float | None) -> Json:
    return {"value": value, "low": value, "high": value}


def diversity(document: Json) -> str:
    names = [member["name"] for member in document["members"]]
    pairs = document["diversity"]["pairs"]
    twins = {tuple(pair) for pair in document["diversity"]["twins"]}

    def draw(panels: Sequence[Axes]) -> None:
        _matrix(panels[0], names, pairs, "correlation", "errors going together (correlation)", "{:.2f}", twins)
        _matrix(panels[1], names, pairs, "disagreement", "choosing different classes", "{:.0%}", twins)

    return drawn("diversity", verdict.diversity(document), min(6.5, 1.6 + 0.36 * len(names)), draw, panels=2)


def _matrix(
    axes: Axes,
    names: Sequence[str],
    pairs: Sequence[Json],
    measure: str,
    title: str,
    form: str,
    twins: set[tuple[str, ...]],
) -> None:
    place = {name: number for number, name in enumerate(names)}
    most = max(0.5 if measure == "correlation" else 0.0, *(pair[measure]["value"] for pair in pairs), 1e-9)
    for pair in pairs:
        x, y = place[pair["a"]], place[pair["b"]]
        value = pair[measure]["value"]
        twin = (pair["a"], pair["b"]) in twins
        shade = float(np.clip(value / most, 0, 1)) * 0.75 + 0.04
        axes.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=MEMBER, alpha=shade, linewidth=0))
        if twin:
            axes.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fill=False, edgecolor=WRONG, linewidth=2))
        if len(names) <= MOST_NUMBERED:
            axes.text(x, y, form.format(value), ha="center", va="center", fontsize=8.5, color=INK)
    axes.set_xticks(range(len(names) - 1), list(names[:-1]), rotation=40, ha="right", color=INK)
    axes.set_yticks(range(1, len(names)), list(names[1:]))
    axes.set_xlim(-0.5, len(names) - 1.5)
    axes.set_ylim(len(names) - 0.5, 0.5)
    axes.set_title(title, fontsize=10, color=MUTED, loc="left")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def errors(document: Json) -> str:
    found = document["errors"]
    parts = [
        ("no member is right", found["all_wrong"], WRONG, 1.0),
        ("a right member is outvoted", found["wrong_majority"], ENSEMBLE, 1.0),
        ("a tie is lost", found["lost_ties"], ENSEMBLE, 0.45),
    ]

    def draw(axes: Axes) -> None:
        _named(axes, [name for name, _, _, _ in parts])
        for place, (_, estimate, colour, alpha) in enumerate(parts):
            axes.barh(place, estimate["value"], height=0.5, color=colour, alpha=alpha)
            axes.plot([estimate["low"], estimate["high"]], [place, place], color=INK, linewidth=1.2)
        axes.set_xlim(left=0)
        axes.set_xlabel("share of rows; lines: 95% intervals")
        plain(axes)
        _percents(axes.xaxis)

    return drawn("errors", verdict.errors(document), 1.7, draw)


def reliability(document: Json) -> str:
    mine = verdict.served(document)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for bins, colour, marker, label in (
            (mine["reliability"], MEMBER, "o", "as pooled"),
            (mine["calibrated"]["reliability"], ENSEMBLE, "D", f"at temperature {mine['temperature']:.2f}"),
        ):
            x, y, rows = (np.array([each[key] for each in bins], float) for key in ("confidence", "accuracy", "rows"))
            axes.plot(x, y, color=colour, linewidth=1.5, alpha=0.6)
            axes.scatter(
                x, y, s=18 + 160 * rows / max(rows.sum(), 1), color=colour, marker=marker, label=label, linewidth=0
            )
        axes.set_xlabel("probability given to the answer; larger points hold more rows")
        axes.set_ylabel("how often it is right")
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.05)
        axes.legend(loc="upper left")
        plain(axes, along=True)
        _percents(axes.xaxis)
        _percents(axes.yaxis)

    return drawn("reliability", verdict.calibration(document), 4.0, draw)


def selective(document: Json) -> str:
    best = document["gain"]["best_member"]

    def draw(axes: Axes) -> None:
        for curve, colour, label in (
            (document["selective"]["best_member"], MEMBER, f"{best}, the best member"),
            (document["selective"]["ensemble"], ENSEMBLE, "the vote"),
        ):
            axes.plot(curve["coverage"], curve["accuracy"], color=colour, linewidth=2, label=label)
        axes.set_xlabel("share of rows that are answered, the surest first")
        axes.set_ylabel("right, of those answered")
        axes.set_xlim(0, 1)
        axes.legend(loc="lower left")
        plain(axes, along=True)
        _percents(axes.xaxis)
        _percents(axes.yaxis)

    return drawn("selective", verdict.selective(document), 3.4, draw)


def marginal(document: Json) -> str:
    found = sorted(document["marginal"], key=lambda each: -each["accuracy_lost"]["value"])

    def draw(panels: Sequence[Axes]) -> None:
        lost, saved = panels
        lost.axvline(0, color=MUTED, linewidth=1)
        _named(lost, [each["member"] for each in found])
        _estimates(lost, [each["accuracy_lost"] for each in found], range(len(found)), ENSEMBLE, "D")
        lost.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.1f}"))
        saved.barh(range(len(found)), [each["seconds_saved_per_1000"]["value"] for each in found], 0.5, color=MEMBER)
        _named(saved, [""] * len(found))
        saved.set_xlabel("time saved without it, 1,000 rows")
        saved.xaxis.set_major_formatter(FuncFormatter(lambda value, _: verdict.seconds(value) if value else "0"))
        saved.locator_params(axis="x", nbins=4)
        for axes in panels:
            plain(axes)
        lost.set_xlabel("accuracy lost without it, in points")

    return drawn("marginal", verdict.marginal(document), 0.9 + 0.32 * len(found), draw, panels=2)
