"""Asking a model the evaluation questions: per task one few-shot prefix, computed once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfspec.config.schema import EvaluationConfig
from selfspec.data.records import Question, Seed
from selfspec.data.splits import round_robin
from selfspec.engines.protocol import Engine, PromptBatch, Sampling
from selfspec.evaluation.judgement import MAX_NEW_TOKENS
from selfspec.prompts.templates import RESPONSE_STOP, render_prefix, render_task


@dataclass(frozen=True)
class EvaluationBatch:
    """One numbered batch of questions of one task, with its shots."""

    number: int
    task_type: str
    shots: int
    draw: int  # of the shots
    examples: tuple[Seed, ...]
    questions: tuple[Question, ...]


def build_batches(
    questions: Sequence[Question], shown: Sequence[Seed], evaluation: EvaluationConfig, seed: int
) -> list[EvaluationBatch]:
    """Every batch of the evaluation, numbered; the questions of a batch are alike in length."""
    made: list[EvaluationBatch] = []
    asked = round_robin(questions, evaluation.limit)
    draws = [(shots, draw) for shots in evaluation.shots for draw in range(evaluation.draws if shots else 1)]
    for shots, number in draws:
        for task in dict.fromkeys(question.task_type for question in questions):
            mine = sorted((q for q in asked if q.task_type == task), key=lambda q: (len(q.input), q.id))
            examples = tuple(draw_shots(shown, task, shots, f"{seed}/{number}"))
            for begin in range(0, len(mine), evaluation.batch_size):
                some = tuple(mine[begin : begin + evaluation.batch_size])
                made.append(EvaluationBatch(len(made), task, shots, number, examples, some))
    return made


def draw_shots(shown: Sequence[Seed], task: str, shots: int, name: str) -> list[Seed]:
    """The few-shot examples of a task: its own seeds first, filled up with others, in random order."""
    chance = random.Random(f"{name}/{task}/{shots}")
    mixed = chance.sample(list(shown), len(shown))
    drawn = sorted(mixed, key=lambda example: example.task_type != task)[:shots]
    return chance.sample(drawn, len(drawn))


def answer_batch(engine: Engine, sheet: EvaluationBatch, role: str, context: int) -> list[dict[str, object]]:
    """The replies to one batch, as plain rows.

    Args:
        engine: The model to ask.
        sheet: The questions.
        role: Who answers.
        context: Tokens that the model can read; shots are dropped until everything fits, and that is counted.
    """
    kind = sheet.questions[0].kind
    limit = MAX_NEW_TOKENS[kind]
    items = tuple(render_task(question) for question in sheet.questions)
    longest = max(engine.count(item) for item in items) + limit + 8
    prefix, shots = next(
        (text, count)
        for text, count in _prefixes(role, sheet.examples)
        if count == 0 or engine.count(text) + longest <= context
    )
    options = tuple(question.options if kind == "label" else () for question in sheet.questions)
    completions = engine.complete(PromptBatch(prefix, items, Sampling(limit), RESPONSE_STOP, options))
    return [
        {
            "id": question.id,
            "task_type": sheet.task_type,
            "shots": sheet.shots,
            "draw": sheet.draw,
            "shots_shown": shots,
            "reply": completion.text,
            "finished": completion.finished,
            "option_logprobs": list(completion.option_logprobs),
        }
        for question, completion in zip(sheet.questions, completions, strict=True)
    ]


def _prefixes(role: str, examples: Sequence[Seed]) -> Iterator[tuple[str, int]]:
    for count in range(len(examples), -1, -1):
        yield render_prefix(role, examples[:count]), count
