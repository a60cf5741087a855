"""Rows of a sweep's table in groups, and the words that name them in figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfspec.data.text import count_noun
from selfspec.reporting.sweep.table import Row

Rows = Sequence[Row]


def group_rows(rows: Rows, name: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The rows by name, in the order in which the names first occur."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return groups


def score_title(rows: Rows) -> str:
    """`token F1, 5 shots`, for rows of one measure and one number of shots."""
    return f"{rows[0].job.measures[rows[0].measure]}, {count_noun(rows[0].shots, 'shot')}"
