"""A sweep's report as Markdown, for an issue or a paper's draft: the main table, and the jobs without results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfspec.reporting.cells import format_cell
from selfspec.reporting.markdown import markdown_table
from selfspec.reporting.sweep.state import JobState
from selfspec.reporting.sweep.table import CHOICES, DIFFERENCES, LOSS_TITLE, TITLES, Row, Table, format_loss

COMMANDS = "Each repeats one job, from any folder of the machine."
INTERVALS = "In brackets: 95% bootstrap interval over questions; differences are paired."


def sweep_markdown(
    title: str, summary: Sequence[str], common_draws: str, table: Table, jobs: Sequence[JobState], costs: str
) -> str:
    """Write the whole file.

    Args:
        title: Title of the report.
        summary: Sentences on the progress of the sweep and on what all jobs have in common.
        common_draws: The sentence on common random numbers.
        table: The main table; the file has one table for each measure.
        jobs: All jobs.
        costs: A sentence on the costs of the stages.
    """
    heads = [*_choice_heads(table), LOSS_TITLE, "shots", *(TITLES[column] for column in table.columns)]
    parts = [f"# {title}", " ".join(summary), f"{INTERVALS} {common_draws}"]
    for measure, heading in table.measures.items():
        rows = [_score_cells(row, table) for row in table.rows if row.measure == measure]
        parts += [f"## {heading[0].upper()}{heading[1:]}", markdown_table(heads, rows)]
    undone = [job for job in jobs if job.state != "done"]
    if undone:
        reasons = [[*_choice_cells(job, table), job.state, job.message, job.log] for job in undone]
        parts += ["## Jobs without results", markdown_table([*_choice_heads(table), "state", "reason", "log"], reasons)]
    commands = [f"- job {job.number}: `{job.command}`" for job in jobs if job.command]
    parts += ["## Commands", COMMANDS, "\n".join(commands)] if commands else []
    return "\n\n".join([*parts, "## Stages", costs]) + "\n"


def _choice_heads(table: Table) -> list[str]:
    return ["job", *(CHOICES[name] for name in table.varying), *table.keys]


def _choice_cells(job: JobState, table: Table) -> list[Any]:
    settings = job.settings
    return [job.number, *(job.choices[name] for name in table.varying), *(settings.get(key, "") for key in table.keys)]


def _score_cells(row: Row, table: Table) -> list[Any]:
    values = [
        format_cell(vars(row.cells[column]), column in DIFFERENCES) if column in row.cells else ""
        for column in table.columns
    ]
    return [*_choice_cells(row.job, table), format_loss(row.job.held_out_loss), row.shots, *values]
