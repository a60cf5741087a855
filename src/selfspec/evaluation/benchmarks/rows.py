"""Turn rows of a public set into questions; the set's YAML (conf/benchmark) says how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from selfspec.config.schema import BenchmarkConfig
from selfspec.data.records import Question, Seed
from selfspec.data.text import fold
from selfspec.evaluation.benchmarks.answers import check_answers, read_answers
from selfspec.evaluation.benchmarks.fields import FIELD_REFERENCE, BadRow, field_text
from selfspec.evaluation.benchmarks.sources import Row

_EARLIER_ANSWER = re.compile(r"{answer(\d+)}")  # in a dialogue: the reference answer of an earlier turn
Turns = dict[tuple[str, str], str]  # (dialogue, turn) -> reference answer


def questions_from_rows(name: str, config: BenchmarkConfig, rows: Iterable[Row]) -> Iterator[Question | BadRow]:
    """One question for each row, in order, or the error of a row that does not fit the schema.

    Rows with an answer of `config.leave_out` give nothing.
    """
    ids, turns = set[str](), Turns()
    for number, row in enumerate(rows, start=1):
        try:
            question = _question_of_row(name, config, row, number, turns)
        except BadRow as error:
            yield BadRow(f"row {number} of the set {name}, {error}")
            continue
        if question:
            unique = replace(question, id=f"{question.id}-{number}") if question.id in ids else question
            ids.add(unique.id)
            yield unique


def few_shot_example(question: Question) -> Seed:
    """A question with its first reference answer, as a few-shot example."""
    return Seed(
        id=f"{question.id}-shot",
        task_type=question.task_type,
        instruction=question.instruction,
        input=question.input,
        output=question.answers[0],
        topic=question.topic,
        options=question.options,
    )


def _question_of_row(name: str, config: BenchmarkConfig, row: Row, number: int, turns: Turns) -> Question | None:
    """The question of a row, or None if its answer is left out; in a dialogue its answer is added to `turns`."""
    answers = read_answers(row, config)
    if config.form == "turns":
        turns[field_text(row, "dialogue_id"), field_text(row, "turn")] = answers[0]
    if fold(answers[0]) in map(fold, config.leave_out):
        return None
    answers = check_answers(answers, config)
    return Question(
        id=f"{name}-{field_text(row, config.id) if config.id else number}",
        task_type=name,
        kind=config.kind,
        instruction=config.instruction,
        input=_fill_template(row, config, turns),
        answers=answers,
        topic=field_text(row, config.topic) if config.topic else "",
        options=config.options,
    )


def _fill_template(row: Row, config: BenchmarkConfig, turns: Mapping[tuple[str, str], str]) -> str:
    separator = " " if config.form == "tags" else "\n"
    text = FIELD_REFERENCE.sub(lambda match: field_text(row, match[1], separator), config.input).strip()
    if not text:
        raise BadRow(f"field '{config.input}' is empty")
    if config.form == "turns":
        text = _EARLIER_ANSWER.sub(lambda match: _earlier_answer(row, match[1], turns), text)
    return text


def _earlier_answer(row: Row, turn: str, turns: Mapping[tuple[str, str], str]) -> str:
    try:
        return turns[field_text(row, "dialogue_id"), turn]
    except KeyError:
        raise BadRow(f"field 'turn': the dialogue's earlier turn {turn} is missing") from None
