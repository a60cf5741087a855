"""Check the seeds and questions of a domain: problems that should be fixed, and notes to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from selfspec.config.schema import Config
from selfspec.data.reading import read_questions, read_seeds
from selfspec.data.records import Question, Seed
from selfspec.data.splits import split_seeds
from selfspec.domains import notes, problems
from selfspec.domains.lines import Line, number_lines
from selfspec.errors import UserError
from selfspec.launch.preparation import check_seeds


@dataclass
class Findings:
    """The rows of a domain's two files, and what the checks report; each message begins with file and line."""

    seeds: list[Line] = field(default_factory=list)
    questions: list[Line] = field(default_factory=list)
    held_out: set[str] = field(default_factory=set)  # ids of seeds
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_domain(config: Config) -> Findings:
    """Run every check on a domain; for a file that can't be read, the errors of its lines are the only problems."""
    findings = Findings()
    try:
        _read_seeds(config, findings)
    except UserError as error:
        findings.problems += str(error).split("\n")
    try:
        path = Path(config.domain.evaluation)
        findings.questions = number_lines(path, read_questions(path, config.domain.tasks))
    except UserError as error:
        findings.problems += str(error).split("\n")
    findings.problems += _find_problems(config, findings)
    findings.notes += _find_notes(config, findings)
    return findings


def _read_seeds(config: Config, findings: Findings) -> None:
    path, tasks = Path(config.domain.seeds), config.domain.tasks
    seeds = read_seeds(path, tasks)
    findings.seeds = number_lines(path, [_as_question(seed, tasks[seed.task_type].kind) for seed in seeds])
    findings.held_out = {seed.id for seed in split_seeds(seeds)[1]}
    check_seeds(config, config.domain)


def _find_problems(config: Config, findings: Findings) -> Iterator[str]:
    seeds, questions = findings.seeds, findings.questions
    yield from problems.find_duplicates(seeds + questions, config.generation.filters.novelty_threshold)
    for find in problems.CHECKS_OF_A_FILE:
        yield from (*find(seeds), *find(questions))
    yield from problems.find_early_stops(seeds, config.prompts.input_stop)
    yield from problems.find_unseen_types_and_labels(seeds, findings.held_out)


def _find_notes(config: Config, findings: Findings) -> Iterator[str]:
    domain, lines = config.domain, findings.seeds + findings.questions
    yield from notes.find_answers_not_in_input(lines)
    yield from notes.find_lists_with_commas(lines)
    yield from notes.find_unverified_numbers(lines)
    yield from notes.find_overlaps(findings.seeds, findings.questions, config.generation.contamination.words)
    yield from notes.find_unused_types(domain.seeds, findings.seeds, domain.tasks)
    yield from notes.find_unused_types(domain.evaluation, findings.questions, domain.tasks)


def _as_question(seed: Seed, kind: str) -> Question:
    return Question(
        id=seed.id,
        task_type=seed.task_type,
        kind=kind,
        instruction=seed.instruction,
        input=seed.input,
        answers=(seed.output,),
        topic=seed.topic,
        options=seed.options,
        formula=seed.formula,
    )
