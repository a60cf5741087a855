"""The figures of a sweep, from the rows of its table and from its stages.

A figure is plain data, {"data": traces, "layout": layout}, as plotly.js takes it. Building the same figures from
plotly's Python objects takes seconds for a large sweep.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

from selfspec.data.text import count_noun
from selfspec.reporting.cells import MODEL_NAMES, format_number
from selfspec.reporting.sweep.groups import Rows, group_rows, score_title
from selfspec.reporting.sweep.panels import COLOURS, GREY, LIGHT_GREY, Plot, arrange_panels, axis_title, error_bars
from selfspec.reporting.sweep.score_lines import draw_score_lines
from selfspec.reporting.sweep.state import Estimate, StageState
from selfspec.reporting.sweep.table import GAIN, Table

LOSS_TO_GAIN = [[0, "#c4572e"], [0.5, "#e9e6e1"], [1, "#2f74b5"]]  # the colour scale of gains


TIME_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


SCORES_CAPTION = (
    "Points: the specialized model of each job, with its 95% interval over questions; points that would hide each "
    "other are moved sideways a little. Solid lines: the means of the points. Dashed: the base."
)


SEEDS_ONLY_CAPTION = " Dotted: tuned on the seeds alone."


TASKS_CAPTION = "Large: the mean of the jobs. Small: each job. If there is just one job: its 95% intervals."


GAINS_CAPTION = "Specialized minus base: the mean of the jobs with this domain and model."


TIMES_CAPTION = (
    "Used: the time that the stages took. Saved by sharing: the time that finished stages would have taken again in "
    "every further job that shares them."
)


def draw_figures(table: Table, stages: Sequence[StageState]) -> list[Plot]:
    """Draw the figures that apply to the sweep.

    Returns:
        The name, caption and views of each figure. Figures of scores have a view for each measure and number of shots,
        "measure/shots"; the figure of time has one, "".
    """
    drawings: list[tuple[str, str, Callable[[Rows, Table], Plot]]] = []
    caption = SCORES_CAPTION + (SEEDS_ONLY_CAPTION if "seeds_only" in table.columns else "")
    for choice, name in (("examples", "Score against data size"), ("lora_r", "Score against LoRA rank")):
        if choice in table.varying:
            drawings.append((name, caption, partial(draw_score_lines, choice=choice)))
    drawings.append(("Base against specialized, by task", TASKS_CAPTION, draw_tasks))
    if {"domain", "model"} & set(table.varying):
        drawings.append(("Gain by domain and model", GAINS_CAPTION, draw_gains))
    rows_by_view = group_rows(table.rows, lambda row: f"{row.measure}/{row.shots}")
    figures = []
    for name, caption, draw in drawings:
        plots = {view: draw(rows, table) for view, rows in rows_by_view.items()}
        views = {view: plot for view, plot in plots.items() if plot["data"]}
        if views:
            figures.append({"name": name, "caption": caption, "views": views})
    return [*figures, {"name": "Time by stage", "caption": TIMES_CAPTION, "views": {"": draw_times(stages)}}]


def draw_tasks(rows: Rows, table: Table) -> Plot:
    """Base and specialized on each task, a panel for each domain and model: means over jobs, and each job faintly."""
    choices = [name for name in ("domain", "model") if name in table.varying]
    groups = group_rows(rows, lambda row: ", ".join(str(row.job.choices[name]) for name in choices))
    panels, max_tasks = {}, 0
    for title, group in groups.items():
        base, specialized = (_task_points(group, model) for model in ("base", "specialized"))
        panels[title] = [_connect(base[-1], specialized[-1]), *base, *specialized]
        max_tasks = max(max_tasks, len(base[-1]["y"]))
    if not max_tasks:
        return {"data": []}
    y_axis = {"autorange": "reversed", "showgrid": False, "tickfont": {"size": 11.5}}
    return arrange_panels(panels, 40 + 25 * max_tasks, {"title": axis_title(score_title(rows))}, y_axis, "x")


def draw_gains(rows: Rows, table: Table) -> Plot:
    """Specialized minus base: a heat map of means over jobs, by domain and model."""
    rows = [row for row in rows if GAIN in row.cells]
    gains: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        gains.setdefault((row.job.choices["domain"], row.job.choices["model"]), []).append(row.cells[GAIN].value)
    domains, models = (list(dict.fromkeys(pair[i] for pair in gains)) for i in (0, 1))
    means = {pair: statistics.fmean(values) for pair, values in gains.items()}
    text = {
        pair: f"{format_number(mean, True).replace('-', '−')}<br>{count_noun(len(gains[pair]), 'job')}"
        for pair, mean in means.items()
    }
    limit = max(map(abs, means.values()), default=0.0) or 1.0
    heat = {"type": "heatmap", "x": models, "y": domains, "xgap": 3, "ygap": 3, "hoverinfo": "skip"}
    heat |= {"z": [[means.get((domain, model)) for model in models] for domain in domains]}
    heat |= {"text": [[text.get((domain, model), "") for model in models] for domain in domains]}
    heat |= {"texttemplate": "%{text}", "zmin": -limit, "zmax": limit, "colorscale": LOSS_TO_GAIN}
    heat |= {"colorbar": {"thickness": 12, "outlinewidth": 0}}
    x_axis = {"title": axis_title(f"specialized − base: {score_title(rows)}" if rows else ""), "showgrid": False}
    return arrange_panels({"": [heat] if rows else []}, 60 + 80 * len(domains), x_axis, {"autorange": "reversed"})


def draw_times(stages: Sequence[StageState]) -> Plot:
    """The time that each kind of stage took, and the time that sharing saved, in a unit that fits."""
    used = dict.fromkeys((stage.label for stage in stages), 0.0)
    saved = dict(used)
    for stage in stages:
        used[stage.label] += stage.seconds or 0.0
        saved[stage.label] += stage.seconds_saved or 0.0
    longest = max((used[label] + saved[label] for label in used), default=0.0)
    unit_seconds, unit = next((unit for unit in TIME_UNITS if longest >= unit[0]), TIME_UNITS[-1])
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(used),
            "x": [value / unit_seconds for value in seconds.values()],
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}, {name}: %{{x:.3g}} {unit}<extra></extra>",
        }
        for name, seconds, colour in (("used", used, COLOURS[0]), ("saved by sharing", saved, LIGHT_GREY))
    ]
    x_axis = {"title": axis_title(unit), "rangemode": "tozero"}
    plot = arrange_panels({"": bars}, 40 + 34 * len(used), x_axis, {"autorange": "reversed"})
    plot["layout"]["barmode"] = "stack"
    return plot


def _task_points(rows: Rows, model: str) -> list[Plot]:
    """The values of single jobs and then their means; of one job, its values with their intervals."""
    colour, symbol = (GREY, "circle-open") if model == "base" else (COLOURS[0], "diamond")
    by_task: dict[str, list[Estimate]] = {}
    for row in rows:
        for (scored, shots, measure, task), estimate in row.job.estimates.items():
            if (scored, shots, measure) == (model, row.shots, row.measure) and task != "all":
                by_task.setdefault(task.replace("_", " "), []).append(estimate)
    means = {
        "x": [statistics.fmean(estimate.value for estimate in estimates) for estimates in by_task.values()],
        "y": list(by_task),
        "mode": "markers",
        "marker": {"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2 if model == "base" else 0}},
        "name": MODEL_NAMES[model],
        "legendgroup": model,
        "hovertemplate": f"%{{y}}, {MODEL_NAMES[model]}: %{{x:.3f}}<extra></extra>",
    }
    if len(rows) == 1:
        return [{**means, "error_x": error_bars([e for estimates in by_task.values() for e in estimates])}]
    single_jobs = {
        "x": [estimate.value for estimates in by_task.values() for estimate in estimates],
        "y": [task for task, estimates in by_task.items() for _ in estimates],
        "mode": "markers",
        "marker": {"color": colour, "size": 5, "opacity": 0.4},
        "showlegend": False,
        "legendgroup": model,
        "hoverinfo": "skip",
    }
    return [single_jobs, means]


def _connect(base: Plot, specialized: Plot) -> Plot:
    """A bar from the mean of the base to that of the specialized model, for each task."""
    ends = dict(zip(specialized["y"], specialized["x"], strict=True))
    return {
        "x": [x for start, task in zip(base["x"], base["y"], strict=True) for x in (start, ends.get(task), None)],
        "y": [task for task in base["y"] for _ in range(3)],
        "mode": "lines",
        "line": {"color": LIGHT_GREY, "width": 5},
        "hoverinfo": "skip",
        "showlegend": False,
    }
