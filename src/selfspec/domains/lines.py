"""Rows of a domain's files with their line numbers, and the labels that they have as answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfspec.data.reading import line_numbers
from selfspec.data.records import SEPARATOR, Question


@dataclass(frozen=True)
class Line:
    """A row with its file and line number; a seed is stored as a question with one answer."""

    path: Path
    number: int
    row: Question

    @property
    def kind(self) -> str:
        """Kind of the answer."""
        return self.row.kind

    @property
    def location(self) -> str:
        """File and line, as a message begins."""
        return f"{self.path}, line {self.number}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the answer of a closed task; empty for other kinds."""
        if self.kind == "label":
            return self.row.answers[:1]
        return tuple(self.row.answers[0].split(SEPARATOR)) if self.kind == "labels" else ()


def number_lines(path: Path, rows: Iterable[Question]) -> list[Line]:
    """The rows that were read from `path`, with their line numbers."""
    return [Line(path, number, row) for number, row in zip(line_numbers(path), rows, strict=True)]


def group_by_task(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Lines by their task type, in the order of first use."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.row.task_type, []).append(line)
    return groups


def count_labels(lines: Sequence[Line]) -> dict[str, int]:
    """How often each label is the answer; labels that are only offered count 0."""
    answers = [label for line in lines for label in line.labels]
    offered = [option for line in lines if line.labels for option in line.row.options]
    return {label: answers.count(label) for label in dict.fromkeys((*offered, *answers))}


def describe_labels(lines: Sequence[Line]) -> str:
    """`yes 3, no 2`; empty if no task is closed."""
    return ", ".join(f"{label} {count}" for label, count in count_labels(lines).items())
