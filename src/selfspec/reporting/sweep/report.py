"""A sweep's report, drawn from `sweep.json`, the jobs' results and the store, at any time, also half way.

selfspec report multirun/2026-01-31/12-00-00
"""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from selfspec.reporting.sweep.markdown import sweep_markdown
from selfspec.reporting.sweep.state import SweepState, read_sweep
from selfspec.reporting.sweep.table import GAPS, HEADS, TITLES, Table, format_estimate, over_seeds, table_of
from selfspec.runtime.files import write_atomic

UNDONE = ("failed", "cancelled", "running", "waiting", "missing")  # states of jobs


def write_sweep_report(folder: Path) -> None:
    """`report.html`, `report.md` and `report.csv` beside `sweep.json`.

    Raises:
        UserError: the folder is not one of a sweep.
    """
    sweep = read_sweep(folder)
    table = table_of(sweep.jobs)
    title = f"Sweep {' / '.join(sweep.folder.parts[-2:])}"
    others = [job for job in sweep.jobs if job.state != "done"]
    said, costs = _summary_lines(sweep, table), _costs(sweep)
    pages = {
        "report.csv": _csv(sweep),
        "report.md": sweep_markdown(title, said, table, others, costs),
        "report.html": _page(sweep, table, title=title, said=said, others=others, costs=costs),
    }
    for name, page in pages.items():
        write_atomic(sweep.folder / name, page.encode())


def _page(sweep: SweepState, table: Table, **facts: Any) -> str:
    """The page, with plotly's code inside: it opens from disk with no network."""
    from plotly.offline import get_plotlyjs

    from selfspec.reporting.sweep.figures import draw_figures

    environment = Environment(
        loader=PackageLoader("selfspec", "reporting/sweep"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = format_estimate
    return environment.get_template("sweep.html.j2").render(
        facts,
        sweep=sweep,
        table=table,
        seeds=over_seeds(table),
        chances={job.choices["domain"]: job.chance for job in sweep.jobs if job.chance is not None},
        drawn=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        heads=HEADS,
        measures=table.measures,
        titles=TITLES,
        gaps=[name for name in GAPS if name in table.columns],
        figures=draw_figures(table, sweep.stages),
        plotly=Markup(get_plotlyjs()),  # ours to trust, and no text of a user
    )


def _summary_lines(sweep: SweepState, table: Table) -> list[str]:
    """How far the sweep is, and what all of its jobs share."""
    states = [job.state for job in sweep.jobs]
    counts = [f"{states.count(state)} {state}" for state in UNDONE if state in states]
    said = [", ".join([f"{states.count('done')} of {len(states)} jobs done", *counts]) + "."]
    if table.fixed:
        said.append(f"All jobs: {', '.join(f'{HEADS[name]} {value}' for name, value in table.fixed.items())}.")
    if len(table.shots) == 1:
        said.append(f"All scores: {table.shots[0]} shots.")
    return said


def _costs(sweep: SweepState) -> str:
    """What the stages cost, beside what the jobs would cost one by one."""
    done = sum(stage.state == "done" for stage in sweep.stages)
    return (
        f"{len(sweep.jobs)} jobs need {len(sweep.stages)} stages, of which {done} are done; as separate jobs that "
        f"would be {sum(job.runs for job in sweep.jobs)} stage runs. {_time(sweep.used)} used, {_time(sweep.saved)} "
        "saved by sharing those that are done."
    )


def _csv(sweep: SweepState) -> str:
    """Every number: a line a job, model (or difference of two), shots, task and measure."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["job", "overrides", *HEADS, "scored_model", "shots", "task", "measure", "value", "low", "high"])
    for job in sweep.jobs:
        chosen = [job.number, " ".join(job.overrides), *(job.choices.get(name) for name in HEADS)]
        for (model, shots, measure, task), found in job.estimates.items():
            writer.writerow([*chosen, model, shots, task, measure, found.value, found.low, found.high])
    return file.getvalue()


def _time(seconds: float | None) -> str:
    """`12.3 s`, `4.5 min`, `1.25 h`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.2f} h"
