"""The stage `iteration`: the examples of a later round, answered by the specialized model of the one before (paper,
section 3; METHOD, Iteration). Their instructions are those of the first round, or new ones of the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfspec.config.schema import (
    DataSizeConfig,
    DomainConfig,
    EngineConfig,
    GenerationConfig,
    ModelConfig,
    RetrievalConfig,
    RoundsConfig,
)
from selfspec.engines.protocol import Completion, Engine, PromptBatch
from selfspec.generation.candidates import CandidateRows, GenerationInputs
from selfspec.generation.funnel import collect_examples
from selfspec.runtime.context import StageContext


def round_examples(
    job: StageContext,
    seeds: Path,
    against: tuple[Path, ...],
    adapter: Path,
    index: Path | None = None,
    *,
    domain: DomainConfig,
    model: ModelConfig,
    data_size: DataSizeConfig,
    generation: GenerationConfig,
    retrieval: RetrievalConfig,
    rounds: RoundsConfig,
    engine: EngineConfig,
    seed: int,
) -> dict[str, Any]:
    """As `examples`, with answers of base and adapter together.

    Raises:
        UserError: `generation.max_attempts` was reached first; what was made is kept.
    """
    from selfspec.engines.contrastive import ContrastiveEngine
    from selfspec.engines.transformers import TransformersEngine
    from selfspec.models.load import load_base, with_adapter

    material = GenerationInputs.read(seeds, against, index, domain, retrieval)
    base, tokenizer = load_base(model, job.config.paths, job.progress)
    with with_adapter(base, adapter) as network:
        reply: Engine = TransformersEngine(network, tokenizer)
        if rounds.decoding == "contrastive":
            reply = ContrastiveEngine(network, tokenizer, rounds.contrast, rounds.plausible)
        write = _BaseEngine(network, TransformersEngine(network, tokenizer))
        made = CandidateRows(job, domain, generation, material, model.context_length, lambda: write, lambda: reply)
        return collect_examples(made, data_size.examples)


class _BaseEngine:
    """The base in the process of the specialized model: its adapter is off."""

    def __init__(self, network: Any, engine: Engine) -> None:
        self.network, self.engine = network, engine
        self.count = engine.count

    def complete(self, batch: PromptBatch) -> list[Completion]:
        """The base's completions."""
        with self.network.disable_adapter():
            return self.engine.complete(batch)
