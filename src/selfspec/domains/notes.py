"""Checks whose findings may be intended. Each takes lines and yields messages that begin with file and line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from selfspec.data.arithmetic import numbers_of_formula
from selfspec.data.numbers import find_digits, find_numbers
from selfspec.data.records import SEPARATOR
from selfspec.domains.lines import Line
from selfspec.evaluation.text_overlap import normalize_answer
from selfspec.filters.contamination import Contamination

# A formula may use these without the task: small factors, units of time, per cent, per thousand.
CONSTANTS = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 24.0, 52.0, 60.0, 100.0, 365.0, 1000.0, 10000.0}


def find_answers_not_in_input(lines: Sequence[Line]) -> Iterator[str]:
    """Short answers and list items that do not occur in their input: right only where they must be inferred."""
    for line in (line for line in lines if line.row.input and line.kind in ("short", "list")):
        text, answers = normalize_answer(line.row.input), line.row.answers
        if line.kind == "short":
            absent = [] if any(normalize_answer(answer) in text for answer in answers) else [answers[0]]
        else:
            absent = [part for part in answers[0].split(SEPARATOR) if normalize_answer(part) not in text]
        for answer in absent:
            yield f"{line.location}: the answer '{answer}' does not occur in the input."


def find_lists_with_commas(lines: Sequence[Line]) -> Iterator[str]:
    """Lists of one item with commas: perhaps several items."""
    for line in (line for line in lines if line.kind == "list"):
        for answer in line.row.answers:
            if "," in answer and SEPARATOR.strip() not in answer:
                yield f"{line.location}: the answer '{answer}' is one item; separate items with '{SEPARATOR}'."


def find_unverified_numbers(lines: Sequence[Line]) -> Iterator[str]:
    """Numbers without a formula, and formulas with a number that neither the task nor CONSTANTS has."""
    for line in (line for line in lines if line.kind == "number"):
        if not line.row.formula:
            yield f"{line.location}: a number without the field 'formula' can't be verified."
        text = f"{line.row.instruction} {line.row.input}"
        known = {abs(number.value) for number in find_numbers(text)} | set(find_digits(text)) | CONSTANTS
        for number in numbers_of_formula(line.row.formula):
            if number not in known:
                yield f"{line.location}: the number {number:g} of the formula does not occur in the task."


def find_overlaps(seeds: Sequence[Line], questions: Sequence[Line], num_words: int) -> Iterator[str]:
    """Seeds that share a run of at least `num_words` words with a question."""
    texts = [(line.row.id, line.row.input or line.row.instruction) for line in questions]
    contamination = Contamination(texts, num_words)
    for line in seeds:
        if reason := contamination.check_passage(line.row.input):
            yield f"{line.location}: the input shares text with an evaluation question ({reason})."


def find_unused_types(path: str, lines: Sequence[Line], task_types: Iterable[str]) -> Iterator[str]:
    """Task types of the domain that no row of a file has."""
    used = {line.row.task_type for line in lines}
    for task in task_types if lines else ():
        if task not in used:
            yield f"{path}: no row has task type {task}."
