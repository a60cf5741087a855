"""The stage `iteration`: the examples of a later round, answered by the specialized model of the one before (paper,
section 3; METHOD, Iteration). Their instructions are those of the first round, or new ones of the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfspec.config import (
    DataSizeConfig,
    DomainConfig,
    EngineConfig,
    GenerationConfig,
    ModelConfig,
    RetrievalConfig,
    RoundsConfig,
)
from selfspec.engines import Batch, Completion, Engine
from selfspec.generation import rows
from selfspec.stage import Job


def iteration(
    job: Job,
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
    from selfspec.models import load

    material = rows.Material.read(seeds, against, index, domain, retrieval)
    base, tokenizer = load.base(model, job.config.paths, job.progress)
    with load.adapted(base, adapter) as network:
        reply: Engine = TransformersEngine(network, tokenizer)
        if rounds.decoding == "contrastive":
            reply = ContrastiveEngine(network, tokenizer, rounds.contrast, rounds.plausible)
        write = _Plain(network, TransformersEngine(network, tokenizer))
        made = rows.Rows(job, domain, generation, material, model.context_length, lambda: write, lambda: reply)
        return rows.collect(made, data_size.examples)


class _Plain:
    """The base in the process of the specialized model: its adapter is off."""

    def __init__(self, network: Any, engine: Engine) -> None:
        self.network, self.engine = network, engine
        self.count = engine.count

    def complete(self, batch: Batch) -> list[Completion]:
        """The base's completions."""
        with self.network.disable_adapter():
            return self.engine.complete(batch)
