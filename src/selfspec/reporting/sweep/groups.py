"""Rows of a sweep's table in groups, and the words that name them in figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    return f"{rows[0].job.measures[rows[0].measure]}, {count_text(rows[0].shots, 'shot')}"


def count_text(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
