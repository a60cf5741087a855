"""The stage `examples`: block by block, until enough rows have passed everything (paper, section 3.1)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from selfspec.config.schema import (
    DataSizeConfig,
    DomainConfig,
    EngineConfig,
    GenerationConfig,
    ModelConfig,
    RetrievalConfig,
)
from selfspec.engines.protocol import Engine
from selfspec.generation.candidates import CandidateRows, GenerationInputs
from selfspec.generation.funnel import collect_examples
from selfspec.runtime.context import StageContext


def examples(
    job: StageContext,
    seeds: Path,
    against: tuple[Path, ...],
    index: Path | None = None,
    *,
    domain: DomainConfig,
    model: ModelConfig,
    data_size: DataSizeConfig,
    generation: GenerationConfig,
    retrieval: RetrievalConfig,
    engine: EngineConfig,
    seed: int,
) -> dict[str, Any]:
    """The first `data_size.examples` rows that passed every filter, and every row with its verdicts.

    Raises:
        UserError: `generation.max_attempts` was reached first; what was made is kept.
    """

    @cache
    def base() -> Engine:
        from selfspec.engines.transformers import TransformersEngine
        from selfspec.models.load import load_base

        return TransformersEngine(*load_base(model, job.config.paths, job.progress))

    material = GenerationInputs.read(seeds, against, index, domain, retrieval)
    made = CandidateRows(job, domain, generation, material, model.context_length, base, base)
    return collect_examples(made, data_size.examples)
