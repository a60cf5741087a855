"""What may be wrong with a domain's seeds and questions: functions of lines that give complaints, by file and line.

A complaint is to be mended; a note is to be looked at. A number is computed again from its row's formula by the reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfspec.config.schema import Config
from selfspec.data.reading import read_questions, read_seeds
from selfspec.data.records import SEPARATOR, Draft, Question, Seed
from selfspec.data.splits import split_seeds
from selfspec.errors import UserError
from selfspec.evaluation.judgement import is_compliant
from selfspec.evaluation.metrics import normalize_answer
from selfspec.filters.contamination import Contamination
from selfspec.filters.duplicate import DuplicateInputs
from selfspec.filters.novelty import Novelty
from selfspec.filters.protocol import Candidate
from selfspec.launch.preparation import check_seed_counts
from selfspec.prompts.templates import INPUT_STOP

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


CONSTANTS = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 24.0, 52.0, 60.0, 100.0, 365.0, 1000.0, 10000.0}


COMMONEST, ROWS = 0.7, 6  # a label has too large a share over the first, in as many rows as the second or more


@dataclass(frozen=True)
class Line:
    """A seed or a question where it stands; a seed is a question with one answer."""

    path: Path
    number: int
    row: Question

    @property
    def kind(self) -> str:
        """Of the row's answer."""
        return self.row.kind

    @property
    def place(self) -> str:
        """As complaints begin."""
        return f"{self.path}, line {self.number}"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a closed answer says; nothing for other kinds."""
        if self.kind == "label":
            return self.row.answers[:1]
        return tuple(self.row.answers[0].split(SEPARATOR)) if self.kind == "labels" else ()


@dataclass
class Findings:
    """What was read of a domain's two files, and what was found in it."""

    seeds: list[Line] = field(default_factory=list)
    questions: list[Line] = field(default_factory=list)
    held_out: set[str] = field(default_factory=set)  # ids of seeds
    complaints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_domain(config: Config) -> Findings:
    """Everything that can be said of a domain; a file with a bad line is named for that line alone."""
    domain, found = config.domain, Findings()
    try:
        seeds = read_seeds(Path(domain.seeds), domain.tasks)
        asked = [_asked(seed, domain.tasks[seed.task_type].kind) for seed in seeds]
        found.seeds = read_lines(Path(domain.seeds), asked)
        found.held_out = {seed.id for seed in split_seeds(seeds)[1]}
        check_seed_counts(config, domain)
    except UserError as error:
        found.complaints.append(str(error))
    try:
        questions = read_questions(Path(domain.evaluation), domain.tasks)
        found.questions = read_lines(Path(domain.evaluation), questions)
    except UserError as error:
        found.complaints.append(str(error))
    both = found.seeds + found.questions
    found.complaints += near_duplicates(both, config.generation.filters.novelty_threshold)
    for look in CHECKS:
        found.complaints += [*look(found.seeds), *look(found.questions)]
    found.complaints += [*answer_ends(found.seeds), *unused_topics_or_types(found.seeds, found.held_out)]
    found.notes = [*spans(both), *formula_findings(both), *overlaps(config, found), *missing_formulas(config, found)]
    return found


def read_lines(path: Path, rows: Iterable[Question]) -> list[Line]:
    """Rows of a file with their lines: the reader leaves out blank ones, and nothing else."""
    text = path.read_text(encoding="utf-8").split("\n")
    numbers = (number for number, line in enumerate(text, start=1) if line.strip())
    return [Line(path, n, row) for n, row in zip(numbers, rows, strict=True)]


def near_duplicates(some: Sequence[Line], threshold: float) -> Iterator[str]:
    """Rows that the filter of novelty would drop, behind those before them."""
    known, inputs = Novelty([], threshold), DuplicateInputs([])
    for line in some:
        row = line.row
        name = f"line {line.number} of {line.path.name}"
        candidate = Candidate(name, Draft(row.task_type, row.instruction, row.input, row.options), row.kind)
        if reason := inputs.check(candidate) or known.check(candidate):
            yield f"{line.place}: nothing new, {reason}."
        known.keep(candidate)
        inputs.keep(candidate)


def balance(some: Sequence[Line]) -> Iterator[str]:
    """Labels that are never the answer, where there are as many rows as labels, or that nearly always are."""
    for task, mine in group_by_task(some).items():
        for label, count in label_counts(mine).items():
            offered = [line for line in mine if label in line.row.options]
            if not count and len(offered) >= max(len(line.row.options) for line in offered):
                yield f"{offered[0].place}: label '{label}' of {task} is never the answer ({describe_answers(mine)})."
            elif len(offered) >= ROWS and count > COMMONEST * len(offered):
                share = f"{count} of {len(offered)}"
                yield f"{offered[0].place}: label '{label}' of {task} is the answer in {share} rows ({describe_answers(mine)})."


def forms(some: Sequence[Line]) -> Iterator[str]:
    """Answers that the measure of format would call wrong, numbers that the scorer can't read among them."""
    for line in some:
        for answer in line.row.answers:
            if not is_compliant(line.row, answer):
                yield f"{line.place}: the answer '{answer}' has not the form of kind {line.kind}."


