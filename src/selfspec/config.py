"""The schema of an experiment: what `conf/` may say.

The classes below are what the code reads: frozen and typed. Hydra needs mutable ones, so `register` hands it
mutable twins with the same fields, and `freeze` turns a composed config into the frozen form (see `door`).

A field made by `runtime` can't change a result (a path, a device, a limit on attempts): it is in no stage's key.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any

import dacite
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf


def runtime(default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that can't change what a stage makes, and so stays out of its key."""
    return field(default=default, metadata={"runtime": True})


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
    seeds: str = runtime()  # JSONL; counts by its sha256
    evaluation: str = runtime()  # JSONL; counts by its sha256
    topics: tuple[str, ...] = ()  # what the model is asked to write about, in equal shares


@dataclass(frozen=True)
class ModelConfig:
    """A base model: where its weights are, and its architecture's numbers (so that a plan needs no weights)."""

    context_length: int
    architecture: dict[str, Any]  # transformers config, `model_type` included
    toy_architecture: dict[str, Any]  # what `toy` changes of it
    name: str = runtime()
    licence: str = runtime()
    parameters: int = runtime()  # published count
    hub: str | None = runtime(None)
    revision: str | None = runtime(None)
    package: str | None = runtime(None)  # a Python package that carries the weights as GGUF
    path: str | None = runtime(None)  # a local folder, before all others
    dtype: str = "auto"  # auto: bfloat16 where the processor has it, else float32
    toy: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class DataSizeConfig:
    """How many accepted examples the adapter is tuned on: a view on the pool's first rows."""

    examples: int


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation of the base model's linear layers."""

    r: int
    alpha: int
    dropout: float
    target_modules: str  # all-linear, or a regular expression over module names (PEFT's rule)


@dataclass(frozen=True)
class InstructionsConfig:
    """How the base model writes instructions with their inputs."""

    shots: int
    temperature: float
    top_p: float
    instruction_tokens: int  # the longest instruction
    input_tokens: int  # the longest input
    batch_size: int  # attempts that share one draw of seeds


@dataclass(frozen=True)
class ResponsesConfig:
    """How the base model answers them (greedy)."""

    shots: int
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class FiltersConfig:
    """Which filters drop rows. One switched off lets every row through."""

    form: bool
    echo: bool
    novelty: bool
    novelty_threshold: float
    answer: bool


@dataclass(frozen=True)
class GenerationConfig:
    """Synthetic data: instructions, responses, filters."""

    instructions: InstructionsConfig
    responses: ResponsesConfig
    filters: FiltersConfig
    max_attempts: int = runtime()


@dataclass(frozen=True)
class EngineConfig:
    """What runs the model in generation and evaluation."""

    name: str


@dataclass(frozen=True)
class TuningConfig:
    """How the adapter is tuned."""

    learning_rate: float
    epochs: int
    batch_size: int | None  # examples an optimizer step; null: 8 up to 500 examples, else 32
    schedule: str  # constant, linear, cosine
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    max_length: int  # tokens of one example; longer ones are left out, and counted
    micro_batch_tokens: int = runtime()
    checkpoint_minutes: float = runtime()


@dataclass(frozen=True)
class StrategyConfig:
    """Over which devices the adapter is tuned."""

    name: str = runtime()


@dataclass(frozen=True)
class EvaluationConfig:
    """On what, and with how many shots, models are scored."""

    name: str
    shots: tuple[int, ...]
    limit: int | None  # only the first questions of each task type, for trying things out
    batch_size: int
    resamples: int = runtime()  # of the bootstrap, in the report


@dataclass(frozen=True)
class BaselinesConfig:
    """What the specialized model is held against, beside its base."""

    seeds_only: bool


@dataclass(frozen=True)
class LoggerConfig:
    """Where curves and results are logged."""

    name: str = runtime()  # wandb, csv, none
    project: str = runtime("selfspec")
    entity: str | None = runtime(None)
    mode: str = runtime("offline")
    group: str | None = runtime(None)  # set by the run or the sweep


@dataclass(frozen=True)
class PathsConfig:
    """Folders on this machine. They are in no key."""

    store: str = runtime()
    cache: str = runtime()
    output: str = runtime()


@dataclass(frozen=True)
class Config:
    """One experiment."""

    domain: DomainConfig
    model: ModelConfig
    data_size: DataSizeConfig
    lora: LoraConfig
    generation: GenerationConfig
    engine: EngineConfig
    tuning: TuningConfig
    strategy: StrategyConfig
    evaluation: EvaluationConfig
    baselines: BaselinesConfig
    logger: LoggerConfig
    paths: PathsConfig
    seed: int
    plan: bool = runtime(False)  # show what would be done, and do nothing


def mutable_twin(cls: type) -> type:
    """A mutable dataclass with the fields of the frozen `cls`, nested ones included (Hydra refuses frozen ones)."""
    hints = typing.get_type_hints(cls)
    fields = []
    for item in dataclasses.fields(cls):
        default = MISSING if item.default is dataclasses.MISSING else item.default
        fields.append((item.name, _twin_annotation(hints[item.name]), field(default=default)))
    return dataclasses.make_dataclass(cls.__name__, fields)


def _twin_annotation(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return mutable_twin(typing.cast(type, hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return typing.Optional[arguments[0]]  # noqa: UP045 (`X | None` is the only union in the schema)
    if origin is dict:
        return types.GenericAlias(dict, (arguments[0], _twin_annotation(arguments[1])))
    return hint


def register() -> None:
    """Put the schema where Hydra finds it: `config.yaml` and every group's options are checked against it."""
    ConfigStore.instance().store(name="schema", node=mutable_twin(Config))


def freeze(config: DictConfig) -> Config:
    """The frozen, typed copy of a composed and resolved config."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return dacite.from_dict(Config, typing.cast(dict[str, Any], plain), dacite.Config(cast=[tuple], strict=True))


def keyed(value: Any) -> Any:
    """`value` as plain data, without its runtime fields: what enters a stage's key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [item for item in dataclasses.fields(value) if not item.metadata.get("runtime")]
        return {item.name: keyed(getattr(value, item.name)) for item in fields}
    if isinstance(value, dict):
        return {name: keyed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(item) for item in value]
    return value
