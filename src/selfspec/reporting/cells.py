"""Headings, numbers and rows as all tables show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MODEL_NAMES = {"base": "base", "seeds_only": "seeds only", "generic": "generic", "specialized": "specialized"}


OFF_DOMAIN_MEASURES = (  # a short table, also for the questions without overlap
    "token_f1",
    "primary_metric",
    "format",
    "label_accuracy",
    "option_auc",
)


def format_number(value: float | None, signed: bool = False) -> str:
    """Three decimals without a leading zero: `.123`, `-.045`, `1.000`; signed: `+.010`; empty for None."""
    if value is None:
        return ""
    rounded = round(value, 3) + 0.0  # + 0.0: never -.000
    text = f"{rounded:.3f}"
    text = text.replace("0.", ".", 1) if abs(rounded) < 1 else text
    return f"+{text}" if signed and rounded > 0 else text


def format_cell(row: Mapping[str, Any], signed: bool = False) -> str:
    """A value with its 95% interval: `.123 (.045 to .201)`; the value alone if there is no interval."""
    text = format_number(row["value"], signed)
    if row["low"] is None or row["high"] is None:
        return text
    return f"{text} ({format_number(row['low'])} to {format_number(row['high'])})"


def excludes_zero(difference: Mapping[str, Any]) -> bool:
    """Whether the interval of a difference excludes zero; False if there is no interval."""
    low, high = difference["low"], difference["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def find_score(rows: Iterable[Mapping[str, Any]], **columns: Any) -> Mapping[str, Any] | None:
    """The first row of scores or differences with these values in its columns, or None."""
    return next((row for row in rows if all(row.get(name) == value for name, value in columns.items())), None)


@dataclass(frozen=True)
class ScoreGrid:
    """The means over task types at one number of shots.

    Attributes:
        shots: The number of few-shot examples.
        heads: Headings: the measure, each model, and the last model minus each other one.
        rows: For each measure its heading, the score of each model, and the differences; None where there is none.
    """

    shots: int
    heads: list[str]
    rows: list[tuple[str, list[Mapping[str, Any] | None], list[Mapping[str, Any] | None]]]


def score_grids(report: Mapping[str, Any], measures: Iterable[str]) -> Iterator[ScoreGrid]:
    """The scores of a report, one grid for each number of shots.

    Args:
        report: What `results.json` holds, or its part on off-domain scores.
        measures: Names of the measures; those without a score are left out.
    """
    scores, differences = report["scores"], report["differences"]
    *others, last = models = list(dict.fromkeys(row["model"] for row in scores))
    names = [MODEL_NAMES.get(model, model) for model in models]
    heads = ["measure", *names, *(f"{names[-1]} - {name}" for name in names[:-1])]
    measures = [measure for measure in measures if find_score(scores, measure=measure, task="all")]
    for shots in sorted({row["shots"] for row in scores}):
        rows = []
        for measure in measures:
            columns = {"shots": shots, "measure": measure, "task": "all"}
            values = [find_score(scores, model=model, **columns) for model in models]
            changes = [find_score(differences, model=last, minus=other, **columns) for other in others]
            rows.append((report["measures"][measure], values, changes))
        yield ScoreGrid(shots, heads, rows)


def funnel_rows(funnel: Mapping[str, Any]) -> list[list[Any]]:
    """(filter, reason, number of dropped rows) for each reason in `funnel.json`."""
    return [[name, reason, count] for name, reasons in funnel["dropped"].items() for reason, count in reasons.items()]
