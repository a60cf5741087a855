"""The stage `examples`: block by block, until enough candidates have passed every filter (paper, section 3.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfspec.config.schema import (
    DataSizeConfig,
    DomainConfig,
    EngineConfig,
    GenerationConfig,
    ModelConfig,
    PromptsConfig,
    RetrievalConfig,
)
from selfspec.engines.build import lazy_model
from selfspec.engines.protocol import Engine
from selfspec.generation.candidates import CandidateRows, GenerationInputs
from selfspec.generation.funnel import collect_examples
from selfspec.prompts.templates import PromptRenderer
from selfspec.runtime.context import StageContext
from selfspec.runtime.stage import stage


@stage(
    version=8,
    sections=("domain", "model", "data_size", "prompts", "generation", "retrieval", "engine", "seed"),
    inputs=("seeds", "against", "index"),
    distributed=True,
)
def examples(
    context: StageContext,
    seeds: Path,
    against: tuple[Path, ...],
    index: Path | None = None,
    *,
    domain: DomainConfig,
    model: ModelConfig,
    data_size: DataSizeConfig,
    prompts: PromptsConfig,
    generation: GenerationConfig,
    retrieval: RetrievalConfig,
    engine: EngineConfig,
    seed: int,
) -> dict[str, Any]:
    """The first `data_size.examples` candidates that passed every filter, and every candidate with its verdicts.

    Raises:
        UserError: `generation.max_attempts` was reached first; the finished blocks are kept.
    """
    generation_inputs = GenerationInputs.read(seeds, against, index, domain, retrieval)
    with lazy_model(engine, model, context.config.paths, context.progress) as loaded:

        def base() -> Engine:
            return loaded().base()

        candidates = CandidateRows(
            context,
            domain,
            generation,
            generation_inputs,
            model.context_length,
            base,
            base,
            PromptRenderer(prompts),
            seed,
        )
        return collect_examples(candidates, data_size.examples)
