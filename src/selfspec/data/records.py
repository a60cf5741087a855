"""Row types: seeds, questions, synthetic examples, and what generation asks the model for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, get_args

from selfspec.config.domain_schema import AnswerKind

KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)


Row = TypeVar("Row")


ENTITY = re.compile(r"\s*(.+?)\s*\(([^()]+)\)\s*")  # mention (type)


SEPARATOR = "; "  # between the parts of an answer: list items, labels, entities


class Task(Protocol):
    """What every row has: a task that can be shown to a model."""

    @property
    def instruction(self) -> str: ...  # noqa: D102
    @property
    def input(self) -> str: ...  # noqa: D102
    @property
    def options(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def task_type(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Seed:
    """A human-written task with its output."""

    id: str
    task_type: str
    instruction: str
    input: str
    output: str
    topic: str = ""
    options: tuple[str, ...] = ()
    formula: str = ""  # of a number, so that it can be computed again


@dataclass(frozen=True)
class Question:
    """An evaluation item; any of `answers` is right, the first is the canonical one."""

    id: str
    task_type: str
    kind: str  # of its domain's task type, or its own
    instruction: str
    input: str
    answers: tuple[str, ...]
    topic: str = ""
    options: tuple[str, ...] = ()
    formula: str = ""


@dataclass(frozen=True)
class Example:
    """A synthetic task with its output and its past: where it came from, and what each filter said."""

    id: str  # block and attempt, so the place in its pool
    task_type: str
    instruction: str
    input: str
    output: str
    options: tuple[str, ...] = ()
    topic: str = ""
    seeds: tuple[str, ...] = ()  # ids of the seeds that the instruction's prompt showed
    response_seeds: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()  # ids of the passages that the response's prompt showed
    sampler_seed: int = 0
    prompt: str = ""  # hash of the prompt templates
    verdicts: Mapping[str, str] = field(default_factory=dict)  # filter -> "" (passed) or the reason


def example_from_row(row: dict[str, Any]) -> Example:
    """An example from its plain form (JSON has no tuples)."""
    return Example(**_tuples(row))


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


@dataclass(frozen=True)
class TaskRequest:
    """What the next task of the list shall be: the model writes its instruction and input."""

    task_type: str
    topic: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A task that the model wrote, before anybody answered it."""

    task_type: str
    instruction: str
    input: str
    options: tuple[str, ...]
    topic: str = ""


CLOSED_KINDS = ("label", "labels")
