"""Instruction generation (paper, figure 2): from seeds in context, the base model writes tasks with their inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

from selfspec import prompts
from selfspec.config import DomainConfig, InstructionsConfig
from selfspec.engines import Batch, Sampling
from selfspec.generation import BLOCK, Pool
from selfspec.records import Seed


def block(
    pool: Pool, number: int, config: InstructionsConfig, domain: DomainConfig, shown: list[Seed]
) -> list[dict[str, Any]]:
    """Raw attempts of one block: text, whether it ended by itself, the seeds its prompt showed."""

    def write(place: int, count: int) -> list[dict[str, Any]]:
        chance, sampler_seed = pool.random(number, place)
        shots = chance.sample(shown, config.shots)  # one draw a batch: its rows share the prompt
        sampling = Sampling(config.max_new_tokens, config.temperature, config.top_p, sampler_seed)
        items = (prompts.list_item(config.shots),) * count
        batch = Batch(prompts.list_prefix(domain, shots), items, sampling, prompts.LIST_STOP)
        facts = {"seeds": [seed.id for seed in shots], "sampler_seed": sampler_seed}
        return [{"text": c.text, "finished": c.finished, **facts} for c in pool.engine().complete(batch)]

    sizes = [min(config.batch_size, BLOCK - start) for start in range(0, BLOCK, config.batch_size)]
    return pool.block(number, [partial(write, place, size) for place, size in enumerate(sizes)], BLOCK)
