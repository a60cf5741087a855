"""Held: the embedded domains are whole, balanced and well formed, and no evaluation question leaks from a seed."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from selfspec import records, resolvers
from selfspec.config import TaskType
from selfspec.filters import words
from selfspec.prompts import INPUT_STOP
from selfspec.records import SEPARATOR, Question, Seed
from selfspec.scoring.metrics import rouge_l
from selfspec.store import file_hash

PROJECT = Path(__file__).parents[1]
# The evaluation sets are frozen: they were fixed before the first measured run, and choose nothing.
# Whoever corrects a question changes its hash here, and must list the correction in docs/.
FROZEN = {
    "biomedicine": "a311f12052754372da15a9cbc0fce3c42fa9feb4688d54aa744ea0bc5d1116fe",
    "finance": "3fb01c5b6e21fc00dce34590d52385f76f4384f880732daa862a0b156243a11b",
}
RUN = 8  # words in a row that a question and a seed may not share, but for how the question itself is put


@dataclass(frozen=True)
class Domain:
    """An embedded domain, read through its YAML as a run reads it."""

    name: str
    tasks: dict[str, TaskType]
    seeds: list[Seed]
    questions: list[Question]
    evaluation: Path

    def answered(self, kind: str) -> list[tuple[Seed | Question, tuple[str, ...]]]:
        """Seeds and questions of a kind, each with its answers."""
        rows: list[tuple[Seed | Question, tuple[str, ...]]] = [(seed, (seed.output,)) for seed in self.seeds]
        rows += [(question, question.answers) for question in self.questions]
        return [(row, answers) for row, answers in rows if self.tasks[row.task_type].kind == kind]


@pytest.fixture(scope="module", params=sorted(FROZEN))
def domain(request: pytest.FixtureRequest) -> Domain:
    resolvers.register(PROJECT)
    config = OmegaConf.load(PROJECT / "conf" / "domain" / f"{request.param}.yaml")
    tasks = {str(name): TaskType(**task) for name, task in config.tasks.items()}
    seeds, evaluation = Path(config.seeds), Path(config.evaluation)
    return Domain(
        config.name, tasks, records.read_seeds(seeds, tasks), records.read_questions(evaluation, tasks), evaluation
    )


def test_there_are_thirty_seeds_and_a_hundred_questions(domain: Domain) -> None:
    assert (len(domain.seeds), len(domain.questions)) == (30, 100)


def test_every_task_type_has_seeds_and_questions_and_a_known_kind(domain: Domain) -> None:
    assert {seed.task_type for seed in domain.seeds} == set(domain.tasks)
    assert {question.task_type for question in domain.questions} == set(domain.tasks)
    assert {task.kind for task in domain.tasks.values()} <= set(records.KINDS)
    assert len({task.about.casefold() for task in domain.tasks.values()}) == len(domain.tasks)


def test_every_task_type_and_closed_label_is_among_the_shown_seeds(domain: Domain) -> None:
    shown, held_out = records.split(domain.seeds)
    assert len(held_out) == 8
    assert {seed.task_type for seed in shown} == set(domain.tasks)
    for name, task in domain.tasks.items():
        if task.kind == "label":
            said = {seed.output for seed in shown if seed.task_type == name}
            assert said == {seed.output for seed in domain.seeds if seed.task_type == name}, name


def test_no_seed_holds_what_would_end_it_in_the_list_of_tasks(domain: Domain) -> None:
    for seed in domain.seeds:
        text = re.sub(r"\n\s*\n", "\n", f" {seed.input}")
        assert [stop for stop in INPUT_STOP if stop in text] == [], seed.id


def test_closed_labels_are_balanced(domain: Domain) -> None:
    closed = [name for name, task in domain.tasks.items() if task.kind == "label"]
    assert closed
    for name in closed:
        mine = [question for question in domain.questions if question.task_type == name]
        commonest = Counter(question.answers[0] for question in mine).most_common(1)[0][1] / len(mine)
        assert commonest <= 1 / max(len(question.options) for question in mine) + 0.1, name


def test_entities_are_typed_and_stand_in_their_inputs(domain: Domain) -> None:
    rows = domain.answered("entities")
    assert sum(answers != ("none",) for _, answers in rows) > 8
    for row, answers in rows:
        for part in (part for answer in answers if answer != "none" for part in answer.split(SEPARATOR)):
            match = re.fullmatch(r"(.+) \(([a-z ]+)\)", part)
            assert match, (row.id, part)
            assert match[1] in row.input, (row.id, match[1])


def test_answers_in_numbers_are_numbers(domain: Domain) -> None:
    rows = domain.answered("number")
    assert bool(rows) == (domain.name == "finance")
    for row, answers in rows:
        assert all(math.isfinite(float(answer)) for answer in answers), row.id


def test_no_question_repeats_the_input_of_a_seed_or_of_a_question(domain: Domain) -> None:
    texts = [seed.input for seed in domain.seeds] + [question.input for question in domain.questions]
    inputs = Counter(" ".join(words(text)) for text in texts)
    assert "" not in inputs
    assert [text for text, count in inputs.items() if count > 1] == []


def test_no_question_shares_thirteen_words_in_a_row_with_a_seed(domain: Domain) -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        cut = words(text.split("\nQuestion:", maxsplit=1)[0])
        return {tuple(cut[place : place + RUN]) for place in range(len(cut) - RUN + 1)}

    seen = {run: seed.id for seed in domain.seeds for run in runs(seed.input)}
    assert len(seen) > 100
    shared = {(question.id, seen[run]) for question in domain.questions for run in runs(question.input) & set(seen)}
    assert shared == set()


def test_no_question_is_near_a_seed_by_rouge_l(domain: Domain) -> None:
    near = [
        (question.id, seed.id)
        for question in domain.questions
        for seed in domain.seeds
        if rouge_l(f"{question.instruction} {question.input}", f"{seed.instruction} {seed.input}") > 0.7
    ]
    assert near == []


def test_the_evaluation_set_is_frozen(domain: Domain) -> None:
    assert file_hash(domain.evaluation) == FROZEN[domain.name]
