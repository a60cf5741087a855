"""Schema of the groups `evaluation` and `benchmark`, and of `baselines`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from selfspec.config.domain_schema import AnswerKind, DomainConfig
from selfspec.config.fields import NonNegativeInt, PositiveInt, runtime_field


@dataclass(frozen=True)
class BenchmarkConfig:
    """A public set as evaluation questions: its source, its fields, and how a row becomes a question."""

    domain: str  # the set is used when the evaluation's domain has this name
    kind: AnswerKind
    metric: str  # the primary metric
    instruction: str
    input: str  # template: {field} or {field.inner}; the items of a list are written one a line
    answer: str  # field
    labels: dict[str, str]  # value in a row, or type of an entity -> its name in the question; others are unchanged
    licence: str = runtime_field()
    get: str = runtime_field()  # how to get the set, for the message when it is missing
    also: tuple[str, ...] = ()  # metrics that are reported beside the primary one
    hub: str | None = None  # dataset on the hub
    config: str | None = None  # of the hub dataset
    folder: str | None = None  # in the hub dataset's repository
    revision: str | None = None
    path: str | None = runtime_field(None)  # a local copy, used before the hub; its sha256 enters the key
    split: str = "test"  # a name, or a pattern over the files and folders of a local copy; [a:b] selects rows
    shots_split: str | None = None  # source of the few-shot examples; null: the seeds
    options: tuple[str, ...] = ()
    form: Literal["fields", "tags", "turns"] = "fields"  # of a row: fields, tokens with tags, turns of a dialogue
    where: str | None = None  # field=value: only these rows
    id: str | None = None  # field; null: the number of the row
    topic: str | None = None  # field
    leave_out: tuple[str, ...] = ()  # rows with these answers are left out
    rows: int | None = runtime_field(None)  # published number of rows in the split


@dataclass(frozen=True)
class EvaluationConfig:
    """The questions on which models are scored, and the number of shots."""

    shots: Annotated[tuple[NonNegativeInt, ...], MinLen(1)]
    draws: PositiveInt  # of few-shot examples; 0 shots have one draw
    limit: PositiveInt | None  # the most questions, taken from the task types in turn
    batch_size: PositiveInt = runtime_field()
    name: str = runtime_field()
    resamples: PositiveInt = runtime_field()  # of the bootstrap, in the report
    files: tuple[str, ...] = runtime_field()  # questions used in place of the domain's own; by sha256 in the key
    sets: dict[str, BenchmarkConfig] = runtime_field()  # public sets used in their place; by sha256
    tasks: tuple[str, ...] = runtime_field()  # of lm-evaluation-harness; in the key of the stage that scores them
    tasks_path: str | None = runtime_field(None)  # folder with YAMLs of your own tasks; by its contents in that key
    num_fewshot: int | None = runtime_field(None)  # of those tasks, and in that key; null: as each task defines
    metrics: tuple[dict[str, Any], ...] = runtime_field(
        ()
    )  # of the user's own, by _target_; computed from stored replies
    notes: tuple[str, ...] = runtime_field(())  # on the public sets, for the report; set by the program
    shot_files: tuple[str, ...] = runtime_field(())  # few-shot examples of the public sets; set by the program
    domain: DomainConfig | None = None  # source of the questions and the shots; null: the experiment's own domain


@dataclass(frozen=True)
class BaselinesConfig:
    """Models that the report compares with the specialized model, besides its base."""

    seeds_only: bool  # an adapter tuned on the seeds alone
    generic: bool  # an adapter of the domain `general`, by the same recipe: one round, no retrieval
    off_domain: bool  # scores of base and specialized model on the domain `general`, which measure forgetting
