"""Readers of seeds and questions; an error names file, line and field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfspec.config.schema import TaskType
from selfspec.data.arithmetic import agrees_with_written, evaluate_formula
from selfspec.data.jsonl import read_jsonl
from selfspec.data.numbers import BARE_NUMBER
from selfspec.data.records import (
    KINDS,
    NO_ANSWER,
    SEPARATOR,
    Example,
    Question,
    Row,
    Seed,
    example_from_row,
    with_tuples,
)
from selfspec.data.text import count_noun, fold, words
from selfspec.errors import UserError, did_you_mean

MAX_MESSAGES = 20  # of one file; further ones are counted
ANSWER_FIELDS = ("answer", "output", "answers")  # of seeds and of questions, which are easily confused
_SURROGATE = re.compile("[\ud800-\udfff]")

Build = Callable[[dict[str, Any], Mapping[str, TaskType]], Row]


def read_seeds(path: Path, tasks: Mapping[str, TaskType]) -> list[Seed]:
    """Seeds of a JSONL file, checked against the domain's task types.

    Raises:
        UserError: a line that is not a valid seed, by file, line and field.
    """
    return _read_unique(path, _seed, "seeds", "output", tasks)


def read_questions(path: Path, tasks: Mapping[str, TaskType]) -> list[Question]:
    """Evaluation questions of a JSONL file, checked against the domain's task types and their own options.

    Raises:
        UserError: a line that is not a valid question, by file, line and field.
    """
    return read_all_questions((path,), tasks)


def read_all_questions(paths: Sequence[Path], tasks: Mapping[str, TaskType]) -> list[Question]:
    """Questions of several files.

    Raises:
        UserError: a line that is not a valid question, an id that is in two files, or a task type with two kinds.
    """
    file_of_id, kind_of_type = dict[str, Path](), dict[str, str]()
    questions = []
    for path in paths:
        for question in _read_unique(path, _question, "evaluation questions", "answers", tasks):
            if file_of_id.setdefault(question.id, path) != path:
                raise UserError(f"{path}: the id '{question.id}' is also in {file_of_id[question.id]}; rename one.")
            kind = kind_of_type.setdefault(question.task_type, question.kind)
            if question.kind != kind:
                raise UserError(
                    f"{path}: the questions of task type '{question.task_type}' have the kinds {kind} and "
                    f"{question.kind}; give them different task types."
                )
            questions.append(question)
    return questions


def line_numbers(path: Path) -> list[int]:
    """The numbers of the lines of a user's file that its rows are on, in the order of the rows."""
    return [number for number, line in enumerate(_read_lines(path, "rows"), start=1) if line.strip()]


def join_messages(path: Path, messages: Sequence[str]) -> str:
    """One line for each message, up to `MAX_MESSAGES` of them."""
    further = len(messages) - MAX_MESSAGES
    rest = [f"{path}: and {count_noun(further, 'more line')} with errors."]
    return "\n".join([*messages[:MAX_MESSAGES], *(rest if further > 0 else [])])


def read_few_shot_examples(path: Path) -> list[Seed]:
    """Few-shot examples that this program prepared from a public set."""
    return [Seed(**with_tuples(row)) for row in read_jsonl(path)]


def read_question_texts(path: Path) -> list[tuple[str, str]]:
    """(id, input or instruction) of the questions in a file of any domain; nothing else is checked."""
    texts = []
    for number, line in enumerate(_read_lines(path, "evaluation questions"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            texts.append((str(row["id"]), str(row.get("input") or row["instruction"])))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path}, line {number}: not a question, which is a JSON object with id, instruction and input."
            ) from None
    return texts


def read_examples(path: Path) -> list[Example]:
    """Examples that this program wrote."""
    return [example_from_row(row) for row in read_jsonl(path)]


def _read_unique(path: Path, build: Build[Row], what: str, answer: str, tasks: Mapping[str, TaskType]) -> list[Row]:
    """The rows of a user's file, whose ids must be unique."""
    rows = _parse_lines(path, tuple(_read_lines(path, what)), build, answer, tuple(tasks.items()))
    if not rows:
        raise UserError(f"The file of {what} {path} is empty; it needs one JSON object a line.")
    return list(rows)


