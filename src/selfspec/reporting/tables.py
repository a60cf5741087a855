"""The tables that the terminal shows at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfspec.reporting.cells import OFF_DOMAIN_MEASURES, excludes_zero, format_cell, format_number, score_grids
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


def _score_tables(report: Mapping[str, Any], title: str, measures: Iterable[str]) -> Iterator[Table]:
    """One table for each number of shots: measures by model, then differences between the last model and the others."""
    for grid in score_grids(report, measures):
        head = f"{title}: {grid.shots} shots, mean over task types"
        table = Table(title=Text(head), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
        for place, name in enumerate(grid.heads):
            table.add_column(Text(name), justify="right" if place else "left")
        for heading, scores, differences in grid.rows:
            values = [format_number(score["value"]) if score else "" for score in scores]
            table.add_row(Text(heading), *values, *map(_difference_text, differences))
        yield table


def _difference_text(difference: Mapping[str, Any] | None) -> Text:
    """A difference; bold where its interval excludes zero."""
    if difference is None:
        return Text()
    return Text(format_cell(difference, signed=True), style="bold" if excludes_zero(difference) else "dim")
