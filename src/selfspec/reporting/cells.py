"""Headings, numbers and rows as all tables show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MODEL_NAMES = {"base": "base", "seeds_only": "seeds only", "generic": "generic", "specialized": "specialized"}


OFF_DOMAIN_MEASURES = (  # a short table, also for the questions without overlap
    "token_f1",
    "primary_metric",
    "compliant",
    "label_accuracy",
    "option_auc",
)


def format_number(value: float) -> str:
    """Three decimals without a leading zero: `.123`, `-.045`, `1.000`."""
    text = f"{round(value, 3) + 0.0:.3f}"  # + 0.0: never -.000
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def format_cell(row: Mapping[str, Any], signed: bool = False) -> str:
    """A value with its 95% interval: `.123 (.045 to .201)`; with a plus sign if `signed` and positive."""
    value = format_number(row["value"])
    if signed and row["value"] > 0:
        value = f"+{value}"
    return f"{value} ({format_number(row['low'])} to {format_number(row['high'])})"


def excludes_zero(difference: Mapping[str, Any]) -> bool:
    """Whether the interval of a difference excludes zero; False if there is no interval."""
    low, high = difference["low"], difference["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def find_score(rows: Iterable[Mapping[str, Any]], **columns: Any) -> Mapping[str, Any] | None:
    """The first row of scores or differences with these values in its columns, or None."""
    return next((row for row in rows if all(row.get(name) == value for name, value in columns.items())), None)


def funnel_rows(funnel: Mapping[str, Any]) -> list[list[Any]]:
    """(filter, reason, number of dropped rows) for each reason in `funnel.json`."""
    return [[name, reason, count] for name, reasons in funnel["dropped"].items() for reason, count in reasons.items()]
