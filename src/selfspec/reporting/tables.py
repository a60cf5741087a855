"""The tables that the terminal shows at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfspec.reporting.cells import (
    MODEL_NAMES,
    OFF_DOMAIN_MEASURES,
    excludes_zero,
    find_score,
    format_cell,
    format_number,
)
from selfspec.reporting.harness_table import harness_table


def results_table(report: Mapping[str, Any]) -> RenderableType:
    """Scores in the domain, off-domain scores and lm-evaluation-harness if there are any, and the notes.

    Args:
        report: What `results.json` holds.
    """
    parts: list[RenderableType] = [*_score_tables(report, report["title"], report["measures"])]
    if off_domain := report.get("off_domain"):
        parts += _score_tables(off_domain, f"off-domain, {off_domain['name']}", OFF_DOMAIN_MEASURES)
    if report.get("harness"):
        parts.append(harness_table(report["harness"]))
    return Group(*parts, Text("\n".join(report["notes"])))


def _score_tables(report: Mapping[str, Any], title: str, measures: Iterable[str]) -> list[Table]:
    """One table for each number of shots: measures by model, then differences between the last model and the others."""
    scores = report["scores"]
    models = list(dict.fromkeys(row["model"] for row in scores))
    names = [MODEL_NAMES.get(model, model) for model in models]
    measures = [measure for measure in measures if find_score(scores, measure=measure, task="all")]
    tables = []
    for shots in sorted({row["shots"] for row in scores}):
        head = f"{title}: {shots} shots, mean over task types"
        table = Table(title=Text(head), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
        table.add_column("measure")
        for name in (*names, *(f"{names[-1]} - {name}" for name in names[:-1])):
            table.add_column(name, justify="right")
        for measure in measures:
            table.add_row(Text(report["measures"][measure]), *_score_cells(report, models, shots, measure))
        tables.append(table)
    return tables


def _score_cells(report: Mapping[str, Any], models: Sequence[str], shots: int, measure: str) -> list[str | Text]:
    """The value of each model, then the differences; bold where the interval excludes zero."""
    columns = {"shots": shots, "measure": measure, "task": "all"}
    cells: list[str | Text] = []
    for model in models:
        score = find_score(report["scores"], model=model, **columns)
        cells.append(format_number(score["value"]) if score else "")
    for model in models[:-1]:
        difference = find_score(report["differences"], model=models[-1], minus=model, **columns)
        style = "bold" if difference and excludes_zero(difference) else "dim"
        cells.append(Text(format_cell(difference, signed=True), style=style) if difference else "")
    return cells