def options(some: Sequence[Line]) -> Iterator[str]:
    """Options that can't be answered, beyond what the reader refuses."""
    for line in some:
        if line.kind == "labels":
            for option in line.row.options:
                if re.search("[;,]", option):
                    yield f"{line.place}: the option '{option}' holds a comma or semicolon, where answers are cut."
        elif line.row.options:
            for answer in (answer for answer in line.row.answers if answer not in line.row.options):
                yield f"{line.place}: the answer '{answer}' is not among the options {list(line.row.options)}."


def entities(some: Sequence[Line]) -> Iterator[str]:
    """Entities that don't stand in their input, letter by letter."""
    for line in some:
        parts = [part for answer in line.row.answers if answer != "none" for part in answer.split(SEPARATOR)]
        for mention in (part.rpartition(" (")[0] for part in parts if line.kind == "entities"):
            if mention not in line.row.input:
                yield f"{line.place}: the entity '{mention}' does not stand in the input."


CHECKS: tuple[Callable[[Sequence[Line]], Iterator[str]], ...] = (balance, forms, options, entities)


def answer_ends(seeds: Sequence[Line]) -> Iterator[str]:
    """Seeds that hold what ends an input: a prompt that shows them teaches the model to stop early."""
    for line in seeds:
        text = re.sub(r"\n\s*\n", "\n", f" {line.row.input}")
        for stop in (stop for stop in INPUT_STOP if stop in text):
            yield f"{line.place}: the input has a line that begins with '{stop.strip()}', which ends an input."


def unused_topics_or_types(seeds: Sequence[Line], held_out: set[str]) -> Iterator[str]:
    """Task types and labels that no model is ever shown, since only held-out seeds have them."""
    shown = [line for line in seeds if line.row.id not in held_out]
    types = {line.row.task_type for line in shown}
    labels = {(line.row.task_type, label) for line in shown for label in line.labels}
    for line in (line for line in seeds if line.row.id in held_out):
        task = line.row.task_type
        if task not in types:
            yield f"{line.place}: every seed of {task} is held out; write more of them."
        for label in (label for label in line.labels if task in types and (task, label) not in labels):
            yield f"{line.place}: every seed of {task} with label '{label}' is held out; write more of them."


def spans(some: Sequence[Line]) -> Iterator[str]:
    """Short answers and items of lists that don't stand in their input: right where they had to be worked out."""
    for line in (line for line in some if line.row.input and line.kind in ("short", "list")):
        text, answers = normalize_answer(line.row.input), line.row.answers
        if line.kind == "short":
            unseen = [] if any(normalize_answer(answer) in text for answer in answers) else [answers[0]]
        else:
            unseen = [part for part in answers[0].split(SEPARATOR) if normalize_answer(part) not in text]
        for answer in unseen:
            yield f"{line.place}: '{answer}' does not stand in the input."


def overlaps(config: Config, found: Findings) -> Iterator[str]:
    """Seeds that share a run of words with a question: what a model is shown, it may be asked."""
    asked = [(line.row.id, line.row.input or line.row.instruction) for line in found.questions]
    runs = Contamination(asked, config.generation.contamination.words)
    for line in found.seeds:
        if reason := runs.check_passage(line.row.input):
            yield f"{line.place}: the input has {reason}, an evaluation question."


def missing_formulas(config: Config, found: Findings) -> Iterator[str]:
    """Task types of the domain without a row."""
    for path, some in ((config.domain.seeds, found.seeds), (config.domain.evaluation, found.questions)):
        for task in config.domain.tasks if some else ():
            if task not in group_by_task(some):
                yield f"{path}: no row has task type {task}."


def group_by_task(some: Sequence[Line]) -> dict[str, list[Line]]:
    """Lines by their task type."""
    groups: dict[str, list[Line]] = {}
    for line in some:
        groups.setdefault(line.row.task_type, []).append(line)
    return groups


def label_counts(mine: Sequence[Line]) -> dict[str, int]:
    """How often each label of closed tasks is the answer, those that never are included."""
    said = [label for line in mine for label in line.labels]
    offered = (option for line in mine if line.labels for option in line.row.options)
    return {label: said.count(label) for label in dict.fromkeys((*offered, *said))}


def describe_answers(mine: Sequence[Line]) -> str:
    """`yes 3, no 2`."""
    return ", ".join(f"{label} {count}" for label, count in label_counts(mine).items())


def formula_findings(some: Sequence[Line]) -> Iterator[str]:
    """Numbers without a formula, and numbers of a formula that the task does not hold (but for CONSTANTS)."""
    for line in (line for line in some if line.kind == "number"):
        if not line.row.formula:
            yield f"{line.place}: a number without the field 'formula' can't be computed again."
        text = f"{line.row.instruction} {line.row.input}".replace(",", "")
        known = {float(found) for found in _NUMBER.findall(text)} | CONSTANTS
        for found in _NUMBER.findall(line.row.formula):
            if float(found) not in known:
                yield f"{line.place}: the formula's {found} does not stand in the task."


def _asked(seed: Seed, kind: str) -> Question:
    return Question(
        seed.id,
        seed.task_type,
        kind,
        seed.instruction,
        seed.input,
        (seed.output,),
        seed.topic,
        seed.options,
        seed.formula,
    )
