"""What the figures of a sweep share: panels, axes, colours that are legible on white and on black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfspec.reporting.sweep.state import Estimate

COLOURS = ("#3a82c8", "#e0841c", "#2a9d78", "#c65a9e", "#7b70d4", "#a3932a", "#d4553c", "#58a8c6")


SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "cross")


GREY, FAINT = "#8a8a8a", "rgba(136,136,136,.28)"


AXIS = {
    "gridcolor": "rgba(136,136,136,.2)",
    "zerolinecolor": "rgba(136,136,136,.5)",
    "automargin": True,
    "ticks": "",
    "ticklabelstandoff": 5,
}


Plot = dict[str, Any]  # a trace, a layout, or a figure of both, as plotly.js takes them


def arranged(panels: Mapping[str, Sequence[Plot]], height: int, x: Plot, y: Plot, shared: str = "") -> Plot:
    """Panels two by two, each under its title if there are several; a name enters the legend once.

    Args:
        panels: Traces by title.
        height: Of a panel.
        x: What all horizontal axes have.
        y: What all vertical axes have.
        shared: "x" or "y" for axes that have one scale in all panels.
    """
    layout = _layout(-(-len(panels) // 2), min(len(panels), 2), height)
    traces: list[Plot] = []
    named: set[str] = set()
    for number, (title, panel) in enumerate(panels.items()):
        n = str(number + 1) if number else ""
        for name, axis in (("x", x), ("y", y)):
            one = {"matches": name} if n and name == shared else {}
            layout[f"{name}axis{n}"] = {**AXIS, **axis, **one}
        if len(panels) > 1:
            place = {"xref": f"x{n} domain", "yref": f"y{n} domain", "x": 0.5, "y": 1, "yanchor": "bottom"}
            layout["annotations"].append({**place, "text": title, "showarrow": False, "font": {"size": 13}})
        for trace in panel:
            hidden = {"showlegend": False} if trace.get("name") in named else {}
            traces.append({**trace, **hidden, "xaxis": f"x{n}", "yaxis": f"y{n}"})
        named |= {trace["name"] for trace in panel if "name" in trace}
    return {"data": traces, "layout": layout}


def _layout(down: int, across: int, height: int) -> Plot:
    """What all figures share."""
    below = {"orientation": "h", "traceorder": "normal", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    return {
        "font": {"family": "system-ui, sans-serif", "size": 12.5},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": 100 + height * down + 75 * (down - 1),
        "margin": {"l": 50, "r": 12, "t": 30, "b": 50},
        "legend": below,
        "grid": {"rows": down, "columns": across, "pattern": "independent", "xgap": 0.2, "ygap": 0.3},
        "annotations": [],
    }


def error_bars(cells: Sequence[Estimate]) -> Plot:
    """Error bars from intervals, where there are some."""
    above = [None if cell.high is None else cell.high - cell.value for cell in cells]
    below = [None if cell.low is None else cell.value - cell.low for cell in cells]
    return {"type": "data", "array": above, "arrayminus": below, "symmetric": False, "thickness": 1, "width": 3}


def titled(text: str) -> Plot:
    """The title of an axis."""
    return {"text": text, "font": {"size": 12.5}}
