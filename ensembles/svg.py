"""Figures become SVG to stand in a page: the same figure gives the same bytes, and the page's style sheet gives the colours.

matplotlib draws in colours that stand for roles; in the SVG they are CSS variables, so that a picture follows light and dark.
"""

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
MEMBER, ENSEMBLE, FRONT, WRONG = "#050505", "#060606", "#070707", "#080808"

VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    MEMBER: "member",
    ENSEMBLE: "ensemble",
    FRONT: "front",
    WRONG: "wrong",
}

WIDTH = 7.4
"""Inches, of 72 px."""

STYLE: Any = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 9.5,
    "path.simplify": False,
}


def drawn(name: str, description: str, height: float, draw: Callable[[Any], None], panels: int = 1) -> str:
    """An `<svg>` element of what `draw` puts on its axes (or list of axes), `height` inches high.

    `name` must be unlike those of other pictures in the page; `description` is what a screen reader says.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes: Any = figure.subplots(1, panels)
        draw(axes)
        stream = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(stream, metadata={"Date": None, "Creator": None})
    return _embedded(stream.getvalue(), name, description)


def _embedded(content: str, name: str, description: str) -> str:
    body = content[content.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = body.replace("*{", f"#{name} *{{")
    body = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    _, _, inner = body.partition(">")
    box = re.search(r'viewBox="([^"]+)"', body)
    title = html.escape(description)
    return (
        f'<svg id="{name}" role="img" aria-label="{title}" viewBox="{box.group(1) if box else ""}" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{inner}'
    )


def plain(axes: Axes, *, across: bool = True, along: bool = False) -> None:
    """Keep only the grid lines that are read against: `across` those at x ticks, `along` those at y ticks."""
    axes.grid(visible=across, axis="x")
    axes.grid(visible=along, axis="y")
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(side == ("bottom" if along else "left") if across != along else True)
