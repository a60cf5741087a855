"""Schema of an experiment: the sections of `conf/config.yaml`, and all of their classes.

The classes are frozen and typed. Hydra composes mutable copies of them (`composition.mutable_twin`), and
`composition.freeze` builds these from a composed config. A field declared with `runtime_field` is in no stage's key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from selfspec.config.domain_schema import (
    DomainConfig,
    TaskType,
)
from selfspec.config.evaluation_schema import (
    BaselinesConfig,
    BenchmarkConfig,
    EvaluationConfig,
)
from selfspec.config.fields import PositiveFloat, PositiveInt, runtime_field
from selfspec.config.generation_schema import (
    ContaminationConfig,
    FiltersConfig,
    GenerationConfig,
    InstructionsConfig,
    JudgeConfig,
    PromptsConfig,
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
    "PromptsConfig",
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
    """A base model: where its weights are, and its architecture (a plan needs no weights)."""

    context_length: PositiveInt
    architecture: dict[str, Any] = field(hash=False)  # of the transformers config, `model_type` included
    toy_architecture: dict[str, Any] = field(hash=False)  # entries of it that `toy` replaces
    name: str = runtime_field()
    licence: str = runtime_field()
    parameters: int = runtime_field()  # published count
    hub: str | None = runtime_field(None)  # repository
    revision: str | None = runtime_field(None)  # of the hub's repository; resolved to a commit before it enters a key
    package: str | None = runtime_field(None)  # Python package that contains the weights as GGUF
    path: str | None = runtime_field(None)  # local folder, used before package and hub
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # resolved before it enters a key
    is_dtype_auto: bool = runtime_field(False)  # set by the program: dtype was chosen for the machine of the run
    prompt: Literal["base", "chat"] = "base"  # chat: prompts are written with the tokenizer's chat template
    quantization: Literal["none", "nf4"] = "none"  # nf4: frozen linear layers in 4 bits (QLoRA)
    toy: bool = False  # random weights and thin layers
    trust_remote_code: bool = False
    notes: tuple[str, ...] = runtime_field(())  # to be printed; set by the program


@dataclass(frozen=True)
class DataSizeConfig:
    """How many accepted examples the adapter is tuned on: the first ones of the pool."""

    examples: PositiveInt


@dataclass(frozen=True)
class EngineConfig:
    """What runs the model in generation and evaluation."""

    name: str  # an entry of `engines.build.ENGINES`, or any name beside a _target_
    _target_: str | None = None  # an engine of the user's own: an `engines.protocol.ModelLoader`
    arguments: Any = None  # {name: value}: keyword arguments of the _target_


@dataclass(frozen=True)
class LoggerConfig:
    """Where curves and results are logged."""

    name: Literal["wandb", "csv", "tensorboard", "mlflow", "none"] = runtime_field("none")
    project: str = runtime_field("selfspec")  # of W&B; the experiment of MLflow
    entity: str | None = runtime_field(None)  # of W&B
    mode: Literal["offline", "online"] = runtime_field("offline")  # of W&B
    group: str | None = runtime_field(None)  # null: the sweep, or the folder of the run
    run_name: str | None = runtime_field(None)  # the name of each run begins with it
    tags: tuple[str, ...] = runtime_field(())  # beside the job's choices
    log_adapter: bool = runtime_field(False)  # W&B: the adapter is an artifact of the result's run
    _target_: str | None = runtime_field(None)  # a Lightning logger of the user's own, instead of `name`
    arguments: Any = runtime_field(None)  # of `_target_`: {name: value}
    job_overrides: tuple[str, ...] = runtime_field(())  # set by a sweep: what tells its jobs apart


@dataclass(frozen=True)
class PathsConfig:
    """Folders on this machine."""

    store: str = runtime_field()
    cache: str = runtime_field()
    output: str = runtime_field()


@dataclass(frozen=True)
class ThroughputConfig:
    """Tokens per second of one device, for the hours in a plan; null: as measured in finished runs."""

    generated: PositiveFloat | None = runtime_field(None)  # new tokens of all rows in a batch
    read: PositiveFloat | None = runtime_field(None)  # tokens of prompts
    tuned: PositiveFloat | None = runtime_field(None)


@dataclass(frozen=True)
class Config:
    """One experiment."""

    domain: DomainConfig
    general: DomainConfig  # of the generic baseline and the off-domain scores
    model: ModelConfig
    data_size: DataSizeConfig
    lora: LoraConfig
    prompts: PromptsConfig
    generation: GenerationConfig
    retrieval: RetrievalConfig
    rounds: RoundsConfig
    engine: EngineConfig
    objective: dict[str, Any]  # {name: imitation}, or {_target_: package.module.Class, argument: value}
    tuning: TuningConfig
    strategy: StrategyConfig
    evaluation: EvaluationConfig
    baselines: BaselinesConfig
    logger: LoggerConfig
    paths: PathsConfig
    throughput: ThroughputConfig
    seed: Annotated[int, Ge(0), Le(2**63 - 1)]  # numpy and torch take no larger one
    trainer: dict[str, Any] = field(default_factory=dict)  # options of Lightning's Trainer
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"runtime": True})  # of Lightning
    plan: bool = runtime_field(False)  # show what would be done, and do nothing
    force: bool = runtime_field(False)  # run despite the memory check; typed as plan.force=true
