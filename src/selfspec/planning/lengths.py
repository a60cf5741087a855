"""How many tokens prompts and answers have, by the characters of seeds and questions, without a tokenizer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfspec.config.schema import Config, DomainConfig, PromptsConfig
from selfspec.data.reading import read_all_questions, read_seeds
from selfspec.data.records import Question, TaskRequest
from selfspec.data.splits import round_robin, seed_subset, split_seeds
from selfspec.evaluation.judgement import MAX_NEW_TOKENS
from selfspec.prompts.templates import PromptRenderer

CHARACTERS_PER_TOKEN = 4.0  # of a token; gemma-3-270m reads the shipped seeds at 3.9 to 4.4


@dataclass(frozen=True)
class SeedLengths:
    """Tokens of a domain's shown seeds."""

    head: int  # of what stands before every task: the role
    rows: tuple[tuple[int, int], ...]  # (prompt, response) of each, as it is tuned on
    shown: tuple[int, ...]  # of each, solved in a prompt
    list_head: int  # of what stands before the list from which instructions are written
    listed: tuple[int, ...]  # of each in that list
    asked: int  # of a task in that list, up to where it is written

    def prefix(self, shots: int, longest: bool = False) -> int:
        """Tokens before an item, with so many seeds shown: the mean, or at most."""
        return self.head + _some(self.shown, shots, longest)

    def list_prefix(self, shots: int, longest: bool = False) -> int:
        """The same of the list."""
        return self.list_head + _some(self.listed, shots, longest)


@dataclass(frozen=True)
class QuestionLengths:
    """Tokens of the questions that a model is scored on."""

    count: int
    types: int  # task types
    item: float  # mean
    longest: int
    answer: float  # mean, with its end
    new: int  # written at most
    options: int  # of the longest option, 0 where no kind has any
    choices: int  # options that a question has at most
    seeds: SeedLengths  # shown as shots


_SEEDS: dict[object, SeedLengths] = {}


_ASKED: dict[object, QuestionLengths] = {}


def count_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def seed_lengths(domain: DomainConfig, prompts: PromptsConfig) -> SeedLengths:
    """Of a domain's seeds, read once however many jobs ask."""
    key = (_stamp(domain.seeds), domain.role, domain.seed_count, domain.topics, tuple(domain.tasks.items()), prompts)
    if key not in _SEEDS:
        _SEEDS[key] = _read_seeds(domain, PromptRenderer(prompts))
    return _SEEDS[key]


def _read_seeds(domain: DomainConfig, prompts: PromptRenderer) -> SeedLengths:
    shown = seed_subset(split_seeds(read_seeds(Path(domain.seeds), domain.tasks))[0], domain.seed_count)
    head = count_tokens(prompts.prefix(domain.role, ()))
    items = [(count_tokens(prompts.task(seed)), count_tokens(seed.output) + 1) for seed in shown]
    list_head = count_tokens(prompts.list_prefix(domain, ()))
    listed = tuple(count_tokens(prompts.list_prefix(domain, [seed])) - list_head for seed in shown)
    requests = (TaskRequest(seed.task_type, seed.topic, seed.options) for seed in shown)
    asked = max(count_tokens(prompts.list_task(9, request, domain)) for request in requests)
    rows = tuple((head + prompt, response) for prompt, response in items)
    return SeedLengths(head, rows, tuple(prompt + response for prompt, response in items), list_head, listed, asked)


def question_lengths(config: Config) -> QuestionLengths:
    """Of a config's evaluation."""
    evaluation, domain = config.evaluation, config.evaluation.domain
    assert domain is not None  # the door has filled it in
    files = evaluation.files or (domain.evaluation,)
    key = (
        tuple(map(_stamp, files)),
        evaluation.limit,
        _stamp(domain.seeds),
        domain.role,
        tuple(domain.tasks.items()),
        config.prompts,
    )
    if key not in _ASKED:
        some = round_robin(read_all_questions(tuple(map(Path, files)), domain.tasks), evaluation.limit)
        _ASKED[key] = _read_questions(some, seed_lengths(domain, config.prompts), PromptRenderer(config.prompts))
    return _ASKED[key]


def _read_questions(asked: Sequence[Question], shown: SeedLengths, prompts: PromptRenderer) -> QuestionLengths:
    items = [count_tokens(prompts.task(question)) for question in asked]
    answers = [count_tokens(question.answers[0]) + 1 for question in asked]
    scored = [count_tokens(option) + 1 for question in asked if question.kind == "label" for option in question.options]
    return QuestionLengths(
        count=len(asked),
        types=len(Counter(question.task_type for question in asked)),
        item=_mean(items),
        longest=max(items),
        answer=_mean(answers),
        new=max(MAX_NEW_TOKENS[question.kind] for question in asked),
        options=max(scored, default=0),
        choices=max(len(question.options) for question in asked),
        seeds=shown,
    )


def mean_row_lengths(shown: SeedLengths) -> tuple[float, float]:
    """(prompt, response) of a mean row: synthetic ones are taken to be as long as the seeds."""
    return _mean([prompt for prompt, _ in shown.rows]), _mean([response for _, response in shown.rows])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _some(lengths: Sequence[int], count: int, longest: bool) -> int:
    return sum(sorted(lengths)[-count:]) if longest and count else round(count * _mean(lengths))


def _stamp(file: str) -> tuple[str, int, int]:
    facts = Path(file).stat()
    return file, facts.st_size, facts.st_mtime_ns
