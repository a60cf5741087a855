"""Schema of an experiment: the sections of `conf/config.yaml`, and all of their classes.

The classes are frozen and typed. Hydra composes mutable copies of them (`composition.mutable_twin`), and
`composition.freeze` builds these from a composed config. A field declared with `runtime_field` is in no stage's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfspec.config.domain_schema import (
    DomainConfig,
    TaskType,
)
from selfspec.config.evaluation_schema import (
    BaselinesConfig,
    BenchmarkConfig,
    EvaluationConfig,
)
from selfspec.config.fields import (
    runtime_field,
)
from selfspec.config.generation_schema import (
    ContaminationConfig,
    FiltersConfig,
    GenerationConfig,
    InstructionsConfig,
    JudgeConfig,
    ResponsesConfig,
    RetrievalConfig,
    RoundsConfig,
    SelfConsistencyConfig,
)
from selfspec.config.tuning_schema import (
    LoraConfig,
    StrategyConfig,
    TuningConfig,
)

__all__ = [
    "BaselinesConfig",
    "BenchmarkConfig",
    "Config",
    "ContaminationConfig",
    "DataSizeConfig",
    "DomainConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FiltersConfig",
    "GenerationConfig",
    "InstructionsConfig",
    "JudgeConfig",
    "LoggerConfig",
    "LoraConfig",
    "ModelConfig",
    "PathsConfig",
    "ResponsesConfig",
    "RetrievalConfig",
    "RoundsConfig",
    "SelfConsistencyConfig",
    "StrategyConfig",
    "TaskType",
    "ThroughputConfig",
    "TuningConfig",
    "runtime_field",
]


@dataclass(frozen=True)
class ModelConfig:
    """A base model: where its weights are, and its architecture's numbers (so that a plan needs no weights)."""

    context_length: int
    architecture: dict[str, Any]  # transformers config, `model_type` included
    toy_architecture: dict[str, Any]  # what `toy` changes of it
    name: str = runtime_field()
    licence: str = runtime_field()
    parameters: int = runtime_field()  # published count
    hub: str | None = runtime_field(None)
    revision: str | None = runtime_field(None)
    package: str | None = runtime_field(None)  # a Python package that carries the weights as GGUF
    path: str | None = runtime_field(None)  # a local folder, before all others
    dtype: str = "auto"  # auto: bfloat16 where the processor has it, else float32
    prompt: str = "base"  # chat: prompts stand in the turns of the tokenizer's chat template
    quantization: str = "none"  # nf4: the frozen linear layers in 4 bits (QLoRA), by the group `quantization`
    toy: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class DataSizeConfig:
    """How many accepted examples the adapter is tuned on: a view on the pool's first rows."""

    examples: int


@dataclass(frozen=True)
class EngineConfig:
    """What runs the model in generation and evaluation."""

    name: str


@dataclass(frozen=True)
class LoggerConfig:
    """Where curves and results are logged."""

    name: str = runtime_field()  # wandb, csv, none
    project: str = runtime_field("selfspec")
    entity: str | None = runtime_field(None)
    mode: str = runtime_field("offline")
    group: str | None = runtime_field(None)  # set by the run or the sweep


@dataclass(frozen=True)
class PathsConfig:
    """Folders on this machine. They are in no key."""

    store: str = runtime_field()
    cache: str = runtime_field()
    output: str = runtime_field()


@dataclass(frozen=True)
class ThroughputConfig:
    """Tokens a second of one device, for the hours of a plan; null: as finished runs took."""

    generated: float | None = runtime_field(None)  # completed, all rows of a batch together
    read: float | None = runtime_field(None)  # of prompts
    tuned: float | None = runtime_field(None)


@dataclass(frozen=True)
class Config:
    """One experiment."""

    domain: DomainConfig
    general: DomainConfig
    model: ModelConfig
    data_size: DataSizeConfig
    lora: LoraConfig
    generation: GenerationConfig
    retrieval: RetrievalConfig
    rounds: RoundsConfig
    engine: EngineConfig
    tuning: TuningConfig
    strategy: StrategyConfig
    evaluation: EvaluationConfig
    baselines: BaselinesConfig
    logger: LoggerConfig
    paths: PathsConfig
    throughput: ThroughputConfig
    seed: int
    plan: bool = runtime_field(False)  # show what would be done, and do nothing
    force: bool = runtime_field(False)  # go on with what this machine can't hold; typed plan.force=true
