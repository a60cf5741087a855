"""The layout of all figures of a sweep: panels, axes, and colours that are legible on white and on black."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from selfspec.reporting.sweep.state import Estimate

COLOURS = ("#3a82c8", "#e0841c", "#2a9d78", "#c65a9e", "#7b70d4", "#a3932a", "#d4553c", "#58a8c6")


SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "cross")


GREY, LIGHT_GREY = "#8a8a8a", "rgba(136,136,136,.28)"


AXIS = {
    "gridcolor": "rgba(136,136,136,.2)",
    "zerolinecolor": "rgba(136,136,136,.5)",
    "automargin": True,
    "ticks": "",
    "ticklabelstandoff": 5,
}


Plot = dict[str, Any]  # a trace, a layout, or a figure of both, as plotly.js takes them


def arrange_panels(panels: Mapping[str, Sequence[Plot]], height: int, x: Plot, y: Plot, shared: str = "") -> Plot:
    """Make a figure of panels in two columns, with titles if there are several; the legend has each name once.

    Args:
        panels: Traces by title.
        height: Height of a panel in pixels.
        x: Settings of all horizontal axes.
        y: Settings of all vertical axes.
        shared: "x" or "y": the axes that have the same scale in all panels.
    """
    layout = _layout(math.ceil(len(panels) / 2), min(len(panels), 2), height)
    traces: list[Plot] = []
    names: set[str] = set()
    for number, (title, panel) in enumerate(panels.items()):
        suffix = str(number + 1) if number else ""  # the axes are x, x2, x3, ...
        for name, axis in (("x", x), ("y", y)):
            same_scale = {"matches": name} if suffix and name == shared else {}
            layout[f"{name}axis{suffix}"] = {**AXIS, **axis, **same_scale}
        if len(panels) > 1:
            position = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "x": 0.5, "y": 1, "yanchor": "bottom"}
            layout["annotations"].append({**position, "text": title, "showarrow": False, "font": {"size": 13}})
        for trace in panel:
            hidden = {"showlegend": False} if trace.get("name") in names else {}
            traces.append({**trace, **hidden, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
        names |= {trace["name"] for trace in panel if "name" in trace}
    return {"data": traces, "layout": layout}


def _layout(num_rows: int, num_columns: int, height: int) -> Plot:
    """The settings of a whole figure; `height` is that of a panel in pixels."""
    legend = {"orientation": "h", "traceorder": "normal", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    return {
        "font": {"family": "system-ui, sans-serif", "size": 12.5},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": 100 + height * num_rows + 75 * (num_rows - 1),
        "margin": {"l": 50, "r": 12, "t": 30, "b": 50},
        "legend": legend,
        "grid": {"rows": num_rows, "columns": num_columns, "pattern": "independent", "xgap": 0.2, "ygap": 0.3},
        "annotations": [],
    }


def error_bars(estimates: Sequence[Estimate]) -> Plot:
    """Error bars of the intervals; none for an estimate without one."""
    above = [None if e.high is None else e.high - e.value for e in estimates]
    below = [None if e.low is None else e.value - e.low for e in estimates]
    return {"type": "data", "array": above, "arrayminus": below, "symmetric": False, "thickness": 1, "width": 3}


def axis_title(text: str) -> Plot:
    """The title of an axis."""
    return {"text": text, "font": {"size": 12.5}}
