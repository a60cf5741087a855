"""A sweep's report as Markdown, for an issue or a paper's draft: the main table, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfspec.reporting.markdown import markdown_table
from selfspec.reporting.sweep.state import JobState
from selfspec.reporting.sweep.table import GAPS, HEADS, TITLES, Table, row_sentences


def sweep_markdown(title: str, said: Sequence[str], table: Table, others: Sequence[JobState], costs: str) -> str:
    """The whole file.

    Args:
        title: Of the page.
        said: Sentences on how far the sweep is and what all of its jobs share.
        table: The main table; here a table a measure.
        others: Jobs that are not done.
        costs: What the stages cost, in a sentence.
    """
    heads = [*_heads(table), "shots", *(TITLES[name] for name in table.columns)]
    note = "In brackets: 95% bootstrap interval over questions; differences are paired."
    parts = [f"# {title}", " ".join(said), note]
    for measure in table.measures:
        rows = [
            [*_chosen(row.job, table), row.shots, *(row_sentences(row.cells.get(n), n in GAPS) for n in table.columns)]
            for row in table.rows
            if row.measure == measure
        ]
        name = table.measures[measure]
        parts += [f"## {name[0].upper()}{name[1:]}", markdown_table(heads, rows)]
    if others:
        why = [[*_chosen(job, table), job.state, job.message, job.log] for job in others]
        parts += ["## Failed and missing", markdown_table([*_heads(table), "state", "why", "log"], why)]
    return "\n\n".join([*parts, "## Stages", costs]) + "\n"


def _heads(table: Table) -> list[str]:
    return ["job", *(HEADS[name] for name in table.varying), *(["overrides"] if table.differ else [])]


def _chosen(job: JobState, table: Table) -> list[Any]:
    other = [table.other[job.number]] if table.differ else []
    return [job.number, *(job.choices[name] for name in table.varying), *other]