def _read_lines(path: Path, what: str) -> list[str]:
    """Lines of a user's file, split at newlines alone: JSON strings may contain other line separators."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"The file of {what} {path} does not exist; give the path of a JSONL file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file of {what} {path} can't be read as UTF-8 text ({error}).") from None


@lru_cache(maxsize=32)  # the jobs of a sweep read the same few files; a changed file is another entry
def _parse_lines(
    path: Path, lines: tuple[str, ...], build: Build[Any], answer: str, tasks: tuple[tuple[str, TaskType], ...]
) -> tuple[Any, ...]:
    rows, messages, first_line, known = [], list[str](), dict[str, int](), dict(tasks)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse_object(line, answer)
            rows.append(build(row, known))
            if row["id"] in first_line:
                raise ValueError(f"field 'id' repeats '{row['id']}' of line {first_line[row['id']]}")
            first_line[row["id"]] = number
        except ValueError as error:
            messages.append(f"{path}, line {number}: {error}.")
    if messages:
        raise UserError(join_messages(path, messages))
    return tuple(rows)


def _seed(row: dict[str, Any], tasks: Mapping[str, TaskType]) -> Seed:
    common = _common_fields(row, _kind_of_task(row, tasks))
    return Seed(**common, output=_checked_answer(row, "output", tasks[row["task_type"]].kind))


def _question(row: dict[str, Any], tasks: Mapping[str, TaskType]) -> Question:
    kind = row.get("kind") or _kind_of_task(row, tasks)
    if kind not in KINDS:
        raise ValueError(f"field 'kind' is '{kind}', which is none of {', '.join(KINDS)}")
    common = _common_fields(row, kind)
    if not isinstance(row.get("answers"), list) or not row["answers"]:
        raise ValueError("field 'answers' must be a list with at least one string")
    answers = tuple(_checked_answer({**row, "answers": answer}, "answers", kind) for answer in row["answers"])
    return Question(**common, kind=kind, answers=answers)


def _parse_object(line: str, answer: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_unique_fields)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg.removesuffix(' at')} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    allowed = {"id", "task_type", "topic", "instruction", "input", "options", "formula", answer}
    if answer == "answers":  # questions may be of task types that the domain does not have
        allowed.add("kind")
    for name, value in row.items():
        if name not in allowed:
            suggestion = f"did you mean '{answer}'? " if name in ANSWER_FIELDS else did_you_mean(name, allowed)
            raise ValueError(f"unknown field '{name}'; {suggestion}allowed are {', '.join(sorted(allowed))}")
        if _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
            raise ValueError(f"field '{name}' has half of a surrogate pair; write the whole character")
    return row


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose names must be unique: else the last value would replace the others."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"field '{name}' is written twice; remove one")
    return dict(pairs)


def _kind_of_task(row: dict[str, Any], tasks: Mapping[str, TaskType]) -> str:
    """The kind of answers that the domain declares for the task type of a row."""
    name = _required_text(row, "task_type")
    if name not in tasks:
        raise ValueError(f"field 'task_type' is '{name}'; {did_you_mean(name, tasks)}the domain has {', '.join(tasks)}")
    return tasks[name].kind


def _common_fields(row: dict[str, Any], kind: str) -> dict[str, Any]:
    texts = {name: _required_text(row, name) for name in ("id", "task_type", "instruction")}
    for name in ("input", "topic", "formula"):
        if not isinstance(row.get(name, ""), str):
            raise ValueError(f"field '{name}' must be a string")
        texts[name] = row.get(name, "")
    return {**texts, "options": _options(row, kind)}


def _options(row: dict[str, Any], kind: str) -> tuple[str, ...]:
    options = row.get("options", [])
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise ValueError("field 'options' must be a list of strings")
    if kind in ("label", "labels") and len({" ".join(words(option)) for option in options} - {""}) < max(
        2, len(options)
    ):
        raise ValueError(f"field 'options' needs at least two labels that differ in their words, for kind {kind}")
    return tuple(options)


def _checked_answer(row: dict[str, Any], name: str, kind: str) -> str:
    answer = _required_text(row, name)
    options, formula = row.get("options", []), row.get("formula", "")
    if kind == "label" and answer not in options:
        raise ValueError(f"field '{name}' is '{answer}', which is not among the options {options}")
    if kind == "text" and not words(answer):
        raise ValueError(f"field '{name}' is '{answer}', which has no word that could be compared")
    if kind == "number" and not BARE_NUMBER.fullmatch(answer):
        raise ValueError(f"field '{name}' is '{answer}', which is no bare number such as 12.5")
    if formula and (kind != "number" or not agrees_with_written(evaluate_formula(formula), answer.replace(",", ""))):
        raise ValueError(f"field '{name}' is '{answer}', which is not what the formula {formula} gives")
    if kind == "labels" and answer != NO_ANSWER:
        for label in answer.split(SEPARATOR):
            if label not in options:
                hint = f"; separate labels with '{SEPARATOR}'" if "," in label else ""
                raise ValueError(f"field '{name}' has '{label}', which is not among the options {options}{hint}")
    return answer


def _required_text(row: dict[str, Any], name: str) -> str:
    if name not in row:
        raise ValueError(f"field '{name}' is missing")
    if not isinstance(row[name], str) or not fold(row[name]).strip():
        raise ValueError(f"field '{name}' must be a string that is not empty")
    return str(row[name])
