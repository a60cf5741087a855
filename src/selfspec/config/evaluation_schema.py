"""Schema of the groups `evaluation` and `benchmark`, and of `baselines`."""

from __future__ import annotations

from dataclasses import dataclass

from selfspec.config.domain_schema import DomainConfig
from selfspec.config.fields import runtime_field


@dataclass(frozen=True)
class BenchmarkConfig:
    """A public set as evaluation questions: where it is, its schema, and how a row becomes a task."""

    domain: str  # scored when the evaluation's domain has this name
    kind: str  # of its answers
    metric: str  # its primary metric
    instruction: str
    input: str  # template: {field} or {field.inner}; of a list, one item a line
    answer: str  # field
    labels: dict[str, str]  # value in a row, or type of an entity -> how it is asked for; others stay as they are
    licence: str = runtime_field()
    get: str = runtime_field()  # how to get it, told when it is missing
    also: tuple[str, ...] = ()  # what the field reports beside the primary metric
    hub: str | None = None
    config: str | None = None  # of the hub dataset
    folder: str | None = None  # in the hub dataset's repository
    revision: str | None = None
    path: str | None = runtime_field(None)  # a local copy, before the hub; counts by its sha256
    split: str = "test"  # a name, or a pattern over a local copy's files and folders; [a:b] takes some of its rows
    shots_split: str | None = None  # few-shot examples come from here; without it from the seeds
    options: tuple[str, ...] = ()
    form: str = "fields"  # how a row is read: fields, tags (tokens and their tags), turns (of a dialogue)
    where: str | None = None  # field=value: only these rows
    id: str | None = None  # field; without it the row's number
    topic: str | None = None  # field
    leave_out: tuple[str, ...] = ()  # rows with these answers
    rows: int | None = runtime_field(None)  # published count of the split


@dataclass(frozen=True)
class EvaluationConfig:
    """On what, and with how many shots, models are scored."""

    shots: tuple[int, ...]
    draws: int  # of few-shot examples; 0 shots have one
    limit: int | None  # at most so many questions, taken in turn from the task types
    batch_size: int
    name: str = runtime_field()
    resamples: int = runtime_field()  # of the bootstrap, in the report
    files: tuple[str, ...] = runtime_field()  # questions in place of the domain's own; they count by their sha256
    sets: dict[str, BenchmarkConfig] = runtime_field()  # public sets in their place, by sha256  # noqa: RUF009
    tasks: tuple[str, ...] = (
        runtime_field()
    )  # of lm-evaluation-harness, beside the questions; counts in its stage's key
    tasks_path: str | None = runtime_field(
        None
    )  # a folder with YAMLs of your own tasks; there it counts by its contents
    num_fewshot: int | None = runtime_field(None)  # of those tasks, and there in the key; null: as each task says
    notes: tuple[str, ...] = runtime_field(())  # what the report says of the sets; the door finds it
    shot_files: tuple[str, ...] = runtime_field(())  # solved tasks of the sets, for shots; the door finds them
    domain: DomainConfig | None = None  # whose questions and seeds (as shots); null: the experiment's own


@dataclass(frozen=True)
class BaselinesConfig:
    """What the specialized model is held against, beside its base."""

    seeds_only: bool
    generic: bool  # the specialist of the domain `general`, by the same recipe: one round, no retrieval
    off_domain: bool  # base and specialized on the questions of the domain `general`: what was forgotten
