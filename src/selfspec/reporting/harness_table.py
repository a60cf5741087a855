"""The results of lm-evaluation-harness side by side: base, specialized, and their difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from selfspec.reporting.markdown import markdown_table
from selfspec.reporting.tables import NAMES, format_cell, format_number

ARROWS = {True: "↑", False: "↓", None: ""}  # which way is better


Results = Sequence[Mapping[str, Any]]  # rows of a stage `harness`


def compare_harness_results(results: Mapping[str, Results]) -> list[dict[str, Any]]:
    """A row for each task and metric: every model's value, and what the last one is more than the first.

    The interval of the difference is normal, from the two standard errors, as if the models had answered different
    questions: they answered the same ones, so it is rather too wide. Without standard errors there is none.

    Args:
        results: `results.json` of each model, the base first.
    """
    first, last = next(iter(results)), list(results)[-1]
    found = {(m, row["task"], row["metric"]): row for m, rows in results.items() for row in rows}
    compared = []
    for row in results[first]:
        place = (row["task"], row["metric"])
        of_models = {model: found.get((model, *place), {}) for model in results}
        compared.append(
            {
                **{name: row[name] for name in ("task", "metric", "higher_is_better", "n", "shots")},
                "values": {model: mine.get("value") for model, mine in of_models.items()},
                "stderrs": {model: mine.get("stderr") for model, mine in of_models.items()},
                "difference": _difference(of_models[last], row) if first != last else None,
            }
        )
    return compared


def harness_table(compared: Sequence[Mapping[str, Any]]) -> Table:
    """The rows for a terminal; bold where the interval leaves zero out."""
    drawn = Table(title="lm-evaluation-harness", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    head, *rest = _heads(compared)
    drawn.add_column(head)
    for name in rest:
        drawn.add_column(name, justify="right")
    for row in compared:
        *cells, last = _cells(row)
        drawn.add_row(*cells, Text(last, style="bold" if _clear(row["difference"]) else "dim"))
    return drawn


def harness_markdown(compared: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a model card."""
    return markdown_table(_heads(compared), map(_cells, compared))


def harness_html(compared: Sequence[Mapping[str, Any]]) -> Markup:
    """The rows as a table for the report's page; `clear` where the interval leaves zero out."""
    drawn = Markup().join(Markup("<th>{}</th>").format(head) for head in _heads(compared))
    lines = [Markup("<tr>{}</tr>").format(drawn)]
    for row in compared:
        *cells, last = _cells(row)
        drawn = Markup().join(Markup("<td>{}</td>").format(text) for text in cells)
        style = "clear" if _clear(row["difference"]) else ""
        lines.append(Markup('<tr>{}<td class="{}">{}</td></tr>').format(drawn, style, last))
    return Markup('<div class="wide"><table>\n{}\n</table></div>').format(Markup("\n").join(lines))


def _difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float | None] | None:
    if mine.get("value") is None or theirs["value"] is None:
        return None
    value = mine["value"] - theirs["value"]
    if mine["stderr"] is None or theirs["stderr"] is None:
        return {"value": value, "low": None, "high": None}
    spread = 1.96 * math.hypot(mine["stderr"], theirs["stderr"])
    return {"value": value, "low": value - spread, "high": value + spread}


def _clear(gap: Mapping[str, Any] | None) -> bool:
    return gap is not None and gap["low"] is not None and (gap["low"] > 0 or gap["high"] < 0)


def _heads(compared: Sequence[Mapping[str, Any]]) -> list[str]:
    models = [NAMES.get(model, model) for model in (compared[0]["values"] if compared else ())]
    return ["task", "metric", "shots", "n", *models, f"{models[-1]} - {models[0]}" if models else "difference"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    gap, shown = row["difference"], ""
    if gap:
        shown = format_cell(gap, signed=True) if gap["low"] is not None else f"{gap['value']:+.3f}"
    values = ["" if value is None else format_number(value) for value in row["values"].values()]
    about = [row["task"], f"{row['metric']} {ARROWS[row['higher_is_better']]}".strip()]
    return [*about, *("" if row[name] is None else str(row[name]) for name in ("shots", "n")), *values, shown]
