"""Evaluation questions as prompts: batches of one task type that share a few-shot prefix, and the model's replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfspec.config.schema import EvaluationConfig
from selfspec.data.few_shot import draw_few_shot
from selfspec.data.reading import read_all_questions, read_few_shot_examples, read_seeds
from selfspec.data.records import Question, Seed
from selfspec.data.splits import round_robin, split_seeds
from selfspec.engines.protocol import TOKEN_MARGIN, Completion, Engine, PromptBatch, Sampling
from selfspec.evaluation.judgement import MAX_NEW_TOKENS
from selfspec.prompts.templates import PromptRenderer
from selfspec.runtime.random_streams import random_stream


@dataclass(frozen=True)
class EvaluationBatch:
    """Questions of one task type with their few-shot examples."""

    task_type: str
    shots: int
    draw: int  # of the shots
    examples: tuple[Seed, ...]
    questions: tuple[Question, ...]


def read_batches(
    seeds: Path, questions: Sequence[Path], shots: Sequence[Path], evaluation: EvaluationConfig, seed: int
) -> list[EvaluationBatch]:
    """Every batch of the evaluation, from its files: seeds and questions of a domain, few-shot examples of public sets.

    Seeds that are held out are in no prompt.
    """
    domain = evaluation.domain
    assert domain is not None  # set by validation
    few_shot = [*split_seeds(read_seeds(seeds, domain.tasks))[0]]
    few_shot += [row for path in shots for row in read_few_shot_examples(path)]
    return build_batches(read_all_questions(questions, domain.tasks), few_shot, evaluation, seed)


def build_batches(
    questions: Sequence[Question], seeds: Sequence[Seed], evaluation: EvaluationConfig, seed: int
) -> list[EvaluationBatch]:
    """Every batch of the evaluation, in order; the questions of a batch are alike in length.

    The order of the questions does not depend on the batch size.
    """
    batches: list[EvaluationBatch] = []
    selected = round_robin(questions, evaluation.limit)
    draws = [(shots, draw) for shots in evaluation.shots for draw in range(evaluation.draws if shots else 1)]
    for shots, draw in draws:
        for task_type in dict.fromkeys(question.task_type for question in questions):
            of_type = sorted((q for q in selected if q.task_type == task_type), key=lambda q: (len(q.input), q.id))
            rng = random_stream(seed, "evaluation shots", draw, task_type, shots)
            examples = tuple(draw_few_shot(seeds, task_type, shots, rng))
            for start in range(0, len(of_type), evaluation.batch_size):
                batch = tuple(of_type[start : start + evaluation.batch_size])
                batches.append(EvaluationBatch(task_type, shots, draw, examples, batch))
    return batches


def answer_batch(
    engine: Engine, batch: EvaluationBatch, role: str, context_length: int, prompts: PromptRenderer
) -> list[dict[str, object]]:
    """The replies to one batch, as plain rows in the order of its questions.

    Args:
        engine: The model that answers.
        batch: The questions.
        role: Who answers.
        context_length: Tokens that the model can read; a question gets as many of its shots as fit, and that is
            recorded. A question that does not fit without shots is not sent to the model: its reply is empty and
            unfinished.
        prompts: Renders the prompts.
    """
    groups: dict[int, list[Question]] = {}
    rows = {}
    prefixes = [prompts.prefix(role, batch.examples[:count]) for count in range(len(batch.examples) + 1)]
    lengths = [engine.count(prefix) for prefix in prefixes]
    for question in batch.questions:
        length = engine.count(prompts.task(question)) + MAX_NEW_TOKENS[question.kind] + TOKEN_MARGIN
        fitting = [count for count in range(len(prefixes)) if lengths[count] + length <= context_length]
        if fitting:
            groups.setdefault(max(fitting), []).append(question)
        else:
            rows[question.id] = _row(batch, question, Completion("", 0, False), 0, too_long=True)
    for count, group in groups.items():
        for question, completion in zip(group, _complete(engine, prefixes[count], group, prompts), strict=True):
            rows[question.id] = _row(batch, question, completion, count)
    return [rows[question.id] for question in batch.questions]


def _complete(engine: Engine, prefix: str, questions: Sequence[Question], prompts: PromptRenderer) -> list[Completion]:
    kind = questions[0].kind
    items = tuple(prompts.task(question) for question in questions)
    options = tuple(question.options if kind == "label" else () for question in questions)
    stop = prompts.templates.response_stop
    return engine.complete(PromptBatch(prefix, items, Sampling(MAX_NEW_TOKENS[kind]), stop, options=options))


def _row(
    batch: EvaluationBatch, question: Question, completion: Completion, num_shots: int, too_long: bool = False
) -> dict[str, object]:
    return {
        "id": question.id,
        "task_type": batch.task_type,
        "shots": batch.shots,
        "draw": batch.draw,
        "shots_shown": num_shots,
        "too_long": too_long,
        "reply": completion.text,
        "finished": completion.finished,
        "option_logprobs": list(completion.option_logprobs),
    }
