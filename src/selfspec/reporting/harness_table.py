"""Results of lm-evaluation-harness side by side: base, specialized, and their difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from selfspec.reporting.cells import MODEL_NAMES, excludes_zero, format_cell, format_number
from selfspec.reporting.markdown import markdown_table

BETTER_DIRECTION = {True: "↑", False: "↓", None: ""}  # by `higher_is_better`


NORMAL_95 = 1.96  # standard errors on each side of a 95% interval


Results = Sequence[Mapping[str, Any]]  # rows of a stage `harness`


def compare_harness_results(results: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Compare the models on each task and metric: the value of each, and the last model minus the first.

    The interval of a difference is normal, from the two standard errors, as if the models had answered different
    questions. They answered the same ones, so it tends to be too wide. Without standard errors there is no interval.

    Args:
        results: `results.json` of each model, the base first.
    """
    first, last = next(iter(results)), list(results)[-1]
    by_metric = {(m, row["task"], row["metric"]): row for m, rows in results.items() for row in rows}
    compared = []
    for row in results[first]:
        by_model = {model: by_metric.get((model, row["task"], row["metric"]), {}) for model in results}
        compared.append(
            {
                **{name: row[name] for name in ("task", "metric", "higher_is_better", "n", "shots")},
                "values": {model: result.get("value") for model, result in by_model.items()},
                "stderrs": {model: result.get("stderr") for model, result in by_model.items()},
                "difference": _difference(by_model[last], row) if first != last else None,
            }
        )
    return compared


def harness_table(compared: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as a table for the terminal; a difference is bold if its interval excludes zero."""
    table = Table(title="lm-evaluation-harness", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    first, *others = _heads(compared)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    for row in compared:
        *cells, difference = _cells(row)
        table.add_row(*map(Text, cells), Text(difference, style="bold" if _is_clear(row["difference"]) else "dim"))
    return table


def harness_markdown(compared: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table for a model card."""
    return markdown_table(_heads(compared), map(_cells, compared))


def harness_html(compared: Sequence[Mapping[str, Any]]) -> Markup:
    """The rows as a table for the run's page; a difference has the class `clear` if its interval excludes zero."""
    heads = Markup().join(Markup("<th>{}</th>").format(head) for head in _heads(compared))
    lines = [Markup("<tr>{}</tr>").format(heads)]
    for row in compared:
        *texts, difference = _cells(row)
        cells = Markup().join(Markup("<td>{}</td>").format(text) for text in texts)
        style = "clear" if _is_clear(row["difference"]) else ""
        lines.append(Markup('<tr>{}<td class="{}">{}</td></tr>').format(cells, style, difference))
    return Markup('<div class="wide"><table>\n{}\n</table></div>').format(Markup("\n").join(lines))


def _difference(result: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float | None] | None:
    if result.get("value") is None or base["value"] is None:
        return None
    value = result["value"] - base["value"]
    if result["stderr"] is None or base["stderr"] is None:
        return {"value": value, "low": None, "high": None}
    half_width = NORMAL_95 * math.hypot(result["stderr"], base["stderr"])
    return {"value": value, "low": value - half_width, "high": value + half_width}


def _is_clear(difference: Mapping[str, Any] | None) -> bool:
    return difference is not None and excludes_zero(difference)


def _heads(compared: Sequence[Mapping[str, Any]]) -> list[str]:
    models = [MODEL_NAMES.get(model, model) for model in (compared[0]["values"] if compared else ())]
    return ["task", "metric", "shots", "n", *models, f"{models[-1]} - {models[0]}" if models else "difference"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    metric = f"{row['metric']} {BETTER_DIRECTION[row['higher_is_better']]}".strip()
    counts = ["" if row[name] is None else str(row[name]) for name in ("shots", "n")]
    values = [format_number(value) for value in row["values"].values()]
    return [row["task"], metric, *counts, *values, _difference_text(row["difference"])]


def _difference_text(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    return format_cell(difference, signed=True)
