"""Tokens of prompts and answers, estimated from the characters of seeds and questions without a tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from selfspec.config.schema import Config, DomainConfig, PromptsConfig
from selfspec.data.reading import read_all_questions, read_seeds
from selfspec.data.records import SEPARATOR, Question, TaskRequest
from selfspec.data.splits import round_robin, seed_subset, split_seeds
from selfspec.evaluation.judgement import MAX_NEW_TOKENS
from selfspec.prompts.templates import PromptRenderer
from selfspec.runtime.file_version import FileVersion, file_version

CHARACTERS_PER_TOKEN = 4.0  # gemma-3-270m has 3.9 to 4.4 on the shipped seeds
MAX_ITEM_NUMBER = 9  # of an item in the list of tasks, for the length of its heading


@dataclass(frozen=True)
class SeedLengths:
    """Tokens of a domain's seeds, held-out ones excluded."""

    header: int  # the role, before all tasks
    rows: tuple[tuple[int, int], ...]  # (prompt, response) of each seed as a training row
    examples: tuple[int, ...]  # each seed as a few-shot example, its answer included
    list_header: int  # before the list of tasks that instructions are generated from
    list_items: tuple[int, ...]  # each seed as an item of that list
    options: int  # all options of the closed task with the most
    open_item: int  # the longest beginning of an item, where the generation of an instruction starts

    def prefix(self, num_shots: int, longest: bool = False) -> int:
        """Tokens of the header and `num_shots` few-shot examples: the longest ones, or as many of mean length."""
        return self.header + _sum_of(self.examples, num_shots, longest)

    def list_prefix(self, num_shots: int, longest: bool = False) -> int:
        """The same for the list of tasks."""
        return self.list_header + _sum_of(self.list_items, num_shots, longest)


@dataclass(frozen=True)
class QuestionLengths:
    """Tokens of the evaluation questions."""

    num_questions: int
    num_task_types: int
    mean_question: float
    longest_question: int
    mean_answer: float  # with its end token
    max_new_tokens: int
    longest_option: int  # of the questions whose options are scored; 0 without any
    max_options: int  # of one question
    seeds: SeedLengths  # of the domain that the few-shot examples come from


def count_tokens(text: str) -> int:
    """The estimated number of tokens of a text."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def seed_lengths(domain: DomainConfig, prompts: PromptsConfig) -> SeedLengths:
    """The lengths of a domain's seeds; the file is read once for all jobs."""
    return _measure_seeds(file_version(Path(domain.seeds)), domain, prompts)


@lru_cache(maxsize=64)
def _measure_seeds(file: FileVersion, domain: DomainConfig, prompts: PromptsConfig) -> SeedLengths:
    renderer = PromptRenderer(prompts)
    seeds = seed_subset(split_seeds(read_seeds(file.path, domain.tasks))[0], domain.seed_count)
    header = count_tokens(renderer.prefix(domain.role, ()))
    items = [(count_tokens(renderer.task(seed)), count_tokens(seed.output) + 1) for seed in seeds]
    list_header = count_tokens(renderer.list_prefix(domain, ()))
    requests = (TaskRequest(seed.task_type, seed.topic, seed.options) for seed in seeds)
    return SeedLengths(
        header=header,
        rows=tuple((header + prompt, response) for prompt, response in items),
        examples=tuple(prompt + response for prompt, response in items),
        list_header=list_header,
        list_items=tuple(count_tokens(renderer.list_prefix(domain, [seed])) - list_header for seed in seeds),
        options=max(count_tokens(SEPARATOR.join(seed.options)) for seed in seeds),
        open_item=max(count_tokens(renderer.list_task(MAX_ITEM_NUMBER, request, domain)) for request in requests),
    )


def question_lengths(config: Config) -> QuestionLengths:
    """The lengths of a config's evaluation questions; the files are read once for all jobs."""
    evaluation, domain = config.evaluation, config.evaluation.domain
    assert domain is not None  # filled in by the validation
    files = tuple(file_version(Path(file)) for file in evaluation.files or (domain.evaluation,))
    seeds = seed_lengths(domain, config.prompts)
    return _measure_questions(files, evaluation.limit, domain, seeds, config.prompts)


@lru_cache(maxsize=64)
def _measure_questions(
    files: tuple[FileVersion, ...], limit: int | None, domain: DomainConfig, seeds: SeedLengths, prompts: PromptsConfig
) -> QuestionLengths:
    questions = round_robin(read_all_questions(tuple(file.path for file in files), domain.tasks), limit)
    renderer = PromptRenderer(prompts)
    items = [count_tokens(renderer.task(question)) for question in questions]
    return QuestionLengths(
        num_questions=len(questions),
        num_task_types=len({question.task_type for question in questions}),
        mean_question=_mean(items),
        longest_question=max(items),
        mean_answer=_mean([count_tokens(question.answers[0]) + 1 for question in questions]),
        max_new_tokens=max(MAX_NEW_TOKENS[question.kind] for question in questions),
        longest_option=max(map(_longest_scored_option, questions)),
        max_options=max(len(question.options) for question in questions),
        seeds=seeds,
    )


def _longest_scored_option(question: Question) -> int:
    """Only the options of single labels are scored."""
    options = question.options if question.kind == "label" else ()
    return max((count_tokens(option) + 1 for option in options), default=0)


def mean_row_lengths(seeds: SeedLengths) -> tuple[float, float]:
    """Mean (prompt, response) tokens of a training row; synthetic rows are assumed to be as long as the seeds."""
    return _mean([prompt for prompt, _ in seeds.rows]), _mean([response for _, response in seeds.rows])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _sum_of(lengths: Sequence[int], count: int, longest: bool) -> int:
    return sum(sorted(lengths)[-count:]) if longest and count else round(count * _mean(lengths))
