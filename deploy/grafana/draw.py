"""Draws a dashboard without Grafana, to look at what its queries say: `python deploy/grafana/draw.py http://localhost:9090 worth worth.png`."""

import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

SPAN_SECONDS, STEPS = 900, 180
UNIT_INCHES = 0.55


def series(prometheus: str, target: dict[str, Any], ended: float) -> list[tuple[str, list[float], list[float]]]:
    """Legend, minutes before the end, values; of all jobs and ensembles."""
    query = target["expr"].replace("$job", ".*").replace("$ensemble", ".*")
    span = {"start": ended - SPAN_SECONDS, "end": ended, "step": SPAN_SECONDS / STEPS}
    url = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode({'query': query, **span})}"
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  the address that the caller gave
        found = json.load(answer)["data"]["result"]
    return [
        (
            legend(target, each["metric"]),
            [(float(at) - ended) / 60 for at, _ in each["values"]],
            [float(value) for _, value in each["values"]],
        )
        for each in found
    ]


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    """As Grafana words it; the cells of a table with all their labels."""
    wording: str = target["legendFormat"]
    if target["format"] == "table":
        return " ".join([wording, *(value for name, value in labels.items() if name not in {"__name__", "job"})])
    for name, value in labels.items():
        wording = wording.replace(f"{{{{{name}}}}}", value)
    return wording


def draw(axes: Axes, panel: dict[str, Any], prometheus: str, ended: float) -> None:
    """Lines, or where Grafana shows numbers alone, the last ones."""
    lines = [line for target in panel["targets"] for line in series(prometheus, target, ended)]
    axes.set_title(f"{panel['title']} [{panel['fieldConfig']['defaults']['unit']}]", fontsize=8)
    axes.tick_params(labelsize=6)
    if panel["type"] == "timeseries" and lines:
        for label, minutes, values in lines:
            axes.plot(minutes, values, linewidth=0.8, label=label)
        axes.set_ylim(bottom=panel["fieldConfig"]["defaults"].get("min"))
        axes.legend(fontsize=5, loc="upper left")
        return
    axes.axis("off")
    numbers = "\n".join(f"{values[-1]:.6g}  {label}" for label, _, values in lines) or "no data"
    axes.text(0.5, 0.5, numbers, ha="center", va="center", fontsize=8 if panel["type"] == "table" else 12)


def main() -> None:
    prometheus, name, picture = sys.argv[1:]
    board = json.loads((Path(__file__).with_name("dashboards") / f"{name}.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure((24 * UNIT_INCHES, height * UNIT_INCHES * 0.6))
    figure.suptitle(board["title"])
    for panel in panels:
        place = panel["gridPos"]
        bottom = 1 - (place["y"] + place["h"] - 0.6) / height
        box = (place["x"] / 24 + 0.03, bottom, place["w"] / 24 - 0.04, (place["h"] - 1.8) / height)
        draw(figure.add_axes(box), panel, prometheus, time.time())
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main()
