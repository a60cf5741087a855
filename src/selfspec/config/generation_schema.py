"""Schema of the groups `prompts`, `generation`, `retrieval` and `rounds`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from selfspec.config.fields import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    runtime_field,
)


@dataclass(frozen=True)
class PromptsConfig:
    """Prompt templates; names in braces are filled in (`prompts.templates.PLACEHOLDERS` lists them)."""

    role: str
    task: str
    task_options: str
    task_background: str
    task_passage: str
    task_input: str
    solved_task: str
    response_stop: tuple[str, ...]  # texts that end a response
    task_list: str
    list_topic_note: str
    list_task: str
    list_topic: str
    list_options: str
    list_input: str
    list_entry: str
    instruction_stop: tuple[str, ...]
    input_stop: tuple[str, ...]
    judge: str
    judged_answer: str
    judged_example: str
    judge_yes: str
    judge_no: str


@dataclass(frozen=True)
class InstructionsConfig:
    """How the base model samples instructions and their inputs."""

    shots: PositiveInt  # seeds in context
    temperature: PositiveFloat
    top_p: PositiveFraction
    instruction_tokens: PositiveInt  # the most tokens of an instruction
    input_tokens: PositiveInt  # the most tokens of an input
    batch_size: PositiveInt = runtime_field()  # rows that the engine completes together


@dataclass(frozen=True)
class ResponsesConfig:
    """How the base model answers the instructions, by greedy decoding."""

    shots: PositiveInt  # seed pairs in context
    max_new_tokens: PositiveInt
    batch_size: PositiveInt = runtime_field()


@dataclass(frozen=True)
class FiltersConfig:
    """Which filters drop rows; a filter that is switched off passes every row."""

    form: bool
    echo: bool
    duplicate: bool
    novelty: bool
    novelty_threshold: Fraction  # the ROUGE-L F1 with an earlier row above which a row is dropped
    contamination: bool
    answer: bool
    self_consistency: bool
    judge: bool
    balance: bool
    extra: tuple[dict[str, Any], ...] = ()  # filters of the user's own: {_target_: package.Class, argument: value}


@dataclass(frozen=True)
class ContaminationConfig:
    """The overlap with evaluation questions from which a row is dropped."""

    against: tuple[str, ...] = runtime_field()  # files of evaluation questions; their sha256 enters the keys
    words: Annotated[int, Ge(5)] = 8  # length of a shared run of words; docs/method.md compares 8 and 13


@dataclass(frozen=True)
class SelfConsistencyConfig:
    """Questions with closed labels are answered several times; the majority answer is kept."""

    samples: PositiveInt
    majority: Fraction  # the least share of the samples that agree
    temperature: PositiveFloat


@dataclass(frozen=True)
class JudgeConfig:
    """The base model judges its answers by log P(YES) - log P(NO), with a threshold calibrated on seeds."""

    shots: NonNegativeInt
    least_auc: Fraction  # of seeds against corrupted seeds; below it the judge drops nothing
    batch_size: PositiveInt = runtime_field()


@dataclass(frozen=True)
class GenerationConfig:
    """Synthetic data: instructions, responses and filters."""

    instructions: InstructionsConfig
    responses: ResponsesConfig
    filters: FiltersConfig
    contamination: ContaminationConfig
    self_consistency: SelfConsistencyConfig
    judge: JudgeConfig
    demonstrations: Literal["own_type", "random"]  # own_type: seeds of the requested task type come first
    max_attempts: PositiveInt = runtime_field()


@dataclass(frozen=True)
class RetrievalConfig:
    """Passages of an unlabelled corpus in the response prompt."""

    name: Literal["none", "bm25"]
    corpus: str | dict[str, Any] | None = runtime_field(
        None
    )  # embedded:NAME, a path, or a hub dataset; its identity enters the key
    config: str | None = None  # of a hub dataset
    split: str | None = None  # of a hub dataset
    revision: str | None = None  # of a hub dataset
    text_field: str | None = None  # of .jsonl and .parquet files, and of hub datasets
    limit: PositiveInt | None = None  # use only the first documents
    passage_words: PositiveInt = 100  # longer documents are cut into passages of this length
    passages: PositiveInt = 5  # in each prompt


@dataclass(frozen=True)
class RoundsConfig:
    """Rounds of self-specialization: the specialized model answers, then the base is tuned again."""

    count: PositiveInt = runtime_field()
    instructions: Literal["same", "new"] = "same"
    decoding: Literal["plain", "contrastive"] = "plain"
    contrast: NonNegativeFloat = 0.5  # weight of the amateur's log-probability
    plausible: PositiveFraction = 0.1  # least probability of a token, as a share of the expert's most likely token
