"""A sweep's figures: functions of the table's rows, and of the stages, to figures of plotly.

A figure is plain data, {"data": traces, "layout": layout}, as plotly.js takes it: building plotly's own objects, which
say the same, takes seconds for a sweep of some size.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from selfspec.reporting.sweep.panels import COLOURS, FAINT, GREY, SYMBOLS, Plot, arranged, error_bars, titled
from selfspec.reporting.sweep.state import Estimate, StageState
from selfspec.reporting.sweep.table import GAIN, HEADS, Row, Table, format_estimate, row_sentences
from selfspec.reporting.tables import NAMES

LOSS_TO_GAIN = [[0, "#c4572e"], [0.5, "#e9e6e1"], [1, "#2f74b5"]]


UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


LINES = (
    "Points: the specialized model of each job, with its 95% interval over questions, moved aside a little where they "
    "would hide each other; solid lines go through their means. Dashed: the base."
)


DOTTED = " Dotted: tuned on the seeds alone."


TASKS = "Large: the mean of the jobs. Small: the specialized model of each job; a single job has 95% intervals instead."


GAINS = "Specialized minus base, the mean of the jobs of a domain and model."


TIMES = "What the stages took, and what those done would have taken again for every other job that shares them."


Rows = Sequence[Row]


def draw_figures(table: Table, stages: Sequence[StageState]) -> list[Plot]:
    """The figures that make sense, each with a view for a measure and a number of shots; time has just one."""
    wanted: list[tuple[str, str, Callable[[Rows, Table], Plot]]] = []
    lines = LINES + (DOTTED if "seeds_only" in table.columns else "")
    if "examples" in table.varying:
        wanted.append(("Score against data size", lines, lambda rows, table: against(rows, table, "examples")))
    if "lora_r" in table.varying:
        wanted.append(("Score against LoRA rank", lines, lambda rows, table: against(rows, table, "lora_r")))
    wanted.append(("Base against specialized, by task", TASKS, by_task))
    if {"domain", "model"} & set(table.varying):
        wanted.append(("Gain by domain and model", GAINS, gains))
    views = _grouped(table.rows, lambda row: f"{row.measure}/{row.shots}")
    figures = []
    for name, caption, make in wanted:
        drawn = {place: make(rows, table) for place, rows in views.items()}
        drawn = {place: plot for place, plot in drawn.items() if plot["data"]}
        if drawn:
            figures.append({"name": name, "caption": caption, "views": drawn})
    return [*figures, {"name": "Time by stage", "caption": TIMES, "views": {"": times(stages)}}]


def against(rows: Rows, table: Table, x: str) -> Plot:
    """Scores by data size or by rank, a panel a domain: points with intervals, lines through means over seeds."""
    ticks = sorted({row.job.choices[x] for row in rows})
    names = list(_grouped(rows, lambda row: table.name(row, ("domain", x, "seed"))))
    step, middle = (ticks[-1] / ticks[0]) ** min(0.03, 0.15 / len(names)), (len(names) - 1) / 2
    panels: dict[str, list[Plot]] = {}
    for domain, mine in _grouped(rows, lambda row: str(row.job.choices["domain"])).items():
        panels[domain] = []
        for name, series in _grouped(mine, lambda row: table.name(row, ("domain", x, "seed"))).items():
            index = names.index(name)
            panels[domain] += _series(series, x, name or NAMES["specialized"], index, step ** (index - middle), step)
        for model in ("base", "seeds_only"):
            panels[domain] += _control(mine, table, x, model, names)
    across = {"type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks], "title": titled(HEADS[x])}
    return arranged(panels, 300, across, {"title": titled(_measured(rows))}, "y")


def _series(rows: Rows, x: str, name: str, index: int, aside: float, step: float) -> list[Plot]:
    """A line through the means of the specialized model, and a point a job, moved aside for its bar to be seen."""
    colour, symbol = COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]
    means = _means(rows, x, "specialized")
    cells = [(row, row.cells["specialized"]) for row in rows if "specialized" in row.cells]
    seeds = sorted({row.job.choices["seed"] for row, _ in cells})
    places = {seed: aside * step ** ((i + 0.5) / len(seeds) - 0.5) for i, seed in enumerate(seeds)}
    line = {
        "x": [place * aside for place in means],
        "y": list(means.values()),
        "mode": "lines",
        "name": name,
        "legendgroup": name,
        "line": {"color": colour, "width": 2},
        "hoverinfo": "skip",
    }
    points = {
        "x": [row.job.choices[x] * places[row.job.choices["seed"]] for row, _ in cells],
        "y": [cell.value for _, cell in cells],
        "error_y": error_bars([cell for _, cell in cells]),
        "mode": "markers",
        "legendgroup": name,
        "showlegend": False,
        "marker": {"color": colour, "size": 8, "symbol": symbol},
        "text": [
            f"{name}<br>job {r.job.number}, {HEADS[x]} {r.job.choices[x]}: {row_sentences(cell)}" for r, cell in cells
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
    return [line, points]


def _control(rows: Rows, table: Table, x: str, model: str, names: Sequence[str]) -> list[Plot]:
    """Lines of the base, or of seeds alone; grey if one line stands for all series."""
    blind = ("examples", "lora_r") if model == "base" else ("examples",)  # what can't change them
    lines: dict[tuple[tuple[Any, float], ...], tuple[str, Row]] = {}
    for name, mine in _grouped(rows, lambda row: table.name(row, ("domain", x, "seed", *blind))).items():
        lines.setdefault(tuple(_means(mine, x, model).items()), (name, mine[0]))
    traces: list[Plot] = []
    for points, (name, row) in lines.items():
        title = ", ".join(filter(None, [NAMES[model], name if len(lines) > 1 else ""]))
        index = names.index(table.name(row, ("domain", x, "seed")))
        colour = GREY if len(lines) == 1 else COLOURS[index % len(COLOURS)]
        trace: Plot = {"x": [at for at, _ in points], "y": [value for _, value in points], "mode": "lines"}
        trace |= {"line": {"color": colour, "width": 1.5, "dash": "dash" if model == "base" else "dot"}}
        label = {"name": title, "legendgroup": title, "hovertemplate": f"{title}: %{{y:.3f}}<extra></extra>"}
        traces += [{**trace, **label}] if points else []
    return traces


def by_task(rows: Rows, table: Table) -> Plot:
    """Base and specialized on each task, a panel a domain and model: means over jobs, and each job faintly."""
    sides = [name for name in ("domain", "model") if name in table.varying]
    panels, most = {}, 0
    for title, mine in _grouped(rows, lambda row: ", ".join(str(row.job.choices[name]) for name in sides)).items():
        base, specialized = (_on_tasks(mine, model) for model in ("base", "specialized"))
        panels[title] = [_spans(base[-1], specialized[-1]), *base, *specialized]
        most = max(most, len(base[-1]["y"]))
    down = {"autorange": "reversed", "showgrid": False, "tickfont": {"size": 11.5}}
    return arranged(panels, 40 + 25 * most, {"title": titled(_measured(rows))}, down, "x") if most else {"data": []}


def _on_tasks(rows: Rows, model: str) -> list[Plot]:
    """Each job's values, if there are several jobs, and then their means; of one job the intervals are shown."""
    colour, symbol = (GREY, "circle-open") if model == "base" else (COLOURS[0], "diamond")
    cells: dict[str, list[Estimate]] = {}
    for row in rows:
        for (scored, shots, measure, task), cell in row.job.estimates.items():
            if (scored, shots, measure) == (model, row.shots, row.measure) and task != "all":
                cells.setdefault(task.replace("_", " "), []).append(cell)
    mean = {
        "x": [statistics.fmean(cell.value for cell in mine) for mine in cells.values()],
        "y": list(cells),
        "mode": "markers",
        "marker": {"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2 if model == "base" else 0}},
        "name": NAMES[model],
        "legendgroup": model,
        "hovertemplate": f"%{{y}}, {NAMES[model]}: %{{x:.3f}}<extra></extra>",
    }
    if len(rows) == 1:
        return [{**mean, "error_x": error_bars([cell for mine in cells.values() for cell in mine])}]
    each = {
        "x": [cell.value for mine in cells.values() for cell in mine],
        "y": [name for name, mine in cells.items() for _ in mine],
        "mode": "markers",
        "marker": {"color": colour, "size": 5, "opacity": 0.4},
        "showlegend": False,
        "legendgroup": model,
        "hoverinfo": "skip",
    }
    return [each, mean]


def _spans(base: Plot, specialized: Plot) -> Plot:
    """A bar from the base's mean to the specialized model's, for each task."""
    ends = dict(zip(specialized["y"], specialized["x"], strict=True))
    rows = [(value, ends.get(name), name) for name, value in zip(base["y"], base["x"], strict=True)]
    return {
        "x": [value for one, other, _ in rows for value in (one, other, None)],
        "y": [name for _, _, name in rows for _ in range(3)],
        "mode": "lines",
        "line": {"color": FAINT, "width": 5},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def gains(rows: Rows, table: Table) -> Plot:
    """Specialized minus base, the mean of the jobs of a domain and model."""
    rows = [row for row in rows if GAIN in row.cells]
    cells: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        cells.setdefault((row.job.choices["domain"], row.job.choices["model"]), []).append(row.cells[GAIN].value)
    domains, models = (list(dict.fromkeys(side[i] for side in cells)) for i in (0, 1))
    means = {side: statistics.fmean(values) for side, values in cells.items()}
    counts = {side: _count(len(values), "job") for side, values in cells.items()}
    text = {side: f"{format_estimate(mean, True).replace('-', '−')}<br>{counts[side]}" for side, mean in means.items()}
    top = max(map(abs, means.values()), default=0.0) or 1.0
    heat = {"type": "heatmap", "x": models, "y": domains, "xgap": 3, "ygap": 3, "hoverinfo": "skip"}
    heat |= {"z": [[means.get((domain, model)) for model in models] for domain in domains]}
    heat |= {"text": [[text.get((domain, model), "") for model in models] for domain in domains]}
    heat |= {"texttemplate": "%{text}", "zmin": -top, "zmax": top, "colorscale": LOSS_TO_GAIN}
    heat |= {"colorbar": {"thickness": 12, "outlinewidth": 0}}
    across = {"title": titled(f"specialized − base: {_measured(rows)}" if rows else ""), "showgrid": False}
    return arranged({"": [heat] if rows else []}, 60 + 80 * len(domains), across, {"autorange": "reversed"})


def times(stages: Sequence[StageState]) -> Plot:
    """What each kind of stage took, and what sharing saved, in the unit that fits."""
    took = dict.fromkeys((stage.label for stage in stages), 0.0)
    saved = dict(took)
    for stage in stages:
        took[stage.label] += stage.seconds or 0.0
        saved[stage.label] += stage.saved or 0.0
    most = max((took[label] + saved[label] for label in took), default=0.0)
    size, unit = next((unit for unit in UNITS if most >= unit[0]), UNITS[-1])
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(took),
            "x": [value / size for value in seconds.values()],
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}, {name}: %{{x:.3g}} {unit}<extra></extra>",
        }
        for name, seconds, colour in (("used", took, COLOURS[0]), ("saved by sharing", saved, FAINT))
    ]
    across = {"title": titled(unit), "rangemode": "tozero"}
    plot = arranged({"": bars}, 40 + 34 * len(took), across, {"autorange": "reversed"})
    plot["layout"]["barmode"] = "stack"
    return plot


def _grouped(rows: Rows, name: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return groups


def _means(rows: Rows, x: str, model: str) -> dict[Any, float]:
    """The mean of the jobs at each place on the axis."""
    at: dict[Any, list[float]] = {}
    for row in rows:
        if model in row.cells:
            at.setdefault(row.job.choices[x], []).append(row.cells[model].value)
    return {place: statistics.fmean(at[place]) for place in sorted(at)}


def _measured(rows: Rows) -> str:
    return f"{rows[0].job.measures[rows[0].measure]}, {_count(rows[0].shots, 'shot')}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
