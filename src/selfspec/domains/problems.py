"""Checks whose findings should be fixed. Each takes lines and yields messages that begin with file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from selfspec.data.records import NO_ANSWER, SEPARATOR, Draft
from selfspec.domains.lines import Line, count_labels, describe_labels, group_by_task
from selfspec.evaluation.judgement import is_compliant
from selfspec.filters.duplicate import DuplicateInputs
from selfspec.filters.novelty import Novelty
from selfspec.filters.protocol import Candidate

# A label is too frequent if it is the answer in more than this share of at least so many rows.
MAX_LABEL_SHARE, MIN_ROWS_FOR_SHARE = 0.7, 6


def find_duplicates(lines: Sequence[Line], novelty_threshold: float) -> Iterator[str]:
    """Rows that the duplicate and novelty filters would drop after the rows before them."""
    novelty, inputs = Novelty([], novelty_threshold), DuplicateInputs([])
    for line in lines:
        row = line.row
        name = f"line {line.number} of {line.path.name}"
        candidate = Candidate(name, Draft(row.task_type, row.instruction, row.input, row.options), row.kind)
        if reason := inputs.check(candidate) or novelty.check(candidate):
            yield f"{line.location}: this row is a duplicate ({reason})."
        novelty.keep(candidate)
        inputs.keep(candidate)


def find_unbalanced_labels(lines: Sequence[Line]) -> Iterator[str]:
    """Labels that are never the answer although there are as many rows as labels, or that nearly always are."""
    for task, group in group_by_task(lines).items():
        for label, count in count_labels(group).items():
            offered = [line for line in group if label in line.row.options]
            if not offered:  # `none`, the answer of kind labels without a label
                continue
            subject = f"{offered[0].location}: label '{label}' of {task}"
            if not count and len(offered) >= max(len(line.row.options) for line in offered):
                yield f"{subject} is never the answer ({describe_labels(group)})."
            elif len(offered) >= MIN_ROWS_FOR_SHARE and count > MAX_LABEL_SHARE * len(offered):
                yield f"{subject} is the answer in {count} of {len(offered)} rows ({describe_labels(group)})."


def find_wrong_formats(lines: Sequence[Line]) -> Iterator[str]:
    """Answers that the format metric would count as wrong, including numbers that the scorer can't read."""
    for line in lines:
        for answer in line.row.answers:
            if not is_compliant(line.row, answer):
                yield f"{line.location}: the answer '{answer}' does not have the format of kind {line.kind}."


def find_unusable_options(lines: Sequence[Line]) -> Iterator[str]:
    """Options that can't be answered, and answers that are not among the options, where the reader accepts them."""
    for line in lines:
        if line.kind == "labels":
            for option in line.row.options:
                if re.search("[;,]", option):
                    yield (
                        f"{line.location}: the option '{option}' contains a comma or semicolon, "
                        "which separate the labels of an answer."
                    )
        elif line.row.options:
            for answer in (answer for answer in line.row.answers if answer not in line.row.options):
                yield f"{line.location}: the answer '{answer}' is not among the options {list(line.row.options)}."


def find_absent_entities(lines: Sequence[Line]) -> Iterator[str]:
    """Entities that do not occur in their input literally."""
    for line in lines:
        parts = [part for answer in line.row.answers if answer != NO_ANSWER for part in answer.split(SEPARATOR)]
        for mention in (part.rpartition(" (")[0] for part in parts if line.kind == "entities"):
            if mention not in line.row.input:
                yield f"{line.location}: the entity '{mention}' does not occur in the input."


CHECKS_OF_A_FILE: tuple[Callable[[Sequence[Line]], Iterator[str]], ...] = (
    find_unbalanced_labels,
    find_wrong_formats,
    find_unusable_options,
    find_absent_entities,
)


def find_early_stops(seeds: Sequence[Line], input_stop: Sequence[str]) -> Iterator[str]:
    """Seeds whose input contains a stop text of generated inputs: as few-shot examples they teach early stopping."""
    for line in seeds:
        text = re.sub(r"\n\s*\n", "\n", f" {line.row.input}")
        for stop in (stop for stop in input_stop if stop in text):
            yield (
                f"{line.location}: the input has a line that begins with '{stop.strip()}', "
                "where a generated input would be cut off."
            )


def find_unseen_types_and_labels(seeds: Sequence[Line], held_out: set[str]) -> Iterator[str]:
    """Task types and labels that only held-out seeds have, so that no prompt shows them."""
    shown_lines = [line for line in seeds if line.row.id not in held_out]
    types = {line.row.task_type for line in shown_lines}
    labels = {(line.row.task_type, label) for line in shown_lines for label in line.labels}
    for line in (line for line in seeds if line.row.id in held_out):
        task = line.row.task_type
        if task not in types:
            yield f"{line.location}: every seed of {task} is held out; write more of them."
        for label in (label for label in line.labels if task in types and (task, label) not in labels):
            yield f"{line.location}: every seed of {task} with label '{label}' is held out; write more of them."
