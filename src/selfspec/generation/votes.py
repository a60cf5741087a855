"""Self-consistency (METHOD, beyond the paper): closed tasks are answered again, sampled, several times."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from selfspec import prompts
from selfspec.engines import Batch, Sampling
from selfspec.generation import Pool, batched, demonstrations
from selfspec.generation.responses import MARGIN, Answering, fitting
from selfspec.prompts import Draft

TOKENS = 24  # more than any label has


def block(pool: Pool, number: int, drafts: Sequence[tuple[int, Draft]], answering: Answering) -> dict[int, list[str]]:
    """Sampled answers to one block's closed drafts, by the attempt's place in its block."""
    config, settings = answering.generation.self_consistency, answering.generation.responses

    def sample(place: int, some: Sequence[tuple[int, Draft]]) -> list[dict[str, Any]]:
        _, sampler_seed = pool.random(number, place)
        like = answering.type_shown(some)
        chance = Random(f"{pool.key}/{number}/{like}")  # batches of a type share their prompt, and so its cache
        prefix = prompts.prefix(answering.domain.role, demonstrations(answering.shown, like, settings.shots, chance))
        room = answering.context - TOKENS - pool.engine().count(prefix) - MARGIN
        read = [fitting(pool.engine(), draft, answering.find(draft), room)[0] for _, draft in some]
        items = tuple(item for item in read for _ in range(config.samples))
        sampling = Sampling(TOKENS, config.temperature, seed=sampler_seed)
        batch = Batch(prefix, items, sampling, prompts.STOP, closed=(True,) * len(items))
        texts = [completion.text for completion in pool.engine().complete(batch)]
        return [
            {"place": attempt, "samples": texts[n * config.samples : (n + 1) * config.samples]}
            for n, (attempt, _) in enumerate(some)
        ]

    size = max(1, settings.batch_size // config.samples)
    groups = batched(drafts, lambda pair: answering.type_shown([pair]), size)
    return {row["place"]: row["samples"] for row in pool.block(number, groups, sample)}
