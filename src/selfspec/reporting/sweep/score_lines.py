"""The figures of scores by data size and by LoRA rank."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from selfspec.reporting.cells import MODEL_NAMES, format_cell
from selfspec.reporting.sweep.groups import Rows, group_rows, score_title
from selfspec.reporting.sweep.panels import COLOURS, GREY, SYMBOLS, Plot, arrange_panels, axis_title, error_bars
from selfspec.reporting.sweep.table import CHOICES, Row, Table

PANEL_HEIGHT = 300  # pixels


MAX_SERIES_OFFSET = 0.03  # between two series, as a share of the axis' logarithmic range


MAX_TOTAL_OFFSET = 0.15  # of all series together


def draw_score_lines(rows: Rows, table: Table, choice: str) -> Plot:
    """Scores by data size or by LoRA rank, a panel for each domain.

    Points are jobs with their intervals; lines go through the means over seeds.

    Args:
        rows: Rows of one measure and one number of shots.
        table: The main table.
        choice: The choice on the horizontal axis, `examples` or `lora_r`.
    """

    def series_name(row: Row) -> str:
        return table.name(row, ("domain", choice, "seed"))

    ticks = sorted({row.job.choices[choice] for row in rows})
    names = list(group_rows(rows, series_name))
    # A factor, since the axis is logarithmic.
    step = (ticks[-1] / ticks[0]) ** min(MAX_SERIES_OFFSET, MAX_TOTAL_OFFSET / len(names))
    panels: dict[str, list[Plot]] = {}
    for domain, domain_rows in group_rows(rows, lambda row: str(row.job.choices["domain"])).items():
        panels[domain] = []
        for name, series in group_rows(domain_rows, series_name).items():
            index = names.index(name)
            offset = step ** (index - (len(names) - 1) / 2)
            panels[domain] += _series(series, choice, name or MODEL_NAMES["specialized"], index, offset, step)
        for model in ("base", "seeds_only"):
            panels[domain] += _baseline(domain_rows, table, choice, model, names)
    x_title = axis_title(CHOICES[choice])
    x_axis = {"type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks], "title": x_title}
    return arrange_panels(panels, PANEL_HEIGHT, x_axis, {"title": axis_title(score_title(rows))}, "y")


def _series(rows: Rows, choice: str, name: str, index: int, offset: float, step: float) -> list[Plot]:
    """A line through the means of the specialized models, and a point for each job.

    Points are moved sideways by factors, `offset` for the series and up to `step` for the seed, so that the bars of
    their intervals do not hide each other.
    """
    colour, symbol = COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]
    means = _means(rows, choice, "specialized")
    cells = [(row.job, row.cells["specialized"]) for row in rows if "specialized" in row.cells]
    seeds = sorted({job.choices["seed"] for job, _ in cells})
    offsets = {seed: offset * step ** ((i + 0.5) / len(seeds) - 0.5) for i, seed in enumerate(seeds)}
    line = {
        "x": [value * offset for value in means],
        "y": list(means.values()),
        "mode": "lines",
        "name": name,
        "legendgroup": name,
        "line": {"color": colour, "width": 2},
        "hoverinfo": "skip",
    }
    points = {
        "x": [job.choices[choice] * offsets[job.choices["seed"]] for job, _ in cells],
        "y": [cell.value for _, cell in cells],
        "error_y": error_bars([cell for _, cell in cells]),
        "mode": "markers",
        "legendgroup": name,
        "showlegend": False,
        "marker": {"color": colour, "size": 8, "symbol": symbol},
        "text": [
            f"{name}<br>job {job.number}, {CHOICES[choice]} {job.choices[choice]}: {format_cell(vars(cell))}"
            for job, cell in cells
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
    return [line, points]


def _baseline(rows: Rows, table: Table, choice: str, model: str, names: Sequence[str]) -> list[Plot]:
    """Lines of the base or of the model tuned on seeds alone; grey if one line holds for all series."""
    without_effect = ("examples", "lora_r") if model == "base" else ("examples",)
    lines: dict[tuple[tuple[Any, float], ...], tuple[str, Row]] = {}
    groups = group_rows(rows, lambda row: table.name(row, ("domain", choice, "seed", *without_effect)))
    for name, group in groups.items():
        lines.setdefault(tuple(_means(group, choice, model).items()), (name, group[0]))
    traces: list[Plot] = []
    for points, (name, row) in lines.items():
        title = ", ".join(filter(None, [MODEL_NAMES[model], name if len(lines) > 1 else ""]))
        index = names.index(table.name(row, ("domain", choice, "seed")))
        colour = GREY if len(lines) == 1 else COLOURS[index % len(COLOURS)]
        trace: Plot = {"x": [x for x, _ in points], "y": [y for _, y in points], "mode": "lines"}
        trace |= {"line": {"color": colour, "width": 1.5, "dash": "dash" if model == "base" else "dot"}}
        label = {"name": title, "legendgroup": title, "hovertemplate": f"{title}: %{{y:.3f}}<extra></extra>"}
        traces += [{**trace, **label}] if points else []
    return traces


def _means(rows: Rows, choice: str, model: str) -> dict[Any, float]:
    """The mean over jobs for each value of the choice, in ascending order."""
    values: dict[Any, list[float]] = {}
    for row in rows:
        if model in row.cells:
            values.setdefault(row.job.choices[choice], []).append(row.cells[model].value)
    return {chosen: statistics.fmean(values[chosen]) for chosen in sorted(values)}
