"""Write a sweep's report from `sweep.json`, the jobs' results and the store, at any time, also before the sweep ends.

selfspec report multirun/2026-01-31/12-00-00
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from selfspec.reporting.cells import format_number
from selfspec.reporting.sweep.figures import draw_figures
from selfspec.reporting.sweep.markdown import sweep_markdown
from selfspec.reporting.sweep.state import SweepState, read_sweep
from selfspec.reporting.sweep.table import (
    CHOICE_OVERRIDES,
    CHOICES,
    DIFFERENCES,
    LOSS_TITLE,
    TITLES,
    Table,
    average_over_seeds,
    build_table,
    format_loss,
)
from selfspec.runtime.files import write_atomic

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # of cells that a spreadsheet would compute
UNDONE_STATES = ("failed", "cancelled", "running", "waiting", "missing")  # of jobs


COMMON_DRAWS = (
    "Jobs with the same seed share their random draws wherever they can (common random numbers), so two such jobs "
    "differ in their settings, not in their draws."
)


def write_sweep_report(folder: Path) -> None:
    """Write `report.html`, `report.md` and `report.csv` beside `sweep.json`.

    Raises:
        UserError: the folder is not one of a sweep.
    """
    sweep = read_sweep(folder)
    table = build_table(sweep.jobs)
    title = f"Sweep {' / '.join(sweep.folder.parts[-2:])}"
    undone = [job for job in sweep.jobs if job.state != "done"]
    summary, costs = _summarize(sweep, table), _describe_costs(sweep)
    files = {
        "report.csv": _csv(sweep),
        "report.md": sweep_markdown(title, summary, COMMON_DRAWS, table, sweep.jobs, costs),
        "report.html": _page(sweep, table, title=title, summary=summary, undone=undone, costs=costs),
    }
    for name, text in files.items():
        write_atomic(sweep.folder / name, text.encode())


def _page(sweep: SweepState, table: Table, **facts: Any) -> str:
    """The page with plotly's code in it, so it opens from disk and needs no network."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("selfspec", "reporting/sweep"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["format_number"] = format_number
    environment.filters["format_loss"] = format_loss
    return environment.get_template("sweep.html.j2").render(
        facts,
        common_draws=COMMON_DRAWS,
        sweep=sweep,
        table=table,
        seed_rows=average_over_seeds(table),
        chances={job.choices["domain"]: job.chance for job in sweep.jobs if job.chance is not None},
        time=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        heads=CHOICES,
        measures=table.measures,
        titles=TITLES,
        loss_title=LOSS_TITLE,
        differences=[name for name in DIFFERENCES if name in table.columns],
        figures=draw_figures(table, sweep.stages),
        plotly=Markup(get_plotlyjs()),  # plotly's own code, with no text of a user
    )


def _summarize(sweep: SweepState, table: Table) -> list[str]:
    """Sentences on the progress of the sweep and on what all jobs have in common."""
    states = [job.state for job in sweep.jobs]
    counts = [f"{states.count(state)} {state}" for state in UNDONE_STATES if state in states]
    summary = [", ".join([f"{states.count('done')} of {len(states)} jobs done", *counts]) + "."]
    if table.fixed:
        summary.append(f"All jobs: {', '.join(f'{CHOICES[name]} {value}' for name, value in table.fixed.items())}.")
    if len(table.shots) == 1:
        summary.append(f"All scores: {table.shots[0]} shots.")
    return summary


def _describe_costs(sweep: SweepState) -> str:
    """A sentence on the costs of the stages, compared with those of separate jobs."""
    num_done = sum(stage.state == "done" for stage in sweep.stages)
    num_separate = sum(job.num_stages for job in sweep.jobs)
    return (
        f"{len(sweep.jobs)} jobs need {len(sweep.stages)} stages, of which {num_done} are done; separate jobs would "
        f"need {num_separate} stage runs. The stages took {_duration(sweep.seconds_used)}; sharing the finished ones "
        f"saved {_duration(sweep.seconds_saved)}."
    )


def _csv(sweep: SweepState) -> str:
    """Every number: a line for each job, model (or difference of two models), number of shots, task and measure."""
    keys = dict.fromkeys(key for job in sweep.jobs for key in job.settings if key not in CHOICE_OVERRIDES)
    file = io.StringIO()
    writer = csv.writer(file)

    def write(row: Sequence[Any]) -> None:
        writer.writerow(
            [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell for cell in row]
        )

    heads = ["scored_model", "shots", "task", "measure", "value", "low", "high", "command"]
    write(["job", "overrides", *CHOICES, *keys, "held_out_loss", *heads])
    for job in sweep.jobs:
        choices = [job.number, " ".join(job.overrides), *(job.choices.get(name) for name in CHOICES)]
        choices += [*(job.settings.get(key) for key in keys), job.held_out_loss]
        for (model, shots, measure, task), estimate in job.estimates.items():
            write([*choices, model, shots, task, measure, estimate.value, estimate.low, estimate.high, job.command])
    return file.getvalue()


def _duration(seconds: float) -> str:
    """`12.3 s`, `4.5 min`, `1.25 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.2f} h"
