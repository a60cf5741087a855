"""Types of rows: seeds, questions, synthetic examples, and the requests and drafts of generation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, get_args

from selfspec.config.domain_schema import AnswerKind

KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
CLOSED_KINDS = ("label", "labels")  # kinds whose answers are chosen from options
Row = TypeVar("Row")

ENTITY = re.compile(r"\s*(.+?)\s*\(([^()]+)\)\s*")  # mention (type)
SEPARATOR = "; "  # between the parts of an answer: list items, labels, entities
NO_ANSWER = "none"  # no item, no label or no entity


class Task(Protocol):
    """The part of a row that a prompt shows."""

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
    formula: str = ""  # of an answer that is a number, to check it


@dataclass(frozen=True)
class Question:
    """An evaluation item; any of `answers` is correct, and the first is the canonical one."""

    id: str
    task_type: str
    kind: str  # of the answer: of its domain's task type, or given in its file
    instruction: str
    input: str
    answers: tuple[str, ...]
    topic: str = ""
    options: tuple[str, ...] = ()
    formula: str = ""


@dataclass(frozen=True)
class Example:
    """A synthetic task with its output and its provenance."""

    id: str  # block and place in it: the position in the pool
    task_type: str
    instruction: str
    input: str
    output: str
    options: tuple[str, ...] = ()
    topic: str = ""
    seeds: tuple[str, ...] = ()  # ids of the seeds in the instruction prompt
    response_seeds: tuple[str, ...] = ()  # ids of the seeds in the response prompt
    documents: tuple[str, ...] = ()  # ids of the passages in the response prompt
    sampler_seed: int = 0
    prompt: str = ""  # hash of the prompt templates
    verdicts: Mapping[str, str] = field(default_factory=dict)  # filter -> "" (passed) or the reason


def example_from_row(row: dict[str, Any]) -> Example:
    """An example from a row of JSON, whose lists become tuples."""
    return Example(**with_tuples(row))


def with_tuples(row: dict[str, Any]) -> dict[str, Any]:
    """A row of JSON with tuples in place of lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


@dataclass(frozen=True)
class TaskRequest:
    """A task that the model is asked to write."""

    task_type: str
    topic: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A task that the model wrote, without an answer."""

    task_type: str
    instruction: str
    input: str
    options: tuple[str, ...]
    topic: str = ""
