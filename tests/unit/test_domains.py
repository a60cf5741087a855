"""The shipped domains are complete, balanced and well formed, and no evaluation question overlaps with a seed."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from selfspec.config.hashing import file_hash
from selfspec.config.resolvers import register_resolvers
from selfspec.config.schema import TaskType
from selfspec.data.reading import read_questions, read_seeds
from selfspec.data.records import KINDS, SEPARATOR, Question, Seed
from selfspec.data.splits import split_seeds
from selfspec.data.text import words
from selfspec.evaluation.text_overlap import rouge_l
from toys import prompts

PROJECT = Path(__file__).parents[2]
# The evaluation sets are frozen: they were fixed before the first measured run, and choose nothing.
# A corrected question changes the hash here, and the correction must be listed in docs/.
FROZEN = {
    "biomedicine": "4791ed8d39cf9189dd57bf9ad35bd3d34b3ea6d981c73a6a11f2b098d09e6816",
    "finance": "736741017c59ee724025f82c6357e105decf1e4fa6f2cdc5883590fd7870c9fa",
    "general": "5fb5e2ebce21e5c4f3ca79b6144388094c62bbe75179cbb926c4eaf4c93bd45f",
}
COUNTS = {"biomedicine": (80, 250), "finance": (90, 250), "general": (60, 100)}  # seeds, questions
SHARED_WORDS = 8  # consecutive words that a question and a seed may not share, except in the question itself


@dataclass(frozen=True)
class Domain:
    """A shipped domain, read from its YAML as in a run."""

    name: str
    tasks: dict[str, TaskType]
    seeds: list[Seed]
    questions: list[Question]
    evaluation: Path

    def rows_of_kind(self, kind: str) -> list[tuple[Seed | Question, tuple[str, ...]]]:
        """Seeds and questions of a kind of answers, each with its answers."""
        rows: list[tuple[Seed | Question, tuple[str, ...]]] = [(seed, (seed.output,)) for seed in self.seeds]
        rows += [(question, question.answers) for question in self.questions]
        return [(row, answers) for row, answers in rows if self.tasks[row.task_type].kind == kind]


def read_domain(name: str) -> Domain:
    """The domain of that name."""
    register_resolvers(PROJECT)
    config = OmegaConf.load(PROJECT / "conf" / "domain" / f"{name}.yaml")
    tasks = {str(name): TaskType(**task) for name, task in config.tasks.items()}
    seeds, evaluation = Path(config.seeds), Path(config.evaluation)
    return Domain(config.name, tasks, read_seeds(seeds, tasks), read_questions(evaluation, tasks), evaluation)


@pytest.fixture(scope="module", params=sorted(FROZEN))
def domain(request: pytest.FixtureRequest) -> Domain:
    return read_domain(request.param)


def test_the_number_of_seeds_and_questions_is_the_documented_one(domain: Domain) -> None:
    assert (len(domain.seeds), len(domain.questions)) == COUNTS[domain.name]


def test_task_types_have_equal_shares_of_the_seeds_and_nearly_equal_ones_of_the_questions(domain: Domain) -> None:
    assert len(set(Counter(seed.task_type for seed in domain.seeds).values())) == 1
    shares = Counter(question.task_type for question in domain.questions).values()
    assert max(shares) <= 1.25 * min(shares)


def test_every_seed_and_question_has_a_topic(domain: Domain) -> None:
    assert all(seed.topic for seed in domain.seeds) and all(question.topic for question in domain.questions)


def test_every_task_type_has_seeds_and_questions_and_a_known_kind(domain: Domain) -> None:
    assert {seed.task_type for seed in domain.seeds} == set(domain.tasks)
    assert {question.task_type for question in domain.questions} == set(domain.tasks)
    assert {task.kind for task in domain.tasks.values()} <= set(KINDS)
    assert len({task.about.casefold() for task in domain.tasks.values()}) == len(domain.tasks)


def test_every_task_type_and_closed_label_is_among_the_shown_seeds(domain: Domain) -> None:
    shown_seeds, held_out = split_seeds(domain.seeds)
    assert len(held_out) == max(8, len(domain.seeds) // 10)
    assert {seed.task_type for seed in shown_seeds} == set(domain.tasks)
    for name, task in domain.tasks.items():
        if task.kind == "label":
            labels = {seed.output for seed in shown_seeds if seed.task_type == name}
            assert labels == {seed.output for seed in domain.seeds if seed.task_type == name}, name


def test_no_seed_contains_a_stop_sequence_of_the_instruction_prompt(domain: Domain) -> None:
    for seed in domain.seeds:
        text = re.sub(r"\n\s*\n", "\n", f" {seed.input}")
        assert [stop for stop in prompts().templates.input_stop if stop in text] == [], seed.id


def test_closed_labels_are_balanced(domain: Domain) -> None:
    closed = [name for name, task in domain.tasks.items() if task.kind == "label"]
    assert closed
    for name in closed:
        questions = [question for question in domain.questions if question.task_type == name]
        labels = Counter(question.answers[0] for question in questions)
        assert (
            max(labels.values()) / len(questions) <= 1 / max(len(question.options) for question in questions) + 0.1
        ), name
        seed_labels = Counter(seed.output for seed in domain.seeds if seed.task_type == name)
        assert set(seed_labels) == set(labels) and max(seed_labels.values()) - min(seed_labels.values()) <= 2, name


def test_entities_have_a_type_and_are_in_their_inputs(domain: Domain) -> None:
    rows = domain.rows_of_kind("entities")
    assert (sum(answers != ("none",) for _, answers in rows) > 20) == (domain.name != "general")
    for row, answers in rows:
        for part in (part for answer in answers if answer != "none" for part in answer.split(SEPARATOR)):
            match = re.fullmatch(r"(.+) \(([a-z ]+)\)", part)
            assert match, (row.id, part)
            assert match[1] in row.input, (row.id, match[1])


def test_numeric_answers_equal_the_values_of_their_formulas(domain: Domain) -> None:
    rows = domain.rows_of_kind("number")
    assert bool(rows) == (domain.name != "biomedicine")
    for row, answers in rows:
        assert row.formula, row.id
        # Evaluated by Python, independently of the reader, which checks formulas too.
        assert re.fullmatch(r"[0-9. ()+*/-]+", row.formula), row.id
        computed = eval(row.formula)
        for answer in answers:
            assert math.isfinite(float(answer)), row.id
            decimals = len(answer.partition(".")[2])
            assert abs(computed - float(answer)) <= 0.5 * 10**-decimals + 1e-9, (row.id, computed, answer)


def test_ids_are_unique(domain: Domain) -> None:
    ids = [row.id for row in (*domain.seeds, *domain.questions)]
    assert len(set(ids)) == len(ids)


def test_no_question_repeats_the_input_of_a_seed_or_of_a_question(domain: Domain) -> None:
    texts = [seed.input for seed in domain.seeds] + [question.input for question in domain.questions]
    inputs = Counter(" ".join(words(text)) for text in texts)
    assert "" not in inputs
    assert [text for text, count in inputs.items() if count > 1] == []


def test_no_question_shares_eight_words_in_a_row_with_a_seed(domain: Domain) -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        text_words = words(text.split("\nQuestion:", maxsplit=1)[0])
        return {tuple(text_words[start : start + SHARED_WORDS]) for start in range(len(text_words) - SHARED_WORDS + 1)}

    seeds = [
        seed for name in FROZEN for seed in read_domain(name).seeds
    ]  # of all domains: off-domain scores use the questions of another
    seen = {run: seed.id for seed in seeds for run in runs(seed.input)}
    assert len(seen) > 1000
    shared = {(question.id, seen[run]) for question in domain.questions for run in runs(question.input) & set(seen)}
    assert shared == set()


def test_no_question_is_similar_to_a_seed_by_rouge_l(domain: Domain) -> None:
    similar = [
        (question.id, seed.id)
        for question in domain.questions
        for seed in domain.seeds
        if rouge_l(f"{question.instruction} {question.input}", f"{seed.instruction} {seed.input}") > 0.7
    ]
    assert similar == []


def test_the_evaluation_set_is_frozen(domain: Domain) -> None:
    assert file_hash(domain.evaluation) == FROZEN[domain.name]
