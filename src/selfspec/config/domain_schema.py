"""Schema of the group `domain`."""

from __future__ import annotations

from dataclasses import dataclass

from selfspec.config.fields import runtime_field


@dataclass(frozen=True)
class TaskType:
    """One type of task in a domain: how its answers look, and what the generator is told of it."""

    kind: str  # label, labels, short, list, entities, number, text: chooses filters and scorer
    about: str  # a few words for the line "Type: ..." of the instruction prompt


@dataclass(frozen=True)
class DomainConfig:
    """A domain: who the expert is, which tasks it knows, its seeds and its evaluation questions."""

    name: str
    role: str  # completes "You are ..."
    tasks: dict[str, TaskType]
    seeds: str = runtime_field()  # JSONL; counts by its sha256
    evaluation: str = runtime_field()  # JSONL; counts by its sha256
    corpus: str | None = runtime_field(None)  # for retrieval: unlabelled text
    topics: tuple[str, ...] = ()  # what the model is asked to write about, in equal shares
    seed_count: int | None = None  # how many seeds a model is shown, a fixed subset; the held-out ones stay
