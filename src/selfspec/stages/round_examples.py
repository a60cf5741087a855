"""The stage `round_examples`: examples of a later round, answered by the specialized model of the round before (paper,
section 3; docs/method.md). Their instructions are those of the first round, or new ones of the base."""

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
    RoundsConfig,
)
from selfspec.engines.build import lazy_model
from selfspec.engines.protocol import Engine
from selfspec.generation.candidates import CandidateRows, GenerationInputs
from selfspec.generation.funnel import collect_examples
from selfspec.prompts.templates import PromptRenderer
from selfspec.runtime.context import StageContext
from selfspec.runtime.stage import stage


@stage(
    version=7,
    sections=("domain", "model", "data_size", "prompts", "generation", "retrieval", "rounds", "engine", "seed"),
    inputs=("seeds", "against", "adapter", "index"),
    distributed=True,
    resources="examples",
)
def round_examples(
    context: StageContext,
    seeds: Path,
    against: tuple[Path, ...],
    adapter: Path,
    index: Path | None = None,
    *,
    domain: DomainConfig,
    model: ModelConfig,
    data_size: DataSizeConfig,
    prompts: PromptsConfig,
    generation: GenerationConfig,
    retrieval: RetrievalConfig,
    rounds: RoundsConfig,
    engine: EngineConfig,
    seed: int,
) -> dict[str, Any]:
    """As `examples`, with responses of the specialized model.

    Raises:
        UserError: `generation.max_attempts` was reached first; the finished blocks are kept.
    """
    generation_inputs = GenerationInputs.read(seeds, against, index, domain, retrieval)
    with lazy_model(engine, model, context.config.paths, context.progress, adapter) as loaded:

        def base() -> Engine:
            return loaded().base()

        def specialized() -> Engine:
            if rounds.decoding == "contrastive":
                return loaded().contrastive(rounds.contrast, rounds.plausible)
            return loaded().specialized()

        renderer, length = PromptRenderer(prompts), model.context_length
        candidates = CandidateRows(
            context, domain, generation, generation_inputs, length, base, specialized, renderer, seed
        )
        return collect_examples(candidates, data_size.examples)
