"""The schema of an experiment: what `conf/` may say.

The classes below are what the code reads: frozen and typed. Hydra needs mutable ones, so `register` hands it
mutable twins with the same fields, and `freeze` turns a composed config into the frozen form (see `door`).

A field made by `runtime` can't change a result (a path, a device, a limit on attempts): it is in no stage's key.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


def runtime_field(default: Any = dataclasses.MISSING) -> Any:
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
    seeds: str = runtime_field()  # JSONL; counts by its sha256
    evaluation: str = runtime_field()  # JSONL; counts by its sha256
    corpus: str | None = runtime_field(None)  # for retrieval: unlabelled text
    topics: tuple[str, ...] = ()  # what the model is asked to write about, in equal shares
    seed_count: int | None = None  # how many seeds a model is shown, a fixed subset; the held-out ones stay


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
class LoraConfig:
    """Low-rank adaptation of the base model's linear layers."""

    r: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]  # [all-linear], or names of modules: [q_proj, v_proj]
    rslora: bool = False  # scale = alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732), for high ranks
    dora: bool = False  # magnitude and direction apart (Liu et al. 2024, arXiv 2402.09353)
    # Further keywords of PEFT's LoraConfig.
    extra: dict[str, Any] = field(default_factory=dict, hash=False, metadata={"key_default": {}})


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
    duplicate: bool
    novelty: bool
    novelty_threshold: float
    contamination: bool
    answer: bool
    self_consistency: bool
    judge: bool
    balance: bool


@dataclass(frozen=True)
class ContaminationConfig:
    """What synthetic inputs may not overlap with."""

    against: tuple[str, ...] = runtime_field()  # files of evaluation questions; they count by their sha256
    words: int = 8  # in a row that both have; METHOD looks at 8 and 13


@dataclass(frozen=True)
class SelfConsistencyConfig:
    """Closed labels are answered again and again; the majority's answer stands."""

    samples: int
    majority: float  # the least share of the samples
    temperature: float


@dataclass(frozen=True)
class JudgeConfig:
    """The base model judges its own answers by the log-probability of YES against NO, calibrated on seeds."""

    shots: int
    least_auc: float  # on seeds against corrupted seeds; under it nothing is dropped
    batch_size: int


@dataclass(frozen=True)
class GenerationConfig:
    """Synthetic data: instructions, responses, filters."""

    instructions: InstructionsConfig
    responses: ResponsesConfig
    filters: FiltersConfig
    contamination: ContaminationConfig
    self_consistency: SelfConsistencyConfig
    judge: JudgeConfig
    demonstrations: str  # own_type: seeds of the asked task types come first; random
    max_attempts: int = runtime_field()


@dataclass(frozen=True)
class RetrievalConfig:
    """Passages of an unlabelled corpus that the response prompt shows."""

    name: str  # none, bm25
    corpus: str | None = runtime_field(None)  # embedded name, folder or file, hub dataset; counts by its identity
    config: str | None = None  # of a hub dataset
    split: str | None = None  # of a hub dataset
    revision: str | None = None  # of a hub dataset
    text_field: str | None = None  # of .jsonl and .parquet files, and hub datasets
    limit: int | None = None  # only the first documents
    passage_words: int = 100  # a longer document is cut
    passages: int = 5  # shown to the model


@dataclass(frozen=True)
class RoundsConfig:
    """Rounds of self-specialization: the specialized model answers, the base is tuned again."""

    count: int = runtime_field()
    instructions: str = "same"  # same, new
    decoding: str = "plain"  # plain, contrastive
    contrast: float = 0.5  # weight of the amateur's log-probability
    plausible: float = 0.1  # least probability of a token, as a share of the expert's likeliest


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
    keep: str  # best: the adapter after the epoch with the least loss on held-out seeds; last: after the last epoch
    patience: int | None  # epochs without a lower loss on held-out seeds after which tuning stops; null: never
    micro_batch_tokens: int = runtime_field()
    activation_checkpointing: bool = runtime_field()  # compute a layer's activations again in the backward pass
    checkpoint_minutes: float = runtime_field()


@dataclass(frozen=True)
class StrategyConfig:
    """Over which processes the adapter is tuned, a device each."""

    name: str = runtime_field()  # auto, ddp, fsdp, deepspeed_zero2, deepspeed_zero3, deepspeed_zero3_offload
    cpu_offload: bool = runtime_field(False)  # fsdp: the shards wait in the machine's memory


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
    objective: dict[str, Any]  # {name: imitation}, or {_target_: package.module.Class, argument: value}
    tuning: TuningConfig
    strategy: StrategyConfig
    evaluation: EvaluationConfig
    baselines: BaselinesConfig
    logger: LoggerConfig
    paths: PathsConfig
    throughput: ThroughputConfig
    seed: int
    trainer: dict[str, Any] = field(default_factory=dict)  # options of Lightning's Trainer
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"runtime": True})  # of Lightning
    plan: bool = runtime_field(False)  # show what would be done, and do nothing
    force: bool = runtime_field(False)  # go on with what this machine can't hold; typed plan.force=true
