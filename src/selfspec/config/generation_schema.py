"""Schema of the groups `generation`, `retrieval` and `rounds`."""

from __future__ import annotations

from dataclasses import dataclass

from selfspec.config.fields import runtime_field


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
