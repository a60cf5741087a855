"""The table of results that the terminal shows at the end of a sweep."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as TerminalTable
from rich.text import Text

from selfspec.reporting.cells import format_number
from selfspec.reporting.sweep.table import (
    CHOICES,
    DIFFERENCES,
    GAIN,
    LOSS_TITLE,
    TITLES,
    Row,
    Table,
    format_loss,
)

MAX_ROWS = 60  # more are in the report alone


def sweep_results_table(table: Table) -> RenderableType:
    """A row for each job and number of shots: held-out loss, and scores by the first measure with the gain."""
    measure = next(iter(table.measures))
    columns = [column for column in table.columns if column == GAIN or column not in DIFFERENCES]
    rows = [row for row in table.rows if row.measure == measure]
    shown = TerminalTable(title=Text(f"{table.measures[measure]}, mean over task types"), title_justify="left")
    shown.box, shown.header_style, shown.padding = box.SIMPLE_HEAD, "bold", (0, 1)
    heads = ["job", *(CHOICES[name] for name in table.varying), *table.keys, LOSS_TITLE, "shots"]
    for head in (*heads, *(TITLES[column] for column in columns)):
        shown.add_column(Text(head), justify="right", overflow="fold")
    for row in rows[:MAX_ROWS]:
        shown.add_row(*(Text(str(cell)) for cell in _cells(row, table, columns)))
    hidden = [Text(f"{len(rows) - MAX_ROWS} more rows are in the report.")] if len(rows) > MAX_ROWS else []
    return Group(shown, *hidden)


def _cells(row: Row, table: Table, columns: list[str]) -> list[Any]:
    job = row.job
    choices = [job.number, *(job.choices[name] for name in table.varying)]
    settings = [job.settings.get(key, "") for key in table.keys]
    estimates = [row.cells.get(column) for column in columns]
    pairs = zip(columns, estimates, strict=True)
    scores = [format_number(estimate.value if estimate else None, column == GAIN) for column, estimate in pairs]
    return [*choices, *settings, format_loss(job.held_out_loss), row.shots, *scores]
