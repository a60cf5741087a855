"""Schema of the group `domain`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from selfspec.config.fields import PositiveInt, runtime_field

AnswerKind = Literal["label", "labels", "short", "list", "entities", "number", "text"]


@dataclass(frozen=True)
class TaskType:
    """One type of task in a domain."""

    kind: AnswerKind  # the form of its answers: it chooses the answer filter and the metric
    about: str  # a few words for the line "Type: ..." of the instruction prompt


@dataclass(frozen=True)
class DomainConfig:
    """A domain: its task types, its seeds and its evaluation questions."""

    name: str
    role: str  # completes "You are ..." in the prompts
    tasks: dict[str, TaskType] = field(hash=False)  # by the name of the task type; a dict has no hash
    seeds: str = runtime_field()  # JSONL file; its sha256 enters the keys
    evaluation: str = runtime_field()  # JSONL file; its sha256 enters the keys
    corpus: str | None = runtime_field(None)  # unlabelled text for retrieval
    topics: tuple[str, ...] = ()  # subjects that the model writes about, in equal shares
    seed_count: PositiveInt | None = None  # size of a fixed subset of the seeds in context; null: all of them
